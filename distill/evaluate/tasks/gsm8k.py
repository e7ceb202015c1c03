"""GSM8K, test split: 1,319 word problems of grade school, answered with a number (Cobbe et al. 2021).

    evaluate: {tasks: [{gsm8k: {path: test.jsonl}}]}

One answer each: the items are many, and DeepSeek-R1's report does not have it.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import gsm8k


class Config(task.Benchmark):
    """Settings of the `gsm8k` task."""

    VERIFIER = "math"
    INSTRUCTION = task.BOXED
    path: str = "openai/gsm8k"
    name: str | None = "main"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return task.problems(task.rows(config), gsm8k.to_problem, source="gsm8k", verifier="math")
