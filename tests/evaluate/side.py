"""A task of the tests: ten questions of the scripted models, asked with an instruction of its own."""

from __future__ import annotations

from collections.abc import Iterable

from distill.core.records import Problem
from distill.evaluate.task import Draw, TaskSettings
from tests.evaluate.bench import problem


class Config(TaskSettings):
    """Settings of the `side` task."""

    USUAL = Draw(samples=2, sample_temperature=0.3, max_tokens=40)
    INSTRUCTION = "Answer in a box."
    gold: str = "7"
    """Of every question."""


def build(config: Config) -> Iterable[Problem]:
    """The questions."""
    return [problem(number, gold=config.gold) for number in range(10)]
