"""HumanEval: 164 Python functions to be completed, graded by their tests (Chen et al. 2021).

    evaluate: {tasks: [{humaneval: {path: HumanEval.jsonl.gz}}]}

Programs run in the sandbox. Known to every model that was trained on the web, and small: a difference of a few points
is noise. One answer each, and DeepSeek-R1's report does not have it.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import humaneval


class Config(task.Benchmark):
    """Settings of the `humaneval` task."""

    VERIFIER = "code"
    path: str = "openai/openai_humaneval"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set. The question itself asks for one code block."""
    return task.problems(task.rows(config), humaneval.to_problem, source="humaneval", licence="MIT")
