"""MMLU-Pro, test split: 12,032 questions of 14 disciplines with up to ten options (Wang et al. 2024).

    evaluate: {tasks: [{mmlu_pro: {rows: 1000}}]}

Asked without examples, as DeepSeek-R1 was; the benchmark's own prompt has five. One answer each: the items are many.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import mmlu


class Config(task.Benchmark):
    """Settings of the `mmlu_pro` task."""

    VERIFIER = "choice"
    INSTRUCTION = (
        'Think step by step and then finish your answer with "the answer is (X)" where X is the correct letter choice.'
    )
    """Of the benchmark's own prompt (TIGER-AI-Lab/MMLU-Pro, `initial_prompt.txt`), after the question."""
    path: str = "TIGER-Lab/MMLU-Pro"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return task.problems(task.rows(config), mmlu.to_problem, source="mmlu_pro", licence="MIT", verifier="choice")
