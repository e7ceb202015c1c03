"""YAML with positions: every value knows the file and line it came from, so that an error can say so.

A safe loader on YAML 1.2's core scalars (`yes` is text, a date is text), which refuses duplicate keys, tags and
anything that is not a plain mapping, list or scalar.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill.core.errors import ConfigError

Key = tuple[str | int, ...]

Replaces = Callable[[Key, Any, Any], bool]
"""(key, what is there, what is laid on it) -> whether it takes its place rather than merging with it."""

MAX_VALUES = 50_000
"""An experiment has some dozens; nested aliases could otherwise expand without end."""


@dataclass(frozen=True)
class Mark:
    """Where a value was written. `line` counts from 1."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass
class Document:
    """Plain data and, for every path into it, where it was written."""

    data: dict[str, Any]
    marks: dict[Key, Mark] = field(default_factory=dict)

    def where(self, key: Key) -> Mark:
        """Mark of a key, or of the nearest thing around it."""
        while key not in self.marks and key:
            key = key[:-1]
        return self.marks.get(key, Mark("<settings>"))

    def sub(self, key: Key) -> Document:
        """The part under `key`, with its marks (empty where there is nothing)."""
        data: Any = self.data
        for part in key:
            data = data[part]
        marks = {path[len(key) :]: mark for path, mark in self.marks.items() if path[: len(key)] == key}
        return Document(data, marks)

    def merged(self, over: Document, replaces: Replaces = lambda *_: False) -> Document:
        """This document with `over` laid on it: mappings merge key by key, anything else is replaced whole.

        So are mappings of which `replaces(key, under, over)` says it.
        """
        result = Document(copy.deepcopy(self.data), dict(self.marks))
        _merge(result.data, over.data, (), result.marks, over.marks, replaces)
        return result


class _Loader(yaml.SafeLoader):
    pass


# YAML 1.2's core schema: only these plain scalars are more than text. PyYAML's own are 1.1's, where `yes` is true.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("tag:yaml.org,2002:int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list("-+0123456789")),
    ("tag:yaml.org,2002:float", r"^[-+]?(?:[0-9][0-9_]*)?\.[0-9_]*(?:[eE][-+]?[0-9]+)?$", list("-+0123456789.")),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def load(path: Path) -> Document:
    """Read one file. Raises ConfigError naming file and line for whatever is not a plain mapping."""
    shown = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{shown}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{shown}: is a folder, not an experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{shown}: cannot be read as UTF-8 text ({error})") from None
    return parse(text, shown)


def parse(text: str, shown: str) -> Document:
    """Parse YAML text; `shown` is the file name in messages."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ConfigError(f"{shown}:{line}: not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        first = str(error).partition("\n")[0]
        raise ConfigError(f"{shown}:1: not YAML: {first}") from None
    if node is None:
        raise ConfigError(f"{shown}:1: the file is empty; `distill init` writes one to start from")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{shown}:{node.start_mark.line + 1}: an experiment is a mapping of sections (`name: ...`)")
    marks: dict[Key, Mark] = {}
    data = _build(node, (), marks, shown, set())
    return Document(data, marks)


def assignment(text: str) -> Document:
    """`train.learning_rate=1.0e-5` as a document of its own. Raises ConfigError for anything of another shape."""
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {text}: write section.setting=value, such as --set train.seed=1")
    shown = f"--set {text}"
    loader = _Loader(value)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}: the value is not YAML: {str(error).partition(chr(10))[0]}") from None
    finally:
        loader.dispose()
    marks: dict[Key, Mark] = {}
    data: Any = None if node is None else _build(node, tuple(parts), marks, shown, set())
    marks = {key: Mark(shown) for key in marks}
    for depth in range(len(parts), 0, -1):
        marks[tuple(parts[:depth])] = Mark(shown)
        data = {parts[depth - 1]: data}
    return Document(data, marks)


def _build(node: yaml.Node, key: Key, marks: dict[Key, Mark], shown: str, above: set[int]) -> Any:
    marks.setdefault(key, Mark(shown, node.start_mark.line + 1))
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ConfigError(f"{shown}:{line}: an alias that contains itself")
    if len(marks) > MAX_VALUES:
        raise ConfigError(f"{shown}:{line}: over {MAX_VALUES:,} values; aliases that multiply?")
    if not isinstance(node, yaml.ScalarNode) and node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
        raise ConfigError(f"{shown}:{line}: the tag {node.tag!r} is not allowed; write plain values")
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            name = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if name is None:
                raise ConfigError(f"{shown}:{key_node.start_mark.line + 1}: a key must be plain text")
            if name in result:
                first = marks[(*key, name)].line
                raise ConfigError(
                    f"{shown}:{key_node.start_mark.line + 1}: `{name}` is given twice (first on line {first})"
                )
            marks[(*key, name)] = Mark(shown, key_node.start_mark.line + 1)
            result[name] = _build(value_node, (*key, name), marks, shown, above | {id(node)})
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*key, place), marks, shown, above | {id(node)}) for place, item in enumerate(node.value)]
    tag = node.tag.rpartition(":")[2]
    if not node.tag.startswith("tag:yaml.org,2002:") or tag not in ("str", "int", "float", "bool", "null"):
        raise ConfigError(f"{shown}:{line}: the tag {node.tag!r} is not allowed; write plain values")
    text: str = node.value
    if tag == "str":
        return text
    if tag == "null":
        return None
    if tag == "bool":
        return text.lower() == "true"
    return int(text.replace("_", "")) if tag == "int" else float(text.replace("_", ""))


def _merge(
    base: dict[str, Any], over: dict[str, Any], key: Key, marks: dict[Key, Mark], new: dict[Key, Mark],
    replaces: Replaces,
) -> None:  # fmt: skip
    for name, value in over.items():
        here = (*key, name)
        if isinstance(value, dict) and isinstance(base.get(name), dict) and not replaces(here, base[name], value):
            _merge(base[name], value, here, marks, new, replaces)
            continue
        for old in [path for path in marks if path[: len(here)] == here]:
            del marks[old]
        marks.update({path: mark for path, mark in new.items() if path[: len(here)] == here})
        base[name] = copy.deepcopy(value)
