"""Search in an index: which entries, in which order, how many of each kind; and one entry in full.

Words are looked up by FTS5; everything else (facets, lengths, order, counts) is arithmetic on columns of integers that
stay in memory, about fifty bytes an entry. The index never changes while it is open, so a page of results that begins
after an entry is the same page whenever it is asked for.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import quote

import numpy as np
import regex

from distill.core.errors import DistillError
from distill.view import index, query
from distill.view.blocks import blocks
from distill.view.entries import Question
from distill.view.maths import Renderer

Sort = Literal["order", "shortest", "longest", "problem"]
SORTS: tuple[Sort, ...] = get_args(Sort)

SEARCH_S = 2.0
"""A search that takes longer gives what it has found until then, and says so."""
REMEMBERED = 32
"""Searches whose matches are kept: paging and filters need them again."""
CONNECTIONS = 4
MOST_ROWS = 200
SHOWN_CHARACTERS = 240
AROUND = 90
"""Characters shown before and after a match."""
COUNTED = 50
"""Values of a facet that are told with every search; a reason may have thousands."""
SIBLINGS = 400
"""Other answers to the same problem that are listed."""

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Numbers = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Asked:
    """A search. `chosen` holds the wanted values by facet; lengths are in the catalog's `unit`."""

    text: str = ""
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    least: int | None = None
    most: int | None = None
    sort: Sort = "order"
    after: str = ""
    """Name of the last entry of the page before."""
    limit: int = 50


