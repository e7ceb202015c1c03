"""What the page shows: one answer and the problem that it answers, whichever file they came from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FACETS: Mapping[str, str] = {
    "origin": "Answers",
    "model": "Model",
    "task": "Task",
    "arm": "Arm",
    "seed": "Seed",
    "verdict": "Verdict",
    "reason": "Reason of the verdict",
    "decision": "Filter",
    "why": "Reason of the filter",
    "domain": "Domain",
    "level": "Level",
    "source": "Source",
    "split": "Split",
    "finish": "Ended by",
}
"""What entries can be filtered by, with its name on the page, in the page's order. A run with several filter stages has
further ones for the later stages (`decision-2`)."""

KEPT = "kept"


@dataclass(frozen=True)
class Question:
    """A problem as it is shown. `text` holds all turns, each under its role where there are several."""

    id: str
    text: str
    gold: str | None = None
    domain: str = ""
    level: str = ""
    source: str = ""
    split: str = ""


@dataclass(frozen=True)
class Entry:
    """One answer.

    `raw` is the completion as the engine gave it, marks and all, where the record kept it. `tokens` counts the
    completion, None where nobody told. `facets` holds values by the names of `FACETS`; domain, level, source and split
    are the problem's. `notes` is what else is known, in the order shown. `question` comes with the entry where no
    table of problems does.
    """

    key: str
    problem_id: str
    thinking: str | None
    answer: str
    raw: str = ""
    tokens: int | None = None
    facets: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[tuple[str, str], ...] = ()
    question: Question | None = None


@dataclass(frozen=True)
class Source:
    """Everything that a run or a file has to show. `content` is the hash of what it is read from."""

    title: str
    content: str
    total: int
    """Rows that `entries` reads, for a progress bar; some may be the same answer and give one entry."""
    entries: Callable[[], Iterator[Entry | None]]
    """One for each row; None for a row whose answer was there already."""
    questions: Callable[[], Iterator[Question]] = lambda: iter(())
    labels: Mapping[str, str] = field(default_factory=dict)
    """Names of facets beyond `FACETS`."""


def question(problem_id: str, messages: Iterable[Mapping[str, Any]], gold: str | None, **facts: str) -> Question:
    """A problem from its turns, each with `role` and `content`."""
    turns = list(messages)
    text = turns[0]["content"] if len(turns) == 1 else "\n\n".join(f"{t['role']}: {t['content']}" for t in turns)
    return Question(problem_id, text, gold, **facts)


def notes(*facts: tuple[str, Any]) -> tuple[tuple[str, str], ...]:
    """Facts that are known, as text."""
    return tuple((name, str(value)) for name, value in facts if value not in (None, "", {}, "{}"))


def shortened(values: Sequence[str], most: int = 3) -> str:
    """A few of the values, and how many more there are."""
    more = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(values[:most]) + more
