"""Families of teachers: how their reasoning is delimited, how they ask to be sampled, and on what terms.

A family is one YAML file in `teachers/families`, or one of your own that `teacher.family` names by its path. Facts
name where they were read and when; one that could not be checked says so.
"""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from distill.core import yaml
from distill.core.config import Settings, Unkeyed
from distill.core.errors import ConfigError
from distill.text.think import THINK, Dialect

if TYPE_CHECKING:
    from teachers.settings import Config

FOLDER = Path(__file__).parent / "families"
UNVERIFIED = "unverified"


def _dialect(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    try:
        return Dialect(**value)
    except TypeError as error:
        raise ValueError(f"not a dialect ({error})") from error


class Source(Settings):
    """Where a fact was read."""

    about: str
    """Which settings it stands behind."""
    url: str
    """The page. Empty where there is none."""
    read: str
    """Date on which it was read, or `unverified`: what the file says is then from memory or as others quote it."""

    @property
    def when(self) -> str:
        """`read DATE`, or `unverified`."""
        return UNVERIFIED if self.read == UNVERIFIED else f"read {self.read}"


class Family(Settings):
    """What is known of a family of teachers. The defaults are those of a model of which nothing is known."""

    name: Annotated[str, Unkeyed] = "default"
    """Its file's name."""
    title: Annotated[str, Unkeyed] = "a model of no known family"
    """What people call it."""
    match: Annotated[list[str], Unkeyed] = Field(default_factory=list)
    """Patterns (`*`, `?`, `[...]`) of the last part of a model's name, in lower case; the longest that fits wins."""
    dialect: Annotated[Dialect, BeforeValidator(_dialect)] = THINK
    """How its reasoning is delimited."""
    temperature: NonNegativeFloat | None = 0.6
    """Recommended temperature. None: not sent, for interfaces that take none."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """Recommended nucleus. None: not sent."""
    top_k: NonNegativeInt = 0
    """Recommended top-k; 0 is no limit."""
    max_tokens: PositiveInt = 32768
    """Recommended longest completion, thinking included."""
    takes_system: bool = True
    """False: its makers ask for no system prompt; one that is set is refused."""
    system: str | None = None
    """System prompt it is asked with."""
    instruction: str | None = None
    """Advice appended to the last user turn."""
    thinking: bool | None = None
    """What its template is told of thinking."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """What else a server is asked with, under the server's own names."""
    without_thinking: dict[str, Any] | None = None
    """Settings that differ where thinking is switched off. None: it cannot be."""
    logits: Annotated[bool, Unkeyed] = True
    """Whether log-probabilities can be had from any server of it."""
    note: Annotated[str, Unkeyed] = ""
    """What a person should know before buying."""
    licence: Annotated[str, Unkeyed] = "unknown"
    """Licence of the weights, or `service` for a model behind an interface only."""
    terms: Annotated[str, Unkeyed] = "Nothing is known of its terms; check that its answers may train another model."
    """What its licence or terms say about training on its answers."""
    distillation: Annotated[Literal["allowed", "forbidden", "unknown"], Unkeyed] = "unknown"
    """The same in a word, for what decides by it. `allowed`: any model may be trained on its answers."""
    sources: Annotated[list[Source], Unkeyed] = Field(default_factory=list)
    """Where that was read."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.system is not None and not self.takes_system:
            raise ValueError("has a `system` prompt and says that it takes none")
        if self.without_thinking is not None:
            self.asked(thinking=False)
        return self

    def asked(self, thinking: bool | None) -> Family:
        """The family as it is when asked for thinking, for none (False), or for its default (None)."""
        if thinking is None or thinking == self.thinking:
            return self
        if thinking or self.without_thinking is None:
            return self.model_copy(update={"thinking": thinking})
        changed = {**dict(self), **self.without_thinking, "thinking": False, "without_thinking": None}
        return Family.model_validate(changed)

    def with_arguments(self, arguments: dict[str, Any]) -> Family:
        """The family asked with these arguments over its own, thinking or not."""
        changed: dict[str, Any] = {"arguments": {**self.arguments, **arguments}}
        if self.without_thinking is not None and "arguments" in self.without_thinking:
            less = {**self.without_thinking["arguments"], **arguments}
            changed["without_thinking"] = {**self.without_thinking, "arguments": less}
        return self.model_copy(update=changed)

    @property
    def notice(self) -> str:
        """Licence and terms in one line, with where and when they were read."""
        source = next((source for source in self.sources if "terms" in source.about), None)
        where = UNVERIFIED if source is None else f"{source.url}, {source.when}"
        return f"{self.title}: licence {self.licence}. {self.terms} ({where})"

    @property
    def record(self) -> dict[str, str]:
        """What a manifest keeps of it: who publishes the run later must be able to say on what terms it was taught."""
        kept = ("name", "title", "licence", "terms", "distillation", "note", "notice")
        return {name: getattr(self, name) for name in kept}


DEFAULT = Family()


def names() -> list[str]:
    """Names of the families that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def load(name: str) -> Family:
    """A family by name, or by the path of a .yaml file.

    Raises ConfigError if there is none of that name, or if the file is not one.
    """
    path = Path(name).expanduser() if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise ConfigError(f"no family `{name}`.{hint} Known: {', '.join(names())}; or the path of a .yaml file")
    document = yaml.load(path)
    try:
        return Family.model_validate({"name": path.stem, **document.data})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        dotted = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{document.where(fault['loc'])}: `{dotted}`: {fault['msg']}") from None


def family_of(config: Config) -> Family:
    """The family that `teacher.family` names, else the one that the model's name fits best, else `DEFAULT`.

    `teacher.arguments` are laid over its own.
    """
    name = config.family or fitting(config.model)
    found = DEFAULT if name is None else load(name)
    return found.with_arguments(config.arguments) if config.arguments else found


def fitting(model: str) -> str | None:
    """Name of the family whose longest pattern fits the last part of a model's name; None where none does."""
    last = model.rstrip("/").rpartition("/")[2].lower()
    patterns = [(pattern, name) for name in names() for pattern in load(name).match]
    fits = [(len(pattern), name) for pattern, name in patterns if fnmatchcase(last, pattern)]
    return max(fits)[1] if fits else None