class Catalog:
    """An open index. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._pool: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        for _ in range(CONNECTIONS):
            # immutable: nobody writes it any more, and it may be removed while it is open
            self._pool.put(
                sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False)
            )
        self._matches: OrderedDict[str, tuple[Flags, bool]] = OrderedDict()
        self._lock = threading.Lock()
        self._renderer = Renderer()
        with self._connection() as db:
            about = json.loads(db.execute("SELECT value FROM meta WHERE name = 'about'").fetchone()[0])
            numbers = {name: np.frombuffer(data, np.int32) for name, data in db.execute("SELECT * FROM numbers")}
        self.title: str = about["title"]
        self.token: str = about["token"]
        self.count: int = about["count"]
        self.facets: dict[str, dict[str, Any]] = {facet["name"]: facet for facet in about["facets"]}
        self._codes = {name: numbers[f"facet:{name}"] for name in self.facets}
        self._value_codes = {
            name: {value: code for code, value in enumerate(facet["values"])} for name, facet in self.facets.items()
        }
        self._problems = numbers["problem"]
        known = bool((numbers["tokens"] >= 0).any())
        self.unit = "tokens" if known else "characters"
        self._lengths = numbers[self.unit]

    def close(self) -> None:
        """Close the file and end the process that renders formulas."""
        self._renderer.close()
        for _ in range(CONNECTIONS):
            self._pool.get().close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        db = self._pool.get()
        try:
            yield db
        finally:
            self._pool.put(db)

    # ---- finding

    def about(self) -> dict[str, Any]:
        """What the page needs once: title, facets that tell entries apart, and the unit of lengths."""
        told = self._lengths[self._lengths >= 0]
        return {
            "title": self.title, "count": self.count, "unit": self.unit, "sorts": list(SORTS),
            "facets": [
                {"name": name, "label": facet["label"]}
                for name, facet in self.facets.items()
                if len(np.unique(self._codes[name])) > 1
            ],
            "longest": int(told.max()) if len(told) else 0,
        }  # fmt: skip

    def search(self, asked: Asked) -> dict[str, Any]:
        """One page of entries, the number of all, and how many each value of each facet would give.

        Raises DistillError for a search that cannot be understood, an unknown facet or entry.
        """
        began_s = time.perf_counter()
        words = query.parse(asked.text)
        everywhere, complete = self._with_words(words)
        everywhere &= self._of_length(asked.least, asked.most)
        wanted = {name: self._of_values(name, values) for name, values in asked.chosen.items() if values}
        found = np.logical_and.reduce([everywhere, *wanted.values()])
        order, rank = self._orders[asked.sort]
        places = order[found[order]]
        start = 0
        if asked.after:
            start = int(np.searchsorted(rank[places], rank[self._number(asked.after) - 1], "right"))
        page = places[start : start + max(1, min(asked.limit, MOST_ROWS))]
        return {
            "total": len(places), "complete": complete, "start": start, "pattern": words.pattern,
            "entries": self._rows([int(place) + 1 for place in page], words.pattern),
            "facets": self._counts(everywhere, wanted), "ms": round(1000 * (time.perf_counter() - began_s), 1),
        }  # fmt: skip

    def _with_words(self, words: query.Query) -> tuple[Flags, bool]:
        flags, complete = np.ones(self.count, np.bool_), True
        if words.wanted:
            matches, whole = self._matching(words.wanted)
            flags &= matches
            complete &= whole
        if words.unwanted:
            matches, whole = self._matching(words.unwanted)
            flags &= ~matches
            complete &= whole
        return flags, complete

    def _matching(self, expression: str) -> tuple[Flags, bool]:
        """Which entries match an FTS5 expression, and whether all were looked at in time."""
        with self._lock:
            if expression in self._matches:
                self._matches.move_to_end(expression)
                return self._matches[expression]
        flags, complete = np.zeros(self.count, np.bool_), True
        due_s = time.monotonic() + SEARCH_S
        with self._connection() as db:
            db.set_progress_handler(lambda: time.monotonic() > due_s, 500)  # asked every hundred matches or so
            try:
                rows = db.execute("SELECT rowid FROM words WHERE words MATCH ?", (expression,))
                while numbers := rows.fetchmany(10_000):
                    flags[np.fromiter((number for (number,) in numbers), np.int64, len(numbers)) - 1] = True
            except sqlite3.OperationalError as error:
                if "interrupted" not in str(error):
                    raise
                complete = False
            finally:
                db.set_progress_handler(None, 0)
        with self._lock:
            if complete:
                self._matches[expression] = flags, complete
            while len(self._matches) > REMEMBERED:
                self._matches.popitem(last=False)
        return flags, complete

    def _of_length(self, least: int | None, most: int | None) -> Flags:
        flags = np.ones(self.count, np.bool_)
        if least is not None:
            flags &= self._lengths >= max(least, 0)
        if most is not None:
            flags &= (self._lengths <= most) & (self._lengths >= 0)
        return flags

    def _of_values(self, name: str, values: Sequence[str]) -> Flags:
        if name not in self.facets:
            raise DistillError(f"view: no facet `{name}`; there are {', '.join(self.facets)}")
        codes = [self._value_codes[name][value] for value in values if value in self._value_codes[name]]
        return np.isin(self._codes[name], codes)

    def _counts(self, everywhere: Flags, wanted: Mapping[str, Flags]) -> dict[str, dict[str, Any]]:
        """By facet, how many entries each value would give if it were chosen: the other facets' choices hold. Values
        that give some, the most frequent first, and how many rarer ones there are.
        """
        both = np.logical_and.reduce([everywhere, *wanted.values()])
        counts = {}
        for name, facet in self.facets.items():
            others = [flags for other, flags in wanted.items() if other != name]
            among = np.logical_and.reduce([everywhere, *others]) if name in wanted else both
            by_code = np.bincount(self._codes[name][among], minlength=len(facet["values"]))
            codes = np.flatnonzero(by_code)
            often = codes[np.argsort(-by_code[codes], kind="stable")][:COUNTED]
            values = [(facet["values"][code], int(by_code[code])) for code in often]
            counts[name] = {"values": values, "rarer": len(codes) - len(often)}
        return counts

    @cached_property
    def _orders(self) -> dict[Sort, tuple[Numbers, Numbers]]:
        """By sort, places in order, and the rank of each place."""
        natural = np.arange(self.count, dtype=np.int32)
        unknown = self._lengths < 0
        orders: dict[Sort, Any] = {
            "order": natural,
            "shortest": np.lexsort((natural, self._lengths, unknown)),
            "longest": np.lexsort((natural, -self._lengths, unknown)),
            "problem": np.lexsort((natural, self._problems)),
        }
        ranked = {}
        for name, order in orders.items():
            rank = np.empty(self.count, np.int32)
            rank[order] = natural
            ranked[name] = order.astype(np.int32), rank
        return ranked

    # ---- showing

    def _number(self, name: str) -> int:
        with self._connection() as db:
            row = db.execute("SELECT number FROM entry WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise DistillError(f"view: no entry `{name[:40]}` in this index; it may be of another run")
        return int(row[0])

    def _values(self, place: int) -> dict[str, str]:
        """What an entry is, by facet; empty values left out."""
        values = {name: facet["values"][self._codes[name][place]] for name, facet in self.facets.items()}
        return {name: value for name, value in values.items() if value}

    def _rows(self, numbers: Sequence[int], pattern: str) -> list[dict[str, Any]]:
        finder = regex.compile(pattern, regex.IGNORECASE) if pattern else None
        with self._connection() as db:
            marks = ",".join("?" * len(numbers))
            body = "entry.body" if finder else "NULL"
            found = db.execute(
                f"SELECT entry.number, name, about, {body} FROM entry JOIN problem ON problem.number = entry.problem "
                f"WHERE entry.number IN ({marks})",
                list(numbers),
            )
            rows = {number: (name, json.loads(about), body) for number, name, about, body in found}
        shown = []
        for number in numbers:
            name, about, body = rows[number]
            length = int(self._lengths[number - 1])
            shown.append({
                "name": name, "problem": _shortened(about["text"]), "length": length if length >= 0 else None,
                "values": self._values(number - 1),
                "snippet": _snippet(finder, about["text"], body) if finder else None,
            })  # fmt: skip
        return shown

    def entry(self, name: str) -> dict[str, Any]:
        """One entry: its problem, its answer, what is known of it, and the other answers to the same problem."""
        number = self._number(name)
        with self._connection() as db:
            problem, body, notes = db.execute(
                "SELECT problem, body, notes FROM entry WHERE number = ?", (number,)
            ).fetchone()
            about = json.loads(db.execute("SELECT about FROM problem WHERE number = ?", (problem,)).fetchone()[0])
            siblings = db.execute(
                "SELECT number, name FROM entry WHERE problem = ? ORDER BY number LIMIT ?", (problem, SIBLINGS)
            ).fetchall()
        question = Question(**about)
        thinking, answer, _ = index.unpacked(body)
        values = self._values(number - 1)
        length = int(self._lengths[number - 1])
        return {
            "name": name, "values": values, "length": length if length >= 0 else None,
            "problem": {
                "id": question.id, "gold": self._gold(question.gold), "blocks": self._blocks(question.text),
            },
            "thinking": None if thinking is None else len(thinking), "answer": self._blocks(answer),
            "notes": json.loads(notes),
            "answers": [{"name": other, "values": self._values(place - 1)} for place, other in siblings],
        }  # fmt: skip

    def thinking(self, name: str) -> dict[str, Any]:
        """The thinking of an entry."""
        return {"name": name, "blocks": self._blocks(self._texts(name)[0] or "")}

    def raw(self, name: str) -> dict[str, Any]:
        """The completion of an entry as the engine gave it, marks and all (empty where the record kept none), and its
        thinking and answer as plain text.
        """
        thinking, answer, raw = self._texts(name)
        return {"name": name, "text": raw, "parts": f"{thinking}\n\n{answer}" if thinking else answer}

    def _texts(self, name: str) -> tuple[str | None, str, str]:
        number = self._number(name)
        with self._connection() as db:
            body = db.execute("SELECT body FROM entry WHERE number = ?", (number,)).fetchone()[0]
        return index.unpacked(body)

    def _gold(self, gold: str | None) -> dict[str, Any] | None:
        """A gold answer as a part: as maths where it is LaTeX, which golds are without dollars around them."""
        if gold is None or "\\" not in gold:
            return None if gold is None else {"text": gold}
        return {"math": gold, "display": False, "tree": self._renderer.render([(gold, False)])[0]}

    def _blocks(self, text: str) -> list[dict[str, Any]]:
        return blocks(text, self._renderer.render)


def _shortened(text: str) -> str:
    line = " ".join(text[: 2 * SHOWN_CHARACTERS].split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _snippet(finder: regex.Pattern[str], problem: str, body: bytes) -> dict[str, str] | None:
    """The first match with what stands around it, and where; None if it needs no showing or is spelt with accents."""
    thinking, answer, _ = index.unpacked(body)
    for where, text in (("answer", answer), ("thinking", thinking or ""), ("problem", problem)):
        if (match := finder.search(text)) is not None:
            if where == "problem" and match.end() <= AROUND:
                return None  # it is in the lines that stand for the entry anyhow
            start, end = max(0, match.start() - AROUND), min(len(text), match.end() + AROUND)
            around = " ".join(text[start:end].split())
            return {"where": where, "text": ("…" if start else "") + around + ("…" if end < len(text) else "")}
    return None
