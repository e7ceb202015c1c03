"""Plug-ins by file name: a file in the package of its kind is found, listed, loaded and validated by its name.

A plug-in is one module with a docstring whose first line is its help, a `Config` and a `build`. Its file name is its
name in YAML; a dotted path names the user's own module. Names are listed without importing anything.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from distill.core.config import Settings
from distill.core.errors import ConfigError, MissingExtra


def names(package: str) -> list[str]:
    """Names of the plug-ins in `package`, sorted, without importing one of them."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"{package} is not a package of plug-ins")
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def help_line(package: str, name: str) -> str:
    """First line of a plug-in's docstring, read from its source without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.submodule_search_locations is not None
    source = Path(next(iter(spec.submodule_search_locations)), f"{name}.py")
    doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    return (doc or "").partition("\n")[0]


def load(package: str, name: str) -> ModuleType:
    """Import one plug-in.

    Raises ConfigError for an unknown name (with the nearest one), MissingExtra with the install line when a package
    that the plug-in names in `EXTRA = {"package": "extra"}` is not installed. Any other ImportError is a bug and
    surfaces untouched.
    """
    dotted = "." in name
    known = names(package)
    if not dotted and name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise ConfigError(f"no {kind_of(package)} `{name}`.{hint} Known: {', '.join(known)}; or a dotted module path.")
    path = name if dotted else f"{package}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if dotted and error.name and path.startswith(error.name):
            raise ConfigError(f"{kind_of(package)} `{name}`: no module {error.name!r} can be imported") from error
        raise
    for attribute in ("Config", "build"):
        if not hasattr(module, attribute):
            raise ConfigError(f"{kind_of(package)} `{name}`: {path} has no `{attribute}`")
    return module


def require(plugin: str, package: str, extra: str) -> ModuleType:
    """Import an optional package for a plug-in, or say which extra brings it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package.partition(".")[0]:
            raise
        raise MissingExtra(f"{plugin} needs the {package} package: pip install 'reasoning-distill[{extra}]'") from error


def kind_of(package: str) -> str:
    """What a person calls one plug-in of the package: `distill.filters` -> "filter"."""
    last = package.rpartition(".")[2]
    return {"policies": "policy", "losses": "loss", "formats": "export format"}.get(last, last.removesuffix("s"))


@dataclass(frozen=True)
class Choice:
    """A plug-in chosen in the experiment: its name and its validated settings."""

    package: str
    tag: str
    name: str
    config: Settings

    def module(self) -> ModuleType:
        """The plug-in's module, for its `build`."""
        return load(self.package, self.name)

    def dump(self) -> dict[str, Any]:
        """`{tag: name, **settings}`: the long form in which the resolved file writes it."""
        return {self.tag: self.name, **self.config.dump()}

    def keyed(self) -> dict[str, Any]:
        """As `dump`, without the settings that cannot change a result."""
        return {self.tag: self.name, **self.config.keyed()}


@dataclass(frozen=True)
class ChoiceOf:
    """Annotation of a setting that chooses a plug-in: `Annotated[Choice, ChoiceOf("distill.filters", "filter")]`.

    Accepts a name (`verdict`), the long form (`{filter: repetition, max_ratio: 0.3}`), and the short forms
    `{repetition: {max_ratio: 0.3}}` and, for a plug-in whose `Config` has one field or names a `PRIMARY`,
    `{at_most: 2}`.
    """

    package: str
    tag: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate, serialization=core_schema.plain_serializer_function_ser_schema(lambda c: c.dump())
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        known = names(self.package)
        return {
            "anyOf": [
                {"type": "string", "examples": known},
                {"type": "object", "properties": {self.tag: {"type": "string", "examples": known}}},
            ]
        }

    def _validate(self, value: Any) -> Choice:
        if isinstance(value, Choice):
            return value
        name, rest = self._split(value)
        try:
            module = load(self.package, name)
        except ConfigError as error:
            raise PydanticCustomError("plugin", "{text}", {"text": str(error)}) from error
        config_class: type[Settings] = module.Config
        if self.tag in config_class.model_fields:
            raise TypeError(
                f"{module.__name__}.Config has a field `{self.tag}`, which is how a choice names its plug-in"
            )
        if not isinstance(rest, dict):
            primary = getattr(module, "PRIMARY", None) or next(iter(config_class.model_fields), None)
            if primary is None:
                raise PydanticCustomError("plugin", "`{name}` has no settings", {"name": name})
            rest = {primary: rest}
        return Choice(self.package, self.tag, name, config_class.model_validate(rest))

    def is_another(self, under: Any, over: Any) -> bool:
        """Whether `over`, as it is written in a file, names a plug-in, and another one than `under` does.

        Settings of one plug-in are no settings of another: such a choice is replaced, not merged into.
        """
        try:
            first, second = self._split(under)[0], self._split(over)[0]
        except PydanticCustomError:
            return False  # settings without a name, laid on a choice: they belong to the one that is there
        return first != second and (second in names(self.package) or "." in second)

    def _split(self, value: Any) -> tuple[str, Any]:
        if isinstance(value, str):
            return value, {}
        if isinstance(value, dict) and isinstance(value.get(self.tag), str):
            return value[self.tag], {key: item for key, item in value.items() if key != self.tag}
        if isinstance(value, dict) and len(value) == 1 and self.tag not in value:
            ((name, rest),) = value.items()
            return name, {} if rest is None else rest
        raise PydanticCustomError(
            "plugin", "names no {kind}: write `{tag}: NAME` with one of {known}",
            {"kind": kind_of(self.package), "tag": self.tag, "known": ", ".join(names(self.package))},
        )  # fmt: skip
