"""Who is measured: an entry of `evaluate.models`, and the model, engine and manner of asking that it stands for.

A name (`base`, `student`, `student@300`, `teacher`, a folder, a .gguf file, a Hub id), or a name of one's own with
what it means: `{base-cot: {model: base, instruction: Think step by step.}}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, cast

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distill import rollout
from distill.core import files, rundir
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.models import EMBEDDED, ModelConfig, is_embedded, looks_local
from distill.core.plugins import Choice, ChoiceOf, load
from distill.core.records import ModelIdentity, Problem
from distill.rollout import Ask, Prices
from distill.rollout.asks import Loaded, Standing
from distill.rollout.price import PriceSetting
from distill.text.think import THINK, Dialect

ROLES = ("base", "student", "teacher")
"""Names that the experiment itself gives a meaning: `student:`, what `train` made of it, `teacher:`."""

SNAPSHOT = re.compile(r"student@(\d+)")
"""The student as it was after so many steps (`train.keep_every`)."""

EngineChoice = Annotated[Choice, ChoiceOf("distill.engines", "engine")]


class Entry(Settings):
    """One of `evaluate.models`. What is left out is `evaluate:`'s own, or for the teacher that of its section."""

    name: str = Field(min_length=1)
    """What results call it. A model folder or file without a name of yours is called by the last part of its path."""
    model: str = Field(min_length=1)
    """`base`, `student`, `student@STEP`, `teacher`, a folder, a .gguf file, a Hub id, or what a server calls it."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    engine: EngineChoice | None = None
    """Where its tokens come from."""
    thinking: bool | None = None
    """Ask its template for thinking or for the no-think form."""
    system_prompt: str | None = None
    """Put before every problem that has none of its own."""
    instruction: str | None = None
    """Put after the last user turn, after what the task itself says there."""
    price: PriceSetting = None
    """What a million of its tokens cost: `{input: 0.55, output: 2.19}`, or `free`. The teacher's is in `teacher:`."""

    @model_validator(mode="wrap")
    @classmethod
    def _written(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """A name alone, or one name with its settings. Outside the check for unknown keys, which sees the settings."""
        if isinstance(data, str):
            data = {"name": _called(data), "model": data}
        elif isinstance(data, dict) and len(data) == 1:
            ((name, settings),) = data.items()
            if isinstance(settings, dict):
                data = {"name": name, **settings}
        return handler(data)

    @model_validator(mode="after")
    def _means_one_thing(self) -> Self:
        if (self.name in ROLES or SNAPSHOT.fullmatch(self.name)) and self.model != self.name:
            raise ValueError(f"`{self.name}` means what the experiment calls so; give `{self.model}` another name")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        settings = {name: value for name, value in handler(self).items() if value is not None}
        name = settings.pop("name")
        bare = settings == {"model": self.model} and name == _called(self.model)
        return self.model if bare else {name: settings}

    def keyed(self) -> dict[str, Any]:
        """All of it shapes the result, but where a model lies does not: its content is an external."""
        engine = None if self.engine is None else self.engine.keyed()
        own = {name: getattr(self, name) for name in ("name", "revision", "thinking", "system_prompt", "instruction")}
        price = None if self.price is None else self.price.dump()
        return {**own, "model": shown_name(self.model), "engine": engine, "price": price}

    @property
    def step(self) -> int | None:
        """Of a kept snapshot, the step it was kept at."""
        found = SNAPSHOT.fullmatch(self.model)
        return None if found is None else int(found[1])

    @property
    def trained(self) -> bool:
        """Whether `train` makes it."""
        return self.model == "student" or self.step is not None

    def fault(self, engine: Choice) -> str | None:
        """Why it can be no model on this engine, unless it has its own; None if it can, as far as a name tells."""
        if self.model in ROLES or self.trained or self.model in EMBEDDED:
            return None
        if getattr((self.engine or engine).module(), "SERVED", False):
            return None  # its server has a name of its own for it
        if is_embedded(self.model):
            return f"`{self.model}` is one of {', '.join(EMBEDDED)}"
        if looks_local(self.model) and not Path(self.model).expanduser().exists():
            return f"{self.model!r} is no such folder or file, and none of {', '.join(ROLES)}"
        return None

    def lacks(self, sections: Mapping[str, Settings]) -> str | None:
        """The section that this model needs and the experiment does not have; None if it has all."""
        needed = {"base": "student", "teacher": "teacher"}.get(self.model, "train" if self.trained else None)
        if needed is not None and needed not in sections:
            return f"`{self.model}` needs the section `{needed}:`"
        if self.step is not None and getattr(sections["train"], "keep_every", None) is None:
            return f"`{self.model}` is kept only where `train.keep_every` says so"
        return None


@dataclass(frozen=True)
class Candidate:
    """A model to be measured: its name in the results, what `resolve` takes, and how it is asked."""

    name: str
    model: str
    engine: Choice
    thinking: bool | None
    revision: str | None = None
    dialect: Dialect = THINK
    arguments: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    instruction: str | None = None
    usual: str | None = None
    """What it is told where neither its entry nor the task has an instruction: the teacher, what `sample` tells it."""
    prices: Prices | None = None

    @cached_property
    def identity(self) -> ModelIdentity:
        """Content hash or declared name, without loading it. Reads all weights of a local model, once."""
        return rollout.identify(self.engine, self.model, self.revision)

    def keyed(self) -> dict[str, Any]:
        """What shapes its answers and their cost, beside who it is."""
        return {
            "engine": self.engine.keyed(), "dialect": asdict(self.dialect), "arguments": self.arguments,
            "prices": None if self.prices is None else asdict(self.prices),
            "system": self.system, "instruction": self.instruction, "usual": self.usual,
        }  # fmt: skip

    def answers(self, loaded: Loaded) -> Standing:
        """It, as what `rollout` asks; its engine is loaded once and shared through `loaded`."""
        return _Known(self.engine, self.model, self.revision, self.dialect, self.prices, loaded, known=self.identity)

    def asked(self, problem: Problem, told: bool = False) -> Problem:
        """A problem (with its task's instruction, if it is `told` one) as this model is asked it."""
        return rollout.as_asked(problem, system=self.system, after=[self.heard(told)])

    def heard(self, told: bool) -> str | None:
        """Its instruction on a task that has one of its own (`told`) or none."""
        return self.usual if self.instruction is None and not told else self.instruction

    def ask(self, problem: Problem, samples: int, told: bool = False) -> Ask:
        """So many answers to a problem."""
        return Ask(self.asked(problem, told), range(samples))


@dataclass(frozen=True)
class _Known(Standing):
    """A model whose identity was found before."""

    known: ModelIdentity = field(kw_only=True)

    @cached_property
    def identity(self) -> ModelIdentity:
        """The one that is known: weights are read once."""
        return self.known


def candidate(
    entry: Entry, engine: Choice, thinking: bool | None, sections: Mapping[str, Settings], train: Path | None
) -> Candidate:
    """What an entry means here. `engine` and `thinking` are those of `evaluate:`, `train` the folder of that stage.

    Raises DistillError for a student where nothing was trained, or a snapshot that was not kept.
    """
    form = thinking if entry.thinking is None else entry.thinking
    model, revision, chosen, price = entry.model, entry.revision, entry.engine or engine, entry.price
    dialect, arguments, system, usual = THINK, {}, entry.system_prompt, None
    if entry.trained:
        if train is None:
            raise DistillError(f"evaluate: `{entry.model}` is what `train` makes, and there is no `train:` before this")
        model = str(train / "student" if entry.step is None else rundir.snapshot_of(train, entry.step))
        form = trained_form(train) if form is None else form
    elif entry.model == "teacher":
        teacher = cast(Any, sections["teacher"])  # teachers.settings.Config, which this package must not import
        model, revision, chosen = teacher.model, revision or teacher.revision, entry.engine or teacher.engine
        dialect, arguments = teacher.dialect, teacher.asked_with
        usual_system, usual = _told(sections, form)
        system = usual_system if system is None else system
        price = teacher.price if price is None else price
    elif entry.model == "base":
        student = cast(ModelConfig, sections["student"])
        model, revision = student.model, revision or student.revision
    if entry.engine is None and model.endswith(".gguf") and chosen.name == "transformers":
        chosen = Choice("distill.engines", "engine", "llamacpp", load("distill.engines", "llamacpp").Config())
    return Candidate(
        name=entry.name, model=model, engine=chosen, thinking=form, revision=revision, dialect=dialect,
        arguments=arguments, system=system or None, instruction=entry.instruction, usual=usual or None,
        prices=None if price is None else price.prices,
    )  # fmt: skip


def _told(sections: Mapping[str, Settings], thinking: bool | None) -> tuple[str | None, str | None]:
    """System prompt and instruction of the teacher as `sample` puts them: its section's, else the family's."""
    teacher, sample = cast(Any, sections["teacher"]), cast(Any, sections.get("sample"))
    of_family = teacher.words(thinking)
    of_sample = (None, None) if sample is None else (sample.system, sample.instruction)
    system, instruction = (family if own is None else own for own, family in zip(of_sample, of_family, strict=True))
    return system, instruction


def _called(model: str) -> str:
    """What a model is called where the file gives it no name: of a path no more than tells models apart."""
    found = shown_name(model)
    if found != model and (found in ROLES or SNAPSHOT.fullmatch(found)):
        return "/".join(Path(model).expanduser().absolute().parts[-2:])
    return found


def trained_form(train: Path) -> bool | None:
    """False for a student trained on answers without reasoning: the template's no-think form is its own."""
    report = train / "report.json"
    answers_alone = report.exists() and files.read_json(report).get("target") == "answer"
    return False if answers_alone else None


def shown_name(model: str) -> str:
    """What a model is called in results: its declared name, or the last part of a path, which is a machine's own."""
    return Path(model).name if not is_embedded(model) and Path(model).expanduser().exists() else model
