"""Values between a judge and a candidate program, as JSON texts that carry plain data and nothing else.

None, bool, str, float and small int are themselves; other plain types are an object with one key (`{"t": [...]}` is a
tuple). Decoding builds exact built-in types only (a subclass comes back as its base, so that no method of the
candidate's, `__eq__` least of all, is ever called) and a few of the standard library's value types. What is no plain
data becomes a reference that only its owner can resolve: `{"h": 3}` belongs to the candidate, `{"j": 0}` to the judge.
Only a judge sends iterators (`I`, by what they yield) and objects (`o`, by their class's name and attributes).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # mypy knows this name; importing `typing` would cost every program milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Refer = Callable[[Any], dict[str, Any]]
    Resolve = Callable[[dict[str, Any]], Any]

DICTS = ("collections.Counter", "collections.OrderedDict")
"""Dicts that compare otherwise than a dict."""
SAFE_INT = 1 << 53
MAX_DEPTH = 400
"""Values nested deeper than this are not sent."""
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range, type(None),
                 object, type)
}  # fmt: skip
"""Types that are sent by name: tests that ask `remove(values, str)`, programs that return `type(x)`."""


class NotPlain(Exception):
    """A value that cannot be sent."""


def encode(value: Any, refer: Refer, depth: int = 0) -> Any:
    """`value` as JSON types. `refer` gives the reference for what is no plain data, or raises NotPlain."""
    if value is None or value is True or value is False:
        return value
    if depth > MAX_DEPTH:
        raise NotPlain("nested too deeply")
    kind = type(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -SAFE_INT < number < SAFE_INT else {"i": hex(number)}  # hex: no limit on digits
    if isinstance(value, list):
        return [encode(item, refer, depth + 1) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"t": [encode(item, refer, depth + 1) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        pairs = [[encode(k, refer, depth + 1), encode(v, refer, depth + 1)] for k, v in dict.items(value)]
        name = f"{kind.__module__}.{kind.__name__}"
        return {"v": [name, pairs]} if name in DICTS else {"d": pairs}
    if isinstance(value, (set, frozenset)):
        return {"s" if isinstance(value, set) else "S": [encode(item, refer, depth + 1) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"b" if isinstance(value, bytes) else "B": bytes(value).hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind is range:
        return {"r": [encode(part, refer, depth + 1) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, type) and TYPES.get(value.__name__) is value:
        return {"n": value.__name__}
    values = _values_of(value, kind)
    if values is not None:
        return {"v": [values[0], encode(values[1], refer, depth + 1)]}
    return refer(value)


def _values_of(value: Any, kind: type) -> tuple[str, Any] | None:
    """Value types of the standard library: their name and what they are made from."""
    name = f"{kind.__module__}.{kind.__name__}"
    module = sys.modules.get(kind.__module__)
    if name not in _MADE or module is None or getattr(module, kind.__name__, None) is not kind:
        return None
    if name == "fractions.Fraction":
        return name, [value.numerator, value.denominator]
    if name == "decimal.Decimal":
        return name, [str(value)]
    if name == "collections.deque":
        return name, [list(value), value.maxlen]
    if name == "array.array":
        return name, [value.typecode, list(value)]
    if name == "datetime.timedelta":
        return name, [value.days, value.seconds, value.microseconds]
    if getattr(value, "tzinfo", None) is not None:
        return None
    return name, [value.isoformat()]


def _fraction(numerator: int, denominator: int) -> Any:
    from fractions import Fraction

    return Fraction(numerator, denominator)


def _decimal(text: str) -> Any:
    from decimal import Decimal

    return Decimal(text)


def _deque(items: list[Any], maxlen: int | None) -> Any:
    from collections import deque

    return deque(items, maxlen)


def _array(code: str, items: list[Any]) -> Any:
    from array import array

    return array(code, items)


def _timedelta(days: int, seconds: int, microseconds: int) -> Any:
    from datetime import timedelta

    return timedelta(days, seconds, microseconds)


def _moment(name: str) -> Callable[[str], Any]:
    def made(text: str) -> Any:
        import datetime

        return getattr(datetime, name).fromisoformat(text)

    return made


_MADE: dict[str, Callable[..., Any]] = {
    "fractions.Fraction": _fraction,
    "decimal.Decimal": _decimal,
    "collections.deque": _deque,
    "array.array": _array,
    "datetime.timedelta": _timedelta,
    "datetime.date": _moment("date"),
    "datetime.time": _moment("time"),
    "datetime.datetime": _moment("datetime"),
}


def decode(data: Any, resolve: Resolve, depth: int = 0) -> Any:
    """The value that was encoded. `resolve` turns references into what stands for them.

    Raises NotPlain for whatever `encode` would not have written.
    """
    if data is None or isinstance(data, (bool, str, int, float)):
        return data
    if depth > MAX_DEPTH + 2:
        raise NotPlain("nested too deeply")
    if isinstance(data, list):
        return [decode(item, resolve, depth + 1) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise NotPlain("no value")
    ((tag, body),) = data.items()
    try:
        return _decoded(tag, body, resolve, depth)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        raise NotPlain(f"no value ({type(error).__name__})") from None


def _decoded(tag: str, body: Any, resolve: Resolve, depth: int) -> Any:
    def items() -> list[Any]:
        if not isinstance(body, list):
            raise NotPlain("no list")
        return [decode(item, resolve, depth + 1) for item in body]

    def pairs(source: Any) -> list[tuple[Any, Any]]:
        return [(decode(key, resolve, depth + 1), decode(value, resolve, depth + 1)) for key, value in source]

    if tag == "i":
        return int(body, 16)
    if tag == "t":
        return tuple(items())
    if tag == "s":
        return set(items())
    if tag == "S":
        return frozenset(items())
    if tag == "d":
        return dict(pairs(body))
    if tag == "b":
        return bytes.fromhex(body)
    if tag == "B":
        return bytearray.fromhex(body)
    if tag == "c":
        real, imaginary = body
        return complex(float(real), float(imaginary))
    if tag == "r":
        return range(*items())
    if tag == "n":
        return TYPES[body]
    if tag == "v":
        name, parts = body
        if name in DICTS:
            import collections

            return (
                collections.Counter(dict(pairs(parts))) if name.endswith("r") else collections.OrderedDict(pairs(parts))
            )
        return _MADE[name](*decode(parts, resolve, depth + 1))
    if tag == "I":
        return iter(items())
    if tag in ("h", "g", "j", "o"):
        return resolve({tag: body})
    raise NotPlain("an unknown kind of value")


def no_references(_: Any) -> Any:
    """For `encode` and `decode` where only plain data will do."""
    raise NotPlain("no plain data")
