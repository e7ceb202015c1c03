"""One YAML file is one experiment: read, extended, overridden, split into arms, and checked, all before any work.

name: math-small
extends: base.yaml            # another file as base
seed: 0                       # or seeds: [0, 1, 2]: training is repeated with each
arms:                         # named overrides; stages that several arms share run once
  sft: {train: {loss: none}}
  kl: {}
problems: ...                 # one section a stage
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from distill.core import yaml
from distill.core.config import Settings
from distill.core.errors import ConfigError
from distill.core.plugins import ChoiceOf
from distill.core.yaml import Document, Key, Replaces

TOP_KEYS = ("name", "extends", "seed", "seeds", "arms")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Arm:
    """One variant of the experiment: its validated sections, by name, with every default filled in."""

    name: str
    sections: Mapping[str, Settings]


@dataclass(frozen=True)
class Experiment:
    """A checked experiment. `sections` of each arm hold only what the file asks for."""

    name: str
    file: str
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]

    def resolved(self) -> dict[str, Any]:
        """Everything as plain data, defaults included: what the run directory keeps."""
        arms = {arm.name: {name: section.dump() for name, section in arm.sections.items()} for arm in self.arms}
        return {"name": self.name, "seeds": list(self.seeds), "arms": arms}


def load(path: Path, sections: Mapping[str, str], overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file. `sections` maps a section's name to `module:Class` of its settings.

    Raises ConfigError, one line with file and line, for anything that is wrong with it.
    """
    replaces = _replaces(sections)
    document = _extended(path, (), replaces)
    for text in overrides:
        document = document.merged(yaml.assignment(text), replaces)
    known = [*TOP_KEYS, *sections]
    for key in document.data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
            raise ConfigError(f"{document.where((key,))}: no section `{key}`. {hint}")
    name = _name(document, path)
    seeds = _seeds(document)
    arms = tuple(
        Arm(arm, _sections(variant, sections, arm if "arms" in document.data else None))
        for arm, variant in _variants(document, replaces)
    )
    return Experiment(name, str(path), seeds, arms)


def check(experiment: Experiment, checks: Sequence[str], path: Path, overrides: Sequence[str] = ()) -> None:
    """Refuse combinations that cannot work: each of `checks` names a module with `check(sections)`.

    It returns None, or the path of the setting at fault and what to do about it.
    """
    document = _extended(path, (), _never)
    for text in overrides:
        document = document.merged(yaml.assignment(text))
    variants = dict(_variants(document, _never))  # only for the lines that things were written on
    for arm in experiment.arms:
        for module in checks:
            fault = importlib.import_module(module).check(arm.sections)
            if fault is not None:
                key, text = fault
                raise ConfigError(f"{variants[arm.name].where(key)}: {text}")


def _never(*_: object) -> bool:
    return False


def _replaces(sections: Mapping[str, str]) -> Replaces:
    """Settings that choose a plug-in are replaced by those of another: `{reverse_kl: ...}` over `{forward_kl: ...}`."""

    def replaces(key: Key, under: Any, over: Any) -> bool:
        if len(key) != 2 or key[0] not in sections:
            return False
        field = settings_class(sections[str(key[0])]).model_fields.get(str(key[1]))
        choice = None if field is None else _choice((field.annotation, *field.metadata))
        return choice is not None and choice.is_another(under, over)

    return replaces


def _choice(parts: Iterable[Any]) -> ChoiceOf | None:
    """The first `ChoiceOf` in an annotation, however deep."""
    for part in parts:
        found = part if isinstance(part, ChoiceOf) else _choice(get_args(part))
        if found is not None:
            return found
    return None


def _extended(path: Path, above: tuple[Path, ...], replaces: Replaces) -> Document:
    document = yaml.load(path)
    base = document.data.pop("extends", None)
    if base is None:
        return document
    mark = document.where(("extends",))
    if not isinstance(base, str):
        raise ConfigError(f"{mark}: `extends` names one file")
    target = (path.parent / base).resolve()
    if target in above or target == path.resolve():
        raise ConfigError(f"{mark}: `extends: {base}` leads back to a file that extends it")
    if not target.exists():
        raise ConfigError(f"{mark}: `extends: {base}`: no such file ({path.parent / base})")
    under = _extended(path.parent / base, (*above, path.resolve()), replaces)
    # Arms and seeds of the base are replaced, not added to: an experiment says itself what it compares.
    replaced = {"seed", "seeds"} if {"seed", "seeds"} & set(document.data) else set()
    replaced |= {"arms"} & set(document.data)
    kept = {key: value for key, value in under.data.items() if key not in replaced}
    return Document(kept, under.marks).merged(document, replaces)


