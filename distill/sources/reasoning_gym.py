"""Generated tasks of reasoning-gym (extra `gym`): logic, games, arithmetic and more, each with a scorer of its own.

    problems: {source: {reasoning_gym: {tasks: [chain_sum, {zebra_puzzles: {num_people: 3}}], size: 500, seed: 7}}}

A problem's `tests` hold what its task needs to score an answer (`distill/text/gym_tests.py`), and its verifier is
`reasoning_gym`. Its gold is null where the task has no single right answer. The same settings give the same problems
as long as the package's version is the same; the version counts in the stage's key. Some tasks are slow to generate:
`zebra_puzzles` takes a good part of a second a problem.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from distill import tabular
from distill.core import plugins
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.records import Problem, Split
from distill.text.gym_tests import dump

EXTRA = {"reasoning_gym": "gym"}


class Config(Settings):
    """Settings of the `reasoning_gym` source."""

    tasks: list[str | dict[str, dict[str, Any]]] = Field(min_length=1)
    """Names of tasks, with settings of their own where wanted: `[chain_sum, {zebra_puzzles: {num_people: 3}}]`."""
    size: PositiveInt = 500
    """Problems of each task."""
    seed: NonNegativeInt = 0
    """Other problems than those of another seed."""


def externals(config: Config) -> dict[str, str]:
    """The package's version: another may generate other problems."""
    del config
    _gym()
    return {"reasoning-gym": importlib.metadata.version("reasoning-gym")}


def own_split(config: Config) -> bool:
    """Problems are parted by hash."""
    del config
    return False


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The problems of every task. `counts` are limits that the stage applies."""
    del counts
    gym = _gym()
    for task, settings in _tasks(config):
        try:
            made = gym.create_dataset(task, size=config.size, seed=_seed(task, config.seed), **settings)
        except (TypeError, AssertionError, ValueError) as error:
            raise DistillError(f"problems: reasoning_gym task `{task}` refuses its settings ({error})") from error
        family = type(made).__module__.split(".")[1]
        for number in range(config.size):  # which counts nowhere: a repeat is the same problem
            entry = made[number]
            question, answer = entry["question"], entry["answer"]
            metadata = {key: value for key, value in entry["metadata"].items() if key != "source_index"}
            yield tabular.problem(
                question,
                gold=answer if isinstance(answer, str) and answer else None,
                domain=family,
                source=f"reasoning-gym {task}",
                licence="Apache-2.0",
                verifier="reasoning_gym",
                tests=dump(task, {"question": question, "answer": answer, "metadata": metadata}),
            )


def _tasks(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tasks and their settings. Raises DistillError for a name that the package does not have."""
    known = importlib.import_module("reasoning_gym.factory").DATASETS
    for item in config.tasks:
        for name, settings in ({item: {}} if isinstance(item, str) else item).items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else ""
                raise DistillError(f"problems: reasoning_gym has no task `{name}`{hint}")
            if taken := sorted({"seed", "size"} & set(settings)):
                raise DistillError(f"problems: reasoning_gym task `{name}`: `{taken[0]}` is set for all tasks together")
            yield name, settings


def _seed(task: str, seed: int) -> int:
    """The package's seed for ours: item i of its seed s is item i - 1 of seed s + 1, so neighbours would share most."""
    return int(digest(["reasoning_gym", task, seed])[:7], 16)


def _gym() -> Any:
    return plugins.require("source `reasoning_gym`", "reasoning_gym", EXTRA["reasoning_gym"])
