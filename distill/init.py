"""`distill init`: a commented experiment file to start from, and its JSON Schema for editors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.errors import ConfigError
from distill.experiment import settings_class

SCHEMA_NAME = "experiment.schema.json"


def write(folder: Path, sections: Mapping[str, str]) -> list[Path]:
    """Write `experiment.yaml` and its schema into `folder`. Raises ConfigError if the experiment is there already."""
    experiment = folder / "experiment.yaml"
    if experiment.exists():
        raise ConfigError(f"{experiment}: is there already; `distill init` overwrites nothing")
    text = resources.files("distill").joinpath("template.yaml").read_text(encoding="utf-8")
    files.write_json(folder / SCHEMA_NAME, schema(sections))
    files.write_text(experiment, text)
    return [experiment, folder / SCHEMA_NAME]


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
