"""Entries of reasoning-gym tasks as JSON: what `Problem.tests` holds for the verifier `reasoning_gym`.

    {"task": "chain_sum", "entry": {"question": ..., "answer": ..., "metadata": {...}}}

Some scorers compare tuples, or look up keys that are no text. JSON has neither, so a tuple is kept as
`{"__tuple__": [...]}` and a dictionary with such keys as `{"__pairs__": [[key, value], ...]}`; `parse` gives back what
the task made.
"""

from __future__ import annotations

import json
from typing import Any


def dump(task: str, entry: dict[str, Any]) -> str:
    """A task's name and entry as one JSON text. Raises TypeError for values that are not plain data.

    >>> dump("maze", {"metadata": {"grid": (1, 2)}})
    '{"entry": {"metadata": {"grid": {"__tuple__": [1, 2]}}}, "task": "maze"}'
    """
    return json.dumps({"task": task, "entry": _packed(entry)}, sort_keys=True, ensure_ascii=False)


def parse(tests: str) -> tuple[str, dict[str, Any]]:
    """The task's name and the entry that `dump` was given. Raises ValueError for anything else."""
    try:
        data = json.loads(tests)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tests are not JSON ({error})") from None
    if not isinstance(data, dict) or not isinstance(data.get("task"), str) or not isinstance(data.get("entry"), dict):
        raise ValueError("tests have no `task` with its `entry`")
    return data["task"], _unpacked(data["entry"])


def _packed(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _packed(value.tolist())
    if isinstance(value, tuple):
        return {"__tuple__": [_packed(item) for item in value]}
    if isinstance(value, list):
        return [_packed(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_packed(item) for item in value), key=json.dumps)
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: _packed(item) for key, item in value.items()}
        return {"__pairs__": [[_packed(key), _packed(item)] for key, item in value.items()]}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)  # dates, fractions: scorers read these as text


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    if isinstance(value, dict):
        if set(value) == {"__tuple__"}:
            return tuple(_unpacked(item) for item in value["__tuple__"])
        if set(value) == {"__pairs__"}:
            return {_unpacked(key): _unpacked(item) for key, item in value["__pairs__"]}
        return {key: _unpacked(item) for key, item in value.items()}
    return value
