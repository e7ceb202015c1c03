"""AIME 2024: the 30 problems of AIME I and II, answered with a whole number from 0 to 999.

    evaluate: {tasks: [aime2024]}

64 answers to each tell the rate on these thirty problems, and little of others: the interval knows that.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import math


class Config(task.Benchmark):
    """Settings of the `aime2024` task."""

    USUAL = task.Draw(samples=64)
    VERIFIER = "math"
    INSTRUCTION = task.BOXED
    path: str = "HuggingFaceH4/aime_2024"
    from_split: str = "train"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return task.problems(
        task.rows(config), math.to_problem, source="aime2024", licence="MAA contest problems", verifier="math"
    )
