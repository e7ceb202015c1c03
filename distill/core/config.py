"""Settings: typed, frozen, and strict about what they do not know.

Every section of an experiment is a pydantic model called `Config` beside the code that reads it. Such modules never
import torch, so a wrong file is refused within a second. "Not given" is None, never "falsy": seed 0 is a seed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError


class Unkeyed:
    """Marks a setting that cannot change a result (batch size of a sampler, workers, paths).

    Written as `Annotated[int, Unkeyed]`: recorded in the manifest, left out of the stage's key.
    """


class Settings(BaseModel):
    """Base of every `Config`: frozen, strict types, unknown keys forbidden, attribute docstrings as descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse_unknown(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Name the nearest setting that exists; pydantic's own message only says that extra input is forbidden."""
        known = list(cls.model_fields)
        unknown = [key for key in data if key not in known] if isinstance(data, dict) else []
        if not unknown:
            return handler(data)
        details: list[InitErrorDetails] = []
        for key in unknown:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f" Did you mean `{near[0]}`?" if near else f" It has: {', '.join(known) or 'none'}."
            text = PydanticCustomError("unknown_setting", "no setting `{key}`.{hint}", {"key": str(key), "hint": hint})
            details.append({"type": text, "loc": (key,), "input": data})
        raise ValidationError.from_exception_data(cls.__name__, details)

    def dump(self) -> dict[str, Any]:
        """All settings as plain JSON types, defaults included, for the resolved experiment file."""
        return self.model_dump(mode="json")

    def keyed(self) -> dict[str, Any]:
        """The settings that shape the result, as plain JSON types: what a stage's key is made of."""
        kept: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            if not _is_unkeyed(field):
                kept[name] = _keyed_value(getattr(self, name), self.model_dump(mode="json", include={name})[name])
        return kept


def _is_unkeyed(field: FieldInfo) -> bool:
    return any(mark is Unkeyed or isinstance(mark, Unkeyed) for mark in field.metadata)


def _keyed_value(value: Any, dumped: Any) -> Any:
    keyed = getattr(value, "keyed", None)
    if keyed is not None:
        return keyed()
    if isinstance(value, (list, tuple)):
        return [_keyed_value(item, item_dumped) for item, item_dumped in zip(value, dumped, strict=True)]
    return dumped


def canonical(value: Any) -> str:
    """One JSON text for one value: sorted keys, no spaces, no NaN. What every key of the project hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of `canonical(value)`, 64 hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
