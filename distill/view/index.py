"""The index of a run or file: one SQLite file with the texts, a full-text index, and a column of numbers for each
facet. Made once for each content, written beside its place and renamed; safe to delete at any time.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import zlib
from array import array
from contextlib import closing
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.progress import Progress
from distill.view.entries import FACETS, Entry, Question, Source
from distill.view.query import spaced

VERSION = 1
"""Of the file's layout and of what is indexed."""

HASH_BYTES = 64 << 20
"""What FTS5 gathers in memory before it writes a segment; with its own 1 MB most of the time goes into merging."""
BATCH = 512
NAME_DIGITS = 16

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE numbers (name TEXT PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE problem (number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, about TEXT NOT NULL);
CREATE TABLE entry (number INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, problem INTEGER, body BLOB NOT NULL,
                    notes TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(problem, thinking, answer, content='', tokenize='unicode61 remove_diacritics 2');
"""


def path_for(source: Source, folder: Path, name: str) -> Path:
    """Where the index of this content belongs. `name` tells the indexes of one folder apart."""
    return folder / f"{name}-{digest([VERSION, source.content])[:16]}.sqlite"


def ensure(source: Source, folder: Path, name: str) -> Path:
    """The index of a source: there already, or built now. Indexes of other contents under that name are removed.

    Raises DistillError where this Python's SQLite has no full-text search.
    """
    path = path_for(source, folder, name)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.remove_partials(folder)
        with files.atomic(path) as partial:
            partial.touch(mode=0o600)  # it holds the token that opens the page
            build(source, partial)
    for old in folder.glob(f"{name}-{'[0-9a-f]' * 16}.sqlite"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def build(source: Source, path: Path) -> None:
    """Write the index into an empty file. Memory holds a batch, FTS5's buffer, and some fifty bytes an entry."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        # No journal and no sync: what a crash leaves behind is a partial file that nobody opens.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "page_size = 8192", "cache_size = -65536"):
            db.execute(f"PRAGMA {pragma}")
        try:
            db.executescript(_TABLES)
        except sqlite3.OperationalError as error:
            raise DistillError(f"view: this Python's SQLite has no full-text search, FTS5 ({error})") from error
        db.execute("INSERT INTO words (words, rank) VALUES ('hashsize', ?)", (HASH_BYTES,))
        db.execute("BEGIN")
        _Builder(db, source).run()
        db.execute("CREATE INDEX entry_problem ON entry (problem)")
        db.execute("COMMIT")


class _Builder:
    """One build: the columns grow as the entries come."""

    def __init__(self, db: sqlite3.Connection, source: Source) -> None:
        self.db, self.source = db, source
        self.values: dict[str, dict[str, int]] = {}
        self.columns: dict[str, array[int]] = {}
        self.tokens, self.characters, self.problems = array("i"), array("i"), array("i")
        self.waiting: set[str] = set()  # names of entries that are not written yet
        self.count = 0

    def run(self) -> None:
        for found in self.source.questions():
            self._question(found)
        texts: list[tuple[int, str, str, str]] = []
        rows: list[tuple[int, str, int, bytes, str]] = []
        with Progress("index", self.source.total, "answers") as bar:
            for entry in self.source.entries():
                if entry is not None:
                    self._add(entry, texts, rows)
                if len(rows) >= BATCH:
                    self._flush(texts, rows)
                bar.advance()
            self._flush(texts, rows)
        self._meta()

    def _add(
        self, entry: Entry, texts: list[tuple[int, str, str, str]], rows: list[tuple[int, str, int, bytes, str]]
    ) -> None:
        self.count += 1
        if entry.question is not None:
            self._question(entry.question)
        number, question = self._asked(entry.problem_id)
        thinking = entry.thinking or ""
        facets = {
            "domain": question.domain, "level": question.level, "source": question.source, "split": question.split,
            **entry.facets,
        }  # fmt: skip
        self._facets(facets)
        self.tokens.append(-1 if entry.tokens is None else entry.tokens)
        self.characters.append(len(thinking) + len(entry.answer))
        self.problems.append(number)
        texts.append((self.count, spaced(question.text), spaced(thinking), spaced(entry.answer)))
        rows.append((self.count, self._name(entry), number, packed(entry), json.dumps(entry.notes)))

    def _question(self, question: Question) -> None:
        about = json.dumps(vars(question), ensure_ascii=False)
        self.db.execute("INSERT OR IGNORE INTO problem (id, about) VALUES (?, ?)", (question.id, about))

    def _asked(self, problem_id: str) -> tuple[int, Question]:
        query = "SELECT number, about FROM problem WHERE id = ?"
        row = self.db.execute(query, (problem_id,)).fetchone()
        if row is None:  # a table of samples alone: its problems are elsewhere
            self._question(Question(problem_id, ""))
            row = self.db.execute(query, (problem_id,)).fetchone()
        return row[0], Question(**json.loads(row[1]))

    def _facets(self, facets: dict[str, str]) -> None:
        for name, value in facets.items():
            if name not in self.columns:  # earlier entries have no value of this one
                self.values[name], self.columns[name] = {"": 0}, array("i", bytes(4 * (self.count - 1)))
            codes = self.values[name]
            self.columns[name].append(codes.setdefault(value, len(codes)))
        for column in self.columns.values():
            if len(column) < self.count:
                column.append(0)

    def _name(self, entry: Entry) -> str:
        """What a permanent link calls an entry: the same however often the index is made."""
        told = [entry.facets.get(name, "") for name in ("origin", "model", "task", "arm", "seed")]
        name = digest([entry.key, entry.problem_id, *told])[:NAME_DIGITS]
        taken = name in self.waiting or self.db.execute("SELECT 1 FROM entry WHERE name = ?", (name,)).fetchone()
        name = f"{name}-{self.count}" if taken else name
        self.waiting.add(name)
        return name

    def _flush(self, texts: list[Any], rows: list[Any]) -> None:
        self.db.executemany("INSERT INTO words (rowid, problem, thinking, answer) VALUES (?, ?, ?, ?)", texts)
        self.db.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", rows)
        texts.clear()
        rows.clear()
        self.waiting.clear()

    def _meta(self) -> None:
        labels = {**FACETS, **self.source.labels}
        facets: list[dict[str, Any]] = [
            {"name": name, "label": labels[name], "values": list(self.values[name])}
            for name in labels
            if name in self.values and set(self.values[name]) != {""}
        ]
        about = {"title": self.source.title, "count": self.count, "facets": facets, "token": secrets.token_urlsafe(18)}
        self.db.execute("INSERT INTO meta VALUES ('about', ?)", (json.dumps(about, ensure_ascii=False),))
        numbers = {f"facet:{facet['name']}": self.columns[facet["name"]] for facet in facets}
        numbers |= {"tokens": self.tokens, "characters": self.characters, "problem": self.problems}
        self.db.executemany("INSERT INTO numbers VALUES (?, ?)", [(n, c.tobytes()) for n, c in numbers.items()])


def packed(entry: Entry) -> bytes:
    """The texts of an entry, compressed. `raw` is kept as what stands around thinking and answer, where that is all."""
    marks: list[str] | None = None
    thinking = entry.thinking or ""
    start = entry.raw.find(thinking)
    then = entry.raw.find(entry.answer, start + len(thinking)) if start >= 0 else -1
    if then >= 0:
        marks = [entry.raw[:start], entry.raw[start + len(thinking) : then], entry.raw[then + len(entry.answer) :]]
    raw = "" if marks is not None else entry.raw
    body = [entry.thinking, entry.answer, marks, raw]
    return zlib.compress(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"), 1)


def unpacked(body: bytes) -> tuple[str | None, str, str]:
    """Thinking, answer and raw completion."""
    thinking, answer, marks, raw = json.loads(zlib.decompress(body))
    if marks is not None:
        raw = marks[0] + (thinking or "") + marks[1] + answer + marks[2]
    return thinking, answer, raw
