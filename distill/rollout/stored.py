"""Stored answers, streamed or as a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from distill.core.ledger import Ledger
from distill.core.plugins import Choice
from distill.core.records import Problem, Sample, Sampling
from distill.core.stage import Workspace
from distill.rollout.asks import Ask, Plan, Teacher, Wanted, chunks
from distill.rollout.purchase import fill
from distill.text.think import THINK, Dialect

READ_ROWS = 500
"""Answers held at a time."""


def read(asks: Iterable[Ask], sampling: Sampling, teacher: Teacher, workspace: Workspace) -> Iterator[Sample]:
    """Stored answers, in order of the asks and of their indices; those that are owed are left out."""
    for _, sample in _read(Plan(asks, sampling, teacher.identity), workspace):
        yield sample


def _read(plan: Plan, workspace: Workspace) -> Iterator[tuple[Wanted, Sample]]:
    with Ledger(workspace.ledger) as ledger:
        for chunk in chunks(plan.in_order(), READ_ROWS):
            found: dict[str, Sample] = {}
            for top_logprobs, part in plan.by_logprobs(chunk):
                found |= ledger.serving([wanted.key for wanted in part], plan.sampling.max_tokens, top_logprobs)
            for wanted in chunk:
                if wanted.key in found:
                    yield wanted, found[wanted.key]


def collect(
    problems: Sequence[Problem],
    n: int,
    sampling: Sampling,
    *,
    engine: Choice,
    model: str,
    workspace: Workspace,
    label: str,
    revision: str | None = None,
    dialect: Dialect = THINK,
) -> list[Sample]:
    """`n` answers to each problem, ordered by problem and index; see `gather`."""
    asks = [Ask(problem, range(n)) for problem in problems]
    return gather(asks, sampling, Teacher(engine, model, revision, dialect), workspace, label=label)


def gather(
    asks: Sequence[Ask], sampling: Sampling, teacher: Teacher, workspace: Workspace, *, label: str
) -> list[Sample]:
    """Every answer that is asked for, in order of the asks and of their indices; what the ledger lacks is bought.

    An answer that failed comes back with `finish_reason="error"` and is owed: it is asked for again next time. Raises
    DistillError if all failed.
    """
    failed: dict[str, Sample] = {}

    def keep(sample: Sample) -> None:
        failed[sample.key] = sample

    fill(asks, sampling, teacher, workspace, label=label, on_failure=keep)
    plan = Plan(asks, sampling, teacher.identity)
    found = {(wanted.place, wanted.number): sample for wanted, sample in _read(plan, workspace)}
    return [found.get((place, index)) or failed[key] for key, place, index in plan.in_order()]
