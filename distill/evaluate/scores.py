"""One line an evaluated answer: which model and problem, which verdict, how long, at what price.

All that results, comparisons and plots say is computed from these lines alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.records import FinishReason, Problem, Sample, Verdict, VerdictValue
from distill.text.loops import is_loop

Outcome = str
"""`correct`, `wrong`, `truncated`, `unfinished`, `no answer`, `ungradable` or `error`; see `outcome`."""

OUTCOMES: tuple[Outcome, ...] = ("correct", "wrong", "truncated", "unfinished", "no answer", "ungradable", "error")

FILE = "scores.parquet"

NO_VOTE = -1
"""Group of an answer that has no vote: cut, unfinished, unparseable, or not there at all."""


@dataclass(frozen=True)
class Score:
    """The verdict on one answer of one model. `model` is its name in the experiment (`student`), not its hash.

    `thinking_tokens` is None where reasoning is hidden and its length was not told. `group` is the class of equal
    answers that it belongs to: the same number for two answers to one problem, of whatever model, that the problem's
    verifier takes for each other; `NO_VOTE` where there is no answer to vote with. `cost` is None where no price is
    known. `looping`: its text repeats itself (`distill.text.loops.is_loop`), whatever its verdict. `parts` is how many
    things were asked for in one answer and graded apart (instructions of IFEval), `parts_right` how many were done.
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
    task: str = "problems"
    group: int = NO_VOTE
    prompt_tokens: int = 0
    cost: float | None = None
    looping: bool = False
    parts: int = 0
    parts_right: int = 0


def score(
    model: str, problem: Problem, sample: Sample, verdict: Verdict, *, task: str = "problems", group: int = NO_VOTE
) -> Score:
    """The line of one answer. Raises ValueError if problem, sample and verdict do not belong together."""
    if sample.problem_id != problem.id or verdict.sample_key != sample.key:
        raise ValueError(f"{model}: sample {sample.key[:12]} and its problem or verdict do not belong together")
    steps = verdict.step_scores or ()
    return Score(
        model, problem.id, sample.index, sample.key, verdict.value, outcome(sample, verdict), sample.finish_reason,
        thinking_tokens(sample), sample.completion_tokens, problem.level, problem.domain, task, group,
        sample.prompt_tokens, sample.cost, is_loop(f"{sample.reasoning or ''}\n{sample.answer}"),
        len(steps), sum(step >= 1 for step in steps),
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


def by_task(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Scores of each task, in the order met."""
    tasks: dict[str, list[Score]] = {}
    for line in scores:
        tasks.setdefault(line.task, []).append(line)
    return tasks


def by_model(scores: Iterable[Score]) -> dict[str, list[Score]]:
    """Scores of each model, in the order met."""
    models: dict[str, list[Score]] = {}
    for line in scores:
        models.setdefault(line.model, []).append(line)
    return models


def parts_by_item(scores: Iterable[Score]) -> dict[str, list[VerdictValue]]:
    """The parts of each problem's answers, done or not, as verdicts: what `metrics.pass_rate` takes."""
    done: VerdictValue = "correct"
    undone: VerdictValue = "wrong"
    items: dict[str, list[VerdictValue]] = {}
    for line in scores:
        if line.parts:
            found = items.setdefault(line.problem_id, [])
            found.extend(done if part < line.parts_right else undone for part in range(line.parts))
    return items


def refuse_fewer(scores: Iterable[Score], problems: Iterable[str], samples: int) -> None:
    """Raise DistillError, naming model and problem, unless every model has so many answers to each of the problems."""
    wanted = set(problems)
    for model, lines in by_model(scores).items():
        had = {name: len(values) for name, values in verdicts_by_item(lines).items()}
        for problem in sorted(wanted | set(had)):
            if problem not in wanted or had.get(problem, 0) != samples:
                asked = samples if problem in wanted else 0
                raise DistillError(
                    f"evaluate: model `{model}` has {had.get(problem, 0)} answers to problem {problem}, where {asked} "
                    "were asked for; a rate over fewer would be another figure. Run the same command again"
                )


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
