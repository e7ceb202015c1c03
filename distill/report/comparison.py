"""The page of a comparison, as `distill compare` says it: models of runs, arms or seeds on the problems they share.

It is made of the same chapters as the report of a run; only what needs scores alone is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.core import files
from distill.evaluate import curves, results
from distill.evaluate.compare import Comparison, SideResult, TaskComparison
from distill.report import page
from distill.report.evaluated import Evaluated, Model, Task, at_equal_tokens, kind_of, lengths_of
from distill.report.parts import Row, Section, Table
from distill.report.run_data import Entry, RunData
from distill.report.sections import accuracy, at_k, breakdown, compute, differences, thinking
from distill.report.wording import estimate, money

CHAPTERS = (accuracy, differences, breakdown, at_k, compute, thinking)


def write(comparison: Comparison, path: Path) -> None:
    """Write the page to `path`."""
    files.write_text(path, render(comparison))


def render(comparison: Comparison) -> str:
    """The page. The same comparison gives the same text."""
    tasks = [_task(task) for task in comparison.tasks]
    data = RunData(
        name="comparison",
        folder=Path(),
        experiment={},
        arms=(),
        seeds=(),
        stages=(),
        entries=tuple(_entries(tasks[0])),
        evaluated=Evaluated(split="", tasks=tuple(tasks)),
    )
    chapters = [found for chapter in CHAPTERS if (found := chapter.section(data)) is not None]
    names = dict.fromkeys(side.name for task in comparison.tasks for side in task.sides)
    return page.filled(
        title=" · ".join(names),
        kicker="distill compare",
        headline=_headline(comparison),
        figures=[],
        sections=[*chapters, _cost(comparison), _sides(comparison)],
        note=" ".join((*comparison.notes, *(note for task in comparison.tasks for note in task.notes))),
    )


def _task(task: TaskComparison) -> Task:
    """The task as the chapters read it. A side of several seeds is several models: it has no curve over samples."""
    samples = min(_samples(side) for side in task.sides)
    budgets = curves.budgets(line for side in task.sides for line in side.lines)
    first = task.sides[0]
    models, lengths = [], []
    for side in task.sides:
        about = results.summarise(side.lines, budgets)
        if len(side.seeds) > 1:
            about |= {"pass_at": {}, "maj_at": {}, "curve": {**about["curve"], "samples": []}}
        note = f"mean of {len(side.seeds)} seeds" if len(side.seeds) > 1 else ""
        models.append(Model(side.name, kind_of(side.model), about, side.rate, note))
        lengths += lengths_of(side.name, kind_of(side.model), side.lines)
    return Task(
        name=task.task,
        about={
            "name": task.task,
            "problems": task.common,
            "samples": samples,
            "pairs": [asdict(p) for p in task.pairs],
        },
        models=tuple(models),
        lengths=tuple(lengths),
        equal=tuple(
            at_equal_tokens(side.name, side.lines, first.name, first.lines, samples)
            for side in task.sides[1:]
            if len(side.seeds) < 2 and len(first.seeds) < 2
        ),
    )


def _samples(side: SideResult) -> int:
    """Answers to a problem, by one seed's model."""
    return max((line.index for line in side.lines), default=0) + 1


def _entries(task: Task) -> Iterator[Entry]:
    for model in task.models:
        yield Entry(model.label, model.kind, model.rate, model.thinking_tokens, model.outcomes, note=model.note)


def _headline(comparison: Comparison) -> str:
    """Every pair of the first task in words."""
    first = comparison.tasks[0]
    said = [f"{pair.a} against {pair.b} {pair.difference}: {pair.verdict}" for pair in first.pairs]
    return f"On {first.common:,} problems in common ({first.task}): {'; '.join(said)}."


def _cost(comparison: Comparison) -> Section:
    rows: list[dict[str, Any]] = [
        {
            "side": side.name, "task": task.task, "completion tokens, mean [95%]": str(side.completion_tokens),
            "tokens for each correct answer [95%]": estimate(asdict(side.tokens_per_correct)),
            "money for each correct answer": money(side.money_per_correct.value) if side.money_per_correct else "-",
        }
        for task in comparison.tasks
        for side in task.sides
    ]  # fmt: skip
    if all(row["money for each correct answer"] == "-" for row in rows):
        for row in rows:
            del row["money for each correct answer"]
    lead = "Tokens for each correct answer count those of wrong answers too."
    return Section("cost", "Cost", lead, tables=[Table(rows)])


def _sides(comparison: Comparison) -> Section:
    rows: list[Row] = [
        {
            "side": side.name, "task": task.task, "run": side.run, "arm": side.arm,
            "seeds": ", ".join(side.seeds) or "-", "model": side.model, "common problems": task.common,
            "left out": side.left_out,
        }
        for task in comparison.tasks
        for side in task.sides
    ]  # fmt: skip
    lead = "What was compared, on the problems that all sides of a task have; the others are left out."
    return Section("provenance", "Provenance", lead, tables=[Table(rows)])
