"""MATH-500: 500 competition problems of the MATH test set, as Lightman et al. 2023 drew them.

    evaluate: {tasks: [math500]}

Columns are MATH's with `answer` as gold; `subject` is the domain and `level` (1 to 5) the difficulty.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import math


class Config(task.Benchmark):
    """Settings of the `math500` task."""

    USUAL = task.Draw(samples=4)
    VERIFIER = "math"
    INSTRUCTION = task.BOXED
    path: str = "HuggingFaceH4/MATH-500"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return task.problems(task.rows(config), math.to_problem, source="math500", verifier="math")
