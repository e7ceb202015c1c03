"""IFEval: 541 prompts with instructions that a program can check, a length or a word to avoid (Zhou et al. 2023).

    evaluate: {guard: [ifeval]}

Not reasoning: whether a student still does what it is told, for the regression guard. An answer is correct if it
follows all instructions of its prompt; the share of single instructions is kept beside it (`step_scores`). An
instruction of an unknown kind makes its prompt ungradable, with its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import task
from distill.text import constraints


class Config(task.Benchmark):
    """Settings of the `ifeval` task."""

    VERIFIER = "constraints"
    path: str = "google/IFEval"
    from_split: str = "train"
    mode: Literal["strict", "loose"] = "strict"
    """`loose`: an instruction is also followed if it is so without the first line, the last, or asterisks."""


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    settings = {} if config.mode == "strict" else {"mode": config.mode}
    return task.problems(
        task.rows(config), _to_problem,
        source="ifeval", licence="Apache-2.0", verifier="constraints", verifier_settings=settings,
    )  # fmt: skip


def _to_problem(row: tabular.Row, where: str) -> Problem:
    told = {name: jsonl.field(row, name, where) for name in ("instruction_id_list", "kwargs")}
    try:
        found = constraints.parse(told)
    except ValueError as error:
        raise DistillError(f"{where}: {error}") from error
    kinds = sorted({one.id.partition(":")[0] for one in found})
    tests = [{"instruction": one.id, "kwargs": dict(one.kwargs)} for one in found]
    return tabular.problem(
        tabular.text(row, "prompt", where),
        gold=None,
        domain=kinds[0] if len(kinds) == 1 else "several",
        tests=json.dumps(tests, sort_keys=True, ensure_ascii=False),
    )
