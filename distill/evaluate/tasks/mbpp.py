"""MBPP, test split: 500 Python functions described in a sentence, graded by three assertions (Austin et al. 2021).

    evaluate: {tasks: [{mbpp: {name: sanitized}}]}

The question shows all three assertions, as the usual prompt does, and these three grade: `challenge_test_list` is not
used here, since others' figures are without it. Programs run in the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill import tabular
from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import mbpp

SHOWN = 3


class Config(task.Benchmark):
    """Settings of the `mbpp` task."""

    VERIFIER = "code"
    INSTRUCTION = "You are an expert Python programmer, and here is your task: {question}"
    """Of the data set's paper (Austin et al. 2021, figure 1), without its examples."""
    path: str = "google-research-datasets/mbpp"
    name: str | None = "full"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return task.problems(task.rows(config), _to_problem, source="mbpp", licence="CC BY 4.0")


def _to_problem(row: tabular.Row, where: str) -> Problem:
    return mbpp.to_problem({**row, "challenge_test_list": []}, where, shown=SHOWN)
