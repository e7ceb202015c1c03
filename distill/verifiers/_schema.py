"""JSON Schema, in a worker process: a schema's patterns and references may take any time, and fetch nothing."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator, SchemaError, validators
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from distill.text.constraints import json_value


def schema_fault(schema: Any) -> str:
    """Why something is no JSON Schema; empty: it is one. Without `$schema` it is read as draft 2020-12."""
    checker = _checker(schema)
    if checker is None:
        return f"no JSON Schema: unknown dialect {str(schema['$schema'])[:80]}"
    try:
        checker.check_schema(schema)
    except SchemaError as error:
        return f"no JSON Schema: {error.message[:200]}"
    except RecursionError:
        return "no JSON Schema: nested too deeply"
    return ""


def validate(task: dict[str, Any]) -> dict[str, str]:
    """`{"schema", "text"}` to `{"fault": what the text does wrong, "schema_fault": what is wrong with the schema}`."""
    schema = task["schema"]
    if fault := schema_fault(schema):
        return {"fault": "", "schema_fault": fault}
    try:
        value = json_value(task["text"])
    except ValueError:
        return {"fault": "no JSON", "schema_fault": ""}
    try:
        # Without a registry given, the library would fetch references from the network.
        first = next(_checker(schema)(schema, registry=REGISTRY).iter_errors(value), None)
    except Unresolvable as error:
        return {"fault": "", "schema_fault": f"a reference leads nowhere: {str(error.ref)[:80]}"}
    except RecursionError:
        return {"fault": "nested too deeply", "schema_fault": ""}
    return {"fault": "" if first is None else f"at {first.json_path[:80]}: {first.validator}", "schema_fault": ""}


def _checker(schema: Any) -> Any:
    """The class for a schema's dialect; None for one that is not known."""
    if not isinstance(schema, dict) or "$schema" not in schema:
        return Draft202012Validator
    if not isinstance(schema["$schema"], str):
        return None
    return validators.validator_for(schema, default=None)  # type: ignore[arg-type]  # what it gives back if none fits
