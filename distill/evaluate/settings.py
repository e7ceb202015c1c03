"""Settings of `evaluate:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from distill.core.config import Settings
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import Sampling, Split
from distill.evaluate import forcing as forced
from distill.evaluate import task as tasks
from distill.evaluate.models import EngineChoice, Entry
from distill.evaluate.task import Draw

TaskChoice = Annotated[Choice, ChoiceOf("distill.evaluate.tasks", "task")]


class Config(Settings):
    """Settings of `evaluate:`."""

    models: list[Entry] = Field(default=["base", "student", "teacher"], min_length=1, validate_default=True)
    """What is measured: `base`, `student`, `student@STEP`, `teacher`, a model folder, a .gguf file, a Hub id; or a name
    of your own with its settings: `{base-cot: {model: base, instruction: Think step by step.}}`."""
    tasks: list[TaskChoice] = Field(default=["problems"], min_length=1, validate_default=True)
    """On what: `problems` (the experiment's own), or benchmarks: `[problems, {gsm8k: {path: gsm8k.jsonl}}]`."""
    samples: PositiveInt | None = None
    """Answers to each problem; the rate is averaged over them. None: each task's own number, 1 for `problems`."""
    sample_temperature: NonNegativeFloat | None = None
    """Temperature of the draw; 0 is greedy. None: each task's own, 0.6 for `problems`."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus: the smallest set of tokens with this much probability is drawn from. None: each task's own, 0.95 for
    `problems`."""
    top_k: NonNegativeInt = 0
    """Draw among the k most probable tokens only; 0 is no limit."""
    max_tokens: PositiveInt | None = None
    """Longest completion. A cut answer counts against the model. None: each task's own, 32768 for `problems`."""
    seed: NonNegativeInt = 0
    """Other draws than those of another seed."""
    thinking: bool | None = None
    """Ask the template for thinking or for the no-think form. None: the student in the form it was trained in, every
    other model in its template's default."""
    engine: EngineChoice = Field(default="transformers", validate_default=True)
    """Where tokens come from. The teacher has its own section's engine; a .gguf file runs in llamacpp."""
    split: Split = "test"
    """Of `problems`; `dev` for choices that must not see the test problems."""
    forcing: forced.Config | None = None
    """The same answers with their thinking cut at budgets or carried on: `{budgets: [64, 128], waits: [1]}`."""
    guard: list[TaskChoice] = Field(default=[])
    """Tasks beside what was trained for, on which the student is held against its base."""
    guard_points: NonNegativeFloat = 1.0
    """Points that may be lost there; where a larger loss is shown, the command ends with exit code 3."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, names in (
            ("model", [entry.name for entry in self.models]),
            ("task", [choice.name for choice in self.tasks]),
            ("task of the guard", [choice.name for choice in self.guard]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"a {what} is named twice")
        return self

    @model_validator(mode="after")
    def _there(self) -> Self:
        """A path that is not there is refused with the file's line, before anything runs."""
        for entry in self.models:
            if (why := entry.fault(self.engine)) is not None:
                raise ValueError(why)
        return self

    @property
    def every_task(self) -> list[Choice]:
        """Those of the guard too."""
        return [*self.tasks, *self.guard]

    def draw(self, choice: Choice) -> Draw:
        """How a task's answers are drawn: as the task itself says, else as this section does, else as is usual."""
        return tasks.settings(choice).draw(
            samples=self.samples,
            sample_temperature=self.sample_temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
        )

    def sampling(self, draw: Draw, thinking: bool | None, arguments: Mapping[str, Any] | None = None) -> Sampling:
        """The settings of one draw."""
        return Sampling(
            temperature=draw.sample_temperature,
            top_p=draw.top_p,
            top_k=self.top_k,
            seed=self.seed,
            thinking=thinking,
            max_tokens=draw.max_tokens,
            arguments=dict(arguments or {}),
        )
