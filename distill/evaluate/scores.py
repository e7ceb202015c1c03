"""One line an evaluated answer: which model and problem, which verdict, how long. What comparisons and plots read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.core import tables
from distill.core.records import FinishReason, Problem, Sample, Verdict, VerdictValue

Outcome = str
"""`correct`, `wrong`, `truncated`, `unfinished`, `no answer`, `ungradable` or `error`; see `outcome`."""

OUTCOMES: tuple[Outcome, ...] = ("correct", "wrong", "truncated", "unfinished", "no answer", "ungradable", "error")

FILE = "scores.parquet"


@dataclass(frozen=True)
class Score:
    """The verdict on one answer of one model. `model` is its name in the experiment (`student`), not its hash.

    `thinking_tokens` is None where reasoning is hidden and its length was not told.
    """

    model: str
    problem_id: str
    index: int
    sample_key: str
    value: VerdictValue
    outcome: Outcome
    finish_reason: FinishReason
    thinking_tokens: int | None
    completion_tokens: int
    level: str
    domain: str


def score(model: str, problem: Problem, sample: Sample, verdict: Verdict) -> Score:
    """The line of one answer. Raises ValueError if the three do not belong together."""
    if sample.problem_id != problem.id or verdict.sample_key != sample.key:
        raise ValueError(f"{model}: sample {sample.key[:12]} and its problem or verdict do not belong together")
    return Score(
        model, problem.id, sample.index, sample.key, verdict.value, outcome(sample, verdict), sample.finish_reason,
        thinking_tokens(sample), sample.completion_tokens, problem.level, problem.domain,
    )  # fmt: skip


def outcome(sample: Sample, verdict: Verdict) -> Outcome:
    """The verdict, with `unparseable` told apart: cut at the limit, thinking never ended, or no answer to be found."""
    if verdict.value != "unparseable":
        return verdict.value
    if sample.finish_reason == "length":
        return "truncated"
    return "no answer" if sample.closed else "unfinished"


def thinking_tokens(sample: Sample) -> int | None:
    """Tokens spent on thinking: 0 for an answer without any, None where nobody told."""
    if sample.reasoning_tokens is not None:
        return sample.reasoning_tokens
    return 0 if sample.reasoning is None and sample.reasoning_kind in ("full", "none") else None


def verdicts_by_item(scores: Iterable[Score]) -> dict[str, list[VerdictValue]]:
    """Verdicts of each problem, in the order met: what `metrics.pass_rate` takes."""
    items: dict[str, list[VerdictValue]] = {}
    for line in scores:
        items.setdefault(line.problem_id, []).append(line.value)
    return items


def by_model(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Scores of each model, in the order met."""
    models: dict[str, list[Score]] = {}
    for line in scores:
        models.setdefault(line.model, []).append(line)
    return models


def lengths_by_item(scores: Iterable[Score], *, thinking: bool) -> Mapping[str, Sequence[float]]:
    """Thinking tokens, or all completion tokens, of each problem's answers; failed requests and unknowns left out."""
    items: dict[str, list[float]] = {}
    for line in scores:
        length = line.thinking_tokens if thinking else line.completion_tokens
        if line.finish_reason != "error" and length is not None:
            items.setdefault(line.problem_id, []).append(float(length))
    return items


def read(folder: Path) -> list[Score]:
    """The scores that an evaluate stage wrote into `folder`."""
    return tables.read(folder / FILE, Score)


def write(folder: Path, scores: Iterable[Score]) -> int:
    """Write scores into `folder`; returns how many."""
    return tables.write(folder / FILE, scores, Score)
