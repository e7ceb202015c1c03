"""Generated tasks of reasoning-gym (extra `gym`): logic, games, arithmetic and more, never seen by anyone.

    evaluate: {tasks: [{reasoning_gym: {tasks: [zebra_puzzles, countdown], size: 100}}]}

Problems are those of the source `reasoning_gym`, with a seed that it does not have by default: train on other seeds.
Nothing is fetched, and no model can have learnt the answers; which tasks are chosen is what the rate depends on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import reasoning_gym

SEED = 1_000_003


class Config(task.TaskSettings):
    """Settings of the `reasoning_gym` task."""

    VERIFIER = "reasoning_gym"
    INSTRUCTION = (
        "Once you have thought about the reasoning process, provide the answer in the following format:\n"
        "<answer>answer here</answer>\n"
        "Do not explain your reasoning inside the answer tags, provide only the final answer. When an example is "
        "provided, you should strictly follow the format of the output/answer in that example."
    )
    """The second half of reasoning-gym's default system prompt (`reasoning_gym/utils.py`)."""
    tasks: list[str | dict[str, dict[str, Any]]] = Field(
        default=[
            "chain_sum", "simple_equations", "gcd", "calendar_arithmetic", "base_conversion", "countdown",
            "syllogism", "knights_knaves", "family_relationships", "letter_counting", "word_sorting", "number_sorting",
        ],
        min_length=1,
    )  # fmt: skip
    """Names of tasks, with settings of their own where wanted: `[chain_sum, {zebra_puzzles: {num_people: 3}}]`."""
    size: PositiveInt = 50
    """Problems of each task."""
    seed: NonNegativeInt = SEED
    """Other problems than those of another seed."""

    def externals(self) -> dict[str, str]:
        """The package's version: another may generate other problems."""
        return reasoning_gym.externals(self._source())

    def missing(self) -> str | None:
        """The package, where it is not installed."""
        try:
            self.externals()
        except DistillError as error:
            return str(error)
        return None

    def _source(self) -> reasoning_gym.Config:
        return reasoning_gym.Config(tasks=self.tasks, size=self.size, seed=self.seed)


def build(config: Config) -> Iterator[Problem]:
    """The problems of every task; a task's name is the domain."""
    for problem in reasoning_gym.build(config._source(), {"train": None, "dev": None, "test": None}):
        yield replace(problem, split="test", domain=problem.source.rpartition(" ")[2], source="reasoning_gym")
