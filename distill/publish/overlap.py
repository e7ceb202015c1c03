"""Whether what the student was measured on stood in what it was trained on: looked at when a run is published.

The `contamination` filter works before training, on signatures of benchmarks that somebody named. This looks at the
traces that were trained on and at the very problems that were evaluated, so that a card claims nothing unchecked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core import tables
from distill.core.records import Message, Problem
from distill.evaluate import guard, scores
from distill.evaluate.scores import Score
from distill.text import contamination
from distill.text.ngrams import words

OWN = "problems"
"""The task of the experiment's own test split."""


@dataclass(frozen=True)
class Overlap:
    """One task against the training questions. Counts are of the task's problems."""

    task: str
    items: int
    questions: int
    """Training questions that were looked at; 0: they are not here."""
    copies: int
    """Problems whose question is a training question: word for word, or nearly, with the same numbers."""
    siblings: int
    """Problems whose words are a training question's with other numbers, and no copies."""
    by_text: bool
    """False: the evaluated questions are not here, so only equal ids were looked for."""
    example: str = ""
    """Id of the first copy."""


def overlaps(folders: Mapping[str, Path], traces: Path | None, results: Mapping[str, Any] | None) -> Iterator[Overlap]:
    """One entry for each task that the student was measured on, those of the guard against forgetting too."""
    if results is None or "evaluate" not in folders:
        return
    trained = {} if traces is None else _questions(traces)
    texts, ids = _evaluated(folders), _ids(folders["evaluate"])
    guarded = (results.get("guard") or {}).get("tasks", ())
    for name in dict.fromkeys(str(task["name"]) for task in (*results.get("tasks", ()), *guarded)):
        yield compare(name, {item: texts.get(item) for item in ids.get(name, ())}, trained)


def compare(task: str, evaluated: Mapping[str, str | None], trained: Mapping[str, str]) -> Overlap:
    """Look for each evaluated question (by id, None where its text is not here) among the training questions."""
    ids = sorted(evaluated)
    texts = {name: text for name in ids if (text := evaluated[name]) and words(text)}
    same = {name for name in ids if name in trained}
    siblings: set[str] = set()
    if texts and trained:
        names = list(texts)
        index = contamination.Index([contamination.build(task, texts.values())])
        for question in dict.fromkeys(trained.values()):
            match = index.match(question)
            if match is None:
                continue
            name = names[match.item]
            if match.how == "exact" or (match.how != "numbers" and _numbers(question) == _numbers(texts[name])):
                same.add(name)
            else:
                siblings.add(name)
    return Overlap(
        task, len(ids), len(trained), len(same), len(siblings - same), by_text=len(texts) > 0 and bool(trained),
        example=min(same, default=""),
    )  # fmt: skip


def _numbers(text: str) -> list[str]:
    return sorted(word for word in words(text) if word[0].isdigit())


def _questions(path: Path) -> dict[str, str]:
    """Questions of the training traces by problem id."""
    import pyarrow.parquet as pq

    found: dict[str, str] = {}
    for batch in pq.ParquetFile(path).iter_batches(columns=["problem_id", "messages"]):
        for row in batch.to_pylist():
            if row["problem_id"] not in found:
                found[row["problem_id"]] = _asked(Message(**turn) for turn in row["messages"])
    return found


def _evaluated(folders: Mapping[str, Path]) -> dict[str, str]:
    """Questions of evaluated problems by id, as far as the run holds them."""
    found: dict[str, str] = {}
    for stage in ("problems", "evaluate"):
        path = folders[stage] / "problems.parquet" if stage in folders else None
        if path is not None and path.is_file():
            found |= {p.id: _asked(p.messages) for p in tables.stream(path, Problem) if p.split != "train"}
    return found


def _ids(evaluate: Path) -> dict[str, set[str]]:
    """Ids of the evaluated problems by task."""
    found: dict[str, set[str]] = {}
    for name in (scores.FILE, guard.FILE):
        for line in tables.stream(evaluate / name, Score) if (evaluate / name).is_file() else ():
            found.setdefault(line.task, set()).add(line.problem_id)
    return found


def _asked(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages if message.role == "user")
