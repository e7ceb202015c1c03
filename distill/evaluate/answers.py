"""What a model answers to a task: problems as they are asked, answers bought where the ledger lacks them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from distill import rollout
from distill.core import tables
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.records import Problem, Sample, Sampling, Split
from distill.core.stage import Workspace
from distill.evaluate import forcing
from distill.evaluate import task as tasks
from distill.evaluate.models import Candidate
from distill.evaluate.task import Draw, TaskSettings
from distill.rollout import Ask, Estimate
from distill.rollout.asks import Loaded, chunks

OWN = "problems"
"""The task of the experiment's own problems."""

CHUNK = 1024
"""Problems whose answers are in memory at a time."""


@dataclass(frozen=True)
class Task:
    """A task with its problems: bare, as they are graded and paired; `asked` adds the task's instruction."""

    choice: Choice
    problems: Sequence[Problem]
    draw: Draw

    @property
    def name(self) -> str:
        """Its name in the experiment and in results."""
        return self.choice.name.rpartition(".")[2]

    def asked(self, problem: Problem) -> Problem:
        """A problem as the task puts it."""
        return tasks.asked(problem, self.config.told)

    @property
    def config(self) -> TaskSettings:
        """Its settings."""
        return tasks.settings(self.choice)

    @cached_property
    def by_id(self) -> dict[str, Problem]:
        """Its problems."""
        return {problem.id: problem for problem in self.problems}


def prepare(choice: Choice, draw: Draw, own: Path | None, split: Split) -> Task:
    """A task with its problems read; `own` is the folder of the experiment's problems, for the task `problems`.

    Raises DistillError where there are none.
    """
    if choice.name != OWN:
        return Task(choice, tasks.load(choice), draw)
    if own is None:
        raise DistillError("evaluate: task `problems` is the experiment's own, and there is no `problems:`")
    found = [p for p in tables.stream(own / "problems.parquet", Problem) if p.split == split]
    if not found:
        raise DistillError(f"evaluate: no problem is in the {split} split; check `problems:`")
    rows = tasks.settings(choice).rows
    return Task(choice, found if rows is None else tasks.first_by_hash(found, rows), draw)


@dataclass(eq=False)
class Answers:
    """What one model answers to one task."""

    task: Task
    model: Candidate
    sampling: Sampling
    workspace: Workspace
    loaded: Loaded = field(default_factory=Loaded)
    bought_s: float = 0.0
    answer_s: float = 0.0
    """Time that the answers took, each for itself, when they were drawn."""

    def __post_init__(self) -> None:
        problems = [self.task.asked(problem) for problem in self.task.problems]
        told = bool(self.task.config.told)
        self.asks: list[Ask] = [self.model.ask(problem, self.task.draw.samples, told) for problem in problems]
        self._failed: dict[tuple[str, int], Sample] = {}

    @property
    def label(self) -> str:
        """Of its lines on the screen."""
        return f"evaluate {self.model.name}" + ("" if self.task.name == OWN else f" {self.task.name}")

    def estimate(self) -> Estimate:
        """What `buy` would buy."""
        return rollout.estimate(self.asks, self.sampling, self.model.answers(self.loaded), self.workspace)

    def buy(self) -> None:
        """Buy what the ledger lacks. An answer that fails counts as `error` now, and is asked for again next time."""
        began_s = time.monotonic()
        rollout.fill(
            self.asks, self.sampling, self.model.answers(self.loaded), self.workspace,
            label=self.label, on_failure=self._fail,
        )  # fmt: skip
        self.bought_s += time.monotonic() - began_s

    def _fail(self, sample: Sample) -> None:
        self._failed[sample.problem_id, sample.index] = sample

    def __iter__(self) -> Iterator[Sample]:
        """All that were asked for, by problem and index, without clock figures, at today's price.

        Raises DistillError, naming model and problem, where one is not there.
        """
        teacher, prices = self.model.answers(self.loaded), self.model.prices
        self.answer_s = 0.0
        for asks in chunks(self.asks, CHUNK):
            found = {(s.problem_id, s.index): s for s in rollout.read(asks, self.sampling, teacher, self.workspace)}
            for ask in asks:
                places = [(ask.problem.id, index) for index in ask.indices]
                drawn = [found.get(place) or self._failed.get(place) for place in places]
                there = [sample for sample in drawn if sample is not None]
                if len(there) < len(places):
                    raise DistillError(
                        f"evaluate: model `{self.model.name}` has {len(there)} of {len(places)} answers to problem "
                        f"{ask.problem.id} of task `{self.task.name}`; a rate over fewer would be another figure. "
                        "Run the same command again: it asks for what is missing"
                    )
                for sample in there:
                    self.answer_s += sample.latency_s
                    cost = None if prices is None else prices.of(sample.prompt_tokens, sample.completion_tokens)
                    yield replace(sample, latency_s=0.0, created="", cost=cost)

    def forced(self, samples: Sequence[Sample], settings: forcing.Config) -> list[forcing.Forced]:
        """The same answers with their thinking cut short or carried on."""
        asked = {ask.problem.id: ask.problem for ask in self.asks}
        return forcing.force(
            asked, samples, self.sampling, self.model.answers(self.loaded), settings, self.workspace, label=self.label
        )
