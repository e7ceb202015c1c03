"""`distill init`: a commented experiment file to start from, and its JSON Schema for editors.

With a preset it is a short file that extends the preset, which is copied beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.errors import ConfigError
from distill.experiment import settings_class

SCHEMA_NAME = "experiment.schema.json"


PRESETS = "students"
"""The package that holds `presets/`: a pair of teacher and student a file."""

EXTENDING = """\
# yaml-language-server: $schema={schema}
# The student and its training are in {preset}.yaml; what you write here goes before it.
extends: {preset}.yaml
name: experiment

problems:
  source: {{jsonl: {{path: problems.jsonl, question: question, gold: answer}}}}
  dev: 100
  test: 300
import: {{layout: reference}}         # or traces that are there, see docs/importing.md; or teacher: and sample:
verify: {{verifier: math}}
filter: [verdict, unfinished, repetition, exact_duplicates, {{at_most: 2}}]
"""


def write(folder: Path, sections: Mapping[str, str], preset: str | None = None) -> list[Path]:
    """Write `experiment.yaml` and its schema into `folder`, and the preset that it extends.

    Raises ConfigError if the experiment or the preset is there already, or if there is no such preset.
    """
    template = resources.files("distill").joinpath("template.yaml").read_text(encoding="utf-8")
    texts = {"experiment.yaml": template}
    if preset is not None:
        texts = {
            "experiment.yaml": EXTENDING.format(preset=preset, schema=SCHEMA_NAME),
            f"{preset}.yaml": _preset(preset),
        }
    for name in texts:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name}: is there already; `distill init` overwrites nothing")
    files.write_json(folder / SCHEMA_NAME, schema(sections))
    for name, text in texts.items():
        files.write_text(folder / name, text)
    return [*(folder / name for name in texts), folder / SCHEMA_NAME]


def presets() -> list[str]:
    """Names of all presets."""
    folder = resources.files(PRESETS).joinpath("presets")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def _preset(name: str) -> str:
    if name not in presets():
        near = difflib.get_close_matches(name, presets(), n=1, cutoff=0.5)
        hint = f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(presets())}."
        raise ConfigError(f"--preset {name}: no such preset. {hint}")
    return resources.files(PRESETS).joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")


def schema(sections: Mapping[str, str]) -> dict[str, Any]:
    """JSON Schema of an experiment file: every section with its settings, their types, defaults and meaning."""
    properties: dict[str, Any] = {
        "name": {"type": "string", "description": "Folder of the run, under the workspace."},
        "extends": {"type": "string", "description": "Another experiment file to start from."},
        "seed": {"type": "integer", "minimum": 0, "description": "Seed of training."},
        "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "description": "Repeat with each."},
        "arms": {"type": "object", "description": "Named overrides; stages that arms share run once."},
    }
    definitions: dict[str, Any] = {}
    for name, where in sections.items():
        section = settings_class(where).model_json_schema(ref_template="#/$defs/{model}")
        definitions |= section.pop("$defs", {})
        properties[name] = _with_bare_list(section)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "distill experiment",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _with_bare_list(section: dict[str, Any]) -> dict[str, Any]:
    """A section with one list may be written as the bare list: `filter: [verdict, unfinished]`."""
    lists = [field for field in section.get("properties", {}).values() if field.get("type") == "array"]
    if len(section.get("properties", {})) == 1 and lists:
        return {"anyOf": [lists[0], section]}
    return section
