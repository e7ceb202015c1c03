"""MATH's layout: `problem`, `solution` with the gold answer in its last box, `level` and `type` or `subject`.

    problems: {source: {math: {path: train.jsonl}}}

Where there is an `answer` column (MATH-500), it is the gold; a row without `solution` needs one. The worked solution
becomes the problem's reference reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.records import Problem, Split
from distill.text.answers import boxes


class Config(tabular.Preset):
    """Settings of the `math` source."""


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return tabular.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the file as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    return tabular.problems(tabular.rows(config.path), to_problem, config.split)


def to_problem(row: tabular.Row, where: str) -> Problem:
    """One row; faults start with `where`. A null gold is kept as one."""
    solution = jsonl.text(row, "solution", where) if "solution" in row else None
    if "answer" in row:
        gold = jsonl.text(row, "answer", where)
    elif solution is None:
        raise DistillError(f"{where}: neither `answer` nor `solution`; there are {', '.join(row)}")
    else:
        found = boxes(solution)
        gold = found[-1].content.strip() if found else None
    level = next((jsonl.text(row, name, where) for name in ("level", "difficulty") if name in row), None)
    subject = next((jsonl.text(row, name, where) for name in ("subject", "type") if name in row), None)
    return tabular.problem(
        tabular.text(row, "problem", where),
        gold=gold or None,
        domain=(subject or "maths").lower(),
        level=re.sub(r"(?i)^level\s*", "", level or ""),
        source="math",
        licence="MIT",
        reference_reasoning=solution or None,
    )
