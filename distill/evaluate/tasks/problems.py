"""The experiment's own problems: those of `problems:` in the split of `evaluate.split`.

They are read from what the stage `problems` wrote, and graded by the experiment's verifier.
"""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate.task import TaskSettings


class Config(TaskSettings):
    """Settings of the `problems` task."""


def build(config: Config) -> Iterable[Problem]:
    """None: they are a stage's output."""
    del config
    return ()