def _name(document: Document, path: Path) -> str:
    name = document.data.get("name", path.stem)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{document.where(('name',))}: `name` is a folder's name: letters, digits, `.`, `_`, `-`; got {name!r}"
        )
    return name


def _seeds(document: Document) -> tuple[int, ...]:
    data = document.data
    if "seed" in data and "seeds" in data:
        raise ConfigError(f"{document.where(('seeds',))}: give `seed` or `seeds`, not both")
    seeds = data["seeds"] if "seeds" in data else [data.get("seed", 0)]
    whole = isinstance(seeds, list) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not whole or not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        key = "seeds" if "seeds" in data else "seed"
        what = "a list of different whole numbers" if key == "seeds" else "a whole number"
        raise ConfigError(f"{document.where((key,))}: `{key}` is {what}, 0 or more; got {data[key]!r}")
    return tuple(seeds)


def _variants(document: Document, replaces: Replaces) -> list[tuple[str, Document]]:
    base = Document({k: v for k, v in document.data.items() if k not in TOP_KEYS}, document.marks)
    if "arms" not in document.data:
        return [("main", base)]
    arms = document.data["arms"]
    mark = document.where(("arms",))
    if not isinstance(arms, dict) or not arms:
        raise ConfigError(f"{mark}: `arms` maps names to overrides, such as `sft: {{train: {{loss: none}}}}`")
    variants = []
    for name, override in arms.items():
        where = document.where(("arms", name))
        if not NAME.fullmatch(name):
            raise ConfigError(f"{where}: an arm's name has letters, digits, `.`, `_`, `-`; got {name!r}")
        if override is None:
            override = {}
        if not isinstance(override, dict):
            raise ConfigError(f"{where}: arm `{name}` holds sections to override; got {override!r}")
        for section in override:
            if section in TOP_KEYS:
                raise ConfigError(f"{document.where(('arms', name, section))}: an arm cannot set `{section}`")
        part = Document(override, document.sub(("arms", name)).marks)
        variants.append((name, base.merged(part, replaces)))
    return variants


def _sections(document: Document, known: Mapping[str, str], arm: str | None) -> dict[str, Settings]:
    sections: dict[str, Settings] = {}
    for name, data in document.data.items():
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ConfigError(f"{document.where((name,))}: arm `{arm}`: no section `{name}`.{hint}")
        if data is None and document.where((name,)).line is not None:
            data = {}
        settings = settings_class(known[name])
        try:
            sections[name] = settings.model_validate(data)
        except ValidationError as error:
            raise ConfigError(describe(error, document, (name,))) from None
    return sections


def settings_class(where: str) -> type[Settings]:
    """The settings class that `module:Class` names."""
    module, _, name = where.partition(":")
    found: type[Settings] = getattr(importlib.import_module(module), name)
    return found


def describe(error: ValidationError, document: Document, section: Key) -> str:
    """The first fault as one line: `file:line: section.key: what is wrong`."""
    fault = error.errors(include_url=False)[0]
    inner = tuple(fault["loc"])
    key, got, kind = (*section, *inner), fault["input"], fault["type"]
    dotted = _dotted(key)
    if kind == "unknown_setting":
        return f"{document.where(key)}: `{_dotted(key[:-1])}` has {fault['msg']}"
    if kind == "missing":
        return f"{document.where(key[:-1])}: `{_dotted(key[:-1])}` needs `{key[-1]}`"
    text = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind in ("plugin", "value_error") or kind.startswith("plugin"):
        return f"{document.where(key)}: `{dotted}`: {text}"
    hint = ""
    if isinstance(got, str) and kind in ("float_type", "int_type"):
        hint = _number_hint(got)
    shown = f"the text {got!r}" if isinstance(got, str) else _short(got)
    return f"{document.where(key)}: `{dotted}` is {shown}, but {text}{hint}"


def _number_hint(got: str) -> str:
    if re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", got):
        mantissa, _, exponent = got.lower().partition("e")
        return f" (YAML reads a number in this notation only with a point: {mantissa}.0e{exponent})"
    return " (without quotes?)" if re.fullmatch(r"[-+]?[\d.]+", got) else ""


def _dotted(key: Key) -> str:
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
