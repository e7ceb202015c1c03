"""GSM8K's layout: `question`, and `answer` with a worked solution that ends in `#### 72`.

    problems: {source: {gsm8k: {path: train.jsonl}}}

The worked solution becomes the problem's reference reasoning, without its `<<48/2=24>>` calculator marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from distill import tabular
from distill.core.errors import DistillError
from distill.core.records import Problem, Split

_CALCULATOR = re.compile(r"<<[^<>]*>>")


class Config(tabular.Preset):
    """Settings of the `gsm8k` source."""


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
    """One row; faults start with `where`."""
    question, answer = tabular.text(row, "question", where), tabular.text(row, "answer", where)
    solution, mark, gold = answer.rpartition("####")
    if not mark:
        raise DistillError(f"{where}: `answer` has no `####` with the gold number")
    return tabular.problem(
        question,
        gold=gold.strip(),
        domain="arithmetic",
        source="gsm8k",
        licence="MIT",
        reference_reasoning=_CALCULATOR.sub("", solution).strip(),
    )
