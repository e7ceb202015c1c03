"""Settings of `teacher:`: which model answers, on what engine, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from distill.core.config import Unkeyed
from distill.core.errors import ConfigError
from distill.core.models import ModelConfig, is_embedded, looks_local
from distill.core.plugins import Choice, ChoiceOf
from distill.rollout.price import PriceSetting
from distill.text.think import Dialect
from teachers import family


class Config(ModelConfig):
    """Settings of `teacher:`."""

    engine: Annotated[Choice, ChoiceOf("distill.engines", "engine")] = Field(
        default="transformers", validate_default=True
    )
    """Where its tokens come from: a name, or `{engine: NAME, ...}` with its settings."""
    family: Annotated[str | None, Unkeyed] = None
    """How it delimits reasoning and asks to be sampled: a name, or the path of your own file. None: by its name."""
    arguments: Annotated[dict[str, Any], Unkeyed] = Field(default_factory=dict)
    """What else a server is asked with, under its own names, over what the family says: `{reasoning_effort: high}`."""
    price: Annotated[PriceSetting, Unkeyed] = None
    """`{input: 0.55, output: 2.19}` for a million tokens, or `free`. None: unknown, so no budget in money is taken."""

    @field_validator("model")
    @classmethod
    def _exists(cls, model: str) -> str:
        """Left to `_found`, which knows the engine: a served model has whatever name its server gives it."""
        return model

    @field_validator("model")
    @classmethod
    def _embedded(cls, model: str) -> str:
        return "embedded-teacher" if model == "embedded" else model

    @field_validator("family")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                family.load(name)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return name

    @property
    def served(self) -> bool:
        """Whether somebody else's server answers, which knows the model by a name of its own."""
        return bool(getattr(self.engine.module(), "SERVED", False))

    @property
    def dialect(self) -> Dialect:
        """How its family delimits reasoning."""
        return family.family_of(self).dialect

    @property
    def asked_with(self) -> dict[str, Any]:
        """Arguments of its family and its own, for a server; a local engine has none."""
        return dict(family.family_of(self).arguments) if self.served else {}

    def words(self, thinking: bool | None) -> tuple[str | None, str | None]:
        """System prompt and instruction that its family asks for, in the form with or without thinking."""
        asked = family.family_of(self).asked(thinking)
        return asked.system, asked.instruction

    @model_validator(mode="after")
    def _found(self) -> Self:
        """A path that is not there is refused with the file's line, before anything runs."""
        local = not self.served and not is_embedded(self.model) and looks_local(self.model)
        if local and not Path(self.model).expanduser().exists():
            raise _fault("model", f"no such folder or file: {self.model}")
        return self

    @model_validator(mode="after")
    def _taken(self) -> Self:
        """Arguments that an engine would not send on are refused, not dropped."""
        if self.arguments and not self.served and not hasattr(self.engine.module(), "ARGUMENTS"):
            raise _fault("arguments", f"engine `{self.engine.name}` takes none; they go to a server")
        return self


def _fault(setting: str, text: str) -> ValidationError:
    """A fault of one setting that shows only beside another."""
    kind = PydanticCustomError("value_error", "{text}", {"text": text})
    details: InitErrorDetails = {"type": kind, "loc": (setting,), "input": setting}
    return ValidationError.from_exception_data("Config", [details])
