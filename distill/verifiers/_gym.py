"""reasoning-gym's scorers, in a worker process. Some hand the answer to `eval` or to sympy's parser, which is `eval`.

Importing this module replaces both in the process, for good: `eval` by a reader of Python literals and integer
arithmetic, the parser by one that lets formulas through whose names are all known. A worker is killed at its limits,
but it is no sandbox: what a model wrote must never run in it.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import reasoning_gym
import sympy
from reasoning_gym.factory import DATASETS
from sympy.parsing import sympy_parser

from distill.text.gym_tests import parse

_FUNCTION = re.compile("a?(?:sin|cos|tan|sec|csc|cot)h?|sqrt|cbrt|exp|log|ln|Abs|abs|pi|oo|Rational|Integer|Float")
"""Names of more than one letter that a formula may hold."""
_FORMULA = re.compile(r"[0-9A-Za-z+\-*/^%!=(),.\s]*")
_NUMBER = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?")
_NAME = re.compile(r"[A-Za-z]+[A-Za-z0-9]*")
_ARITHMETIC = re.compile(r"(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?|<<|>>|[-+*/%&|^~() \t])*")


def score(task: dict[str, str]) -> dict[str, Any]:
    """`{"tests", "answer"}` to `{"score", "why"}`, or to `{"fault": why the problem cannot be scored}`.

    `score` is the scorer's, 0 to 1, and None where it could not read the answer; `why` says where it is not its word.
    """
    name, entry = parse(task["tests"])
    if name not in DATASETS:
        return {"fault": f"reasoning_gym has no task {name[:60]}"}
    if lacks := {"question", "answer", "metadata"} - set(entry):
        return {"fault": f"task {name}: its entry lacks {min(lacks)}"}
    answer, gold = task["answer"], entry["answer"] if isinstance(entry["answer"], str) else None
    value = _scored(name, answer, entry)
    if isinstance(value, str):
        broken = gold is not None and isinstance(_scored(name, gold, entry), str)
        return {"fault": f"task {name}: {value}"} if broken else {"score": None, "why": value}
    if value >= 1 and gold is not None and (why := _doubt(name, answer, gold, entry)):
        return {"score": 0.0, "why": why}
    return {"score": value, "why": ""}


def _scored(name: str, answer: str, entry: dict[str, Any]) -> float | str:
    """A score, or what the scorer raised: they raise anything at all."""
    try:
        value = float(_scorer(name)(answer, entry))
    except MemoryError:
        raise
    except Exception as error:  # the answer's fault or the entry's, never a reason to end
        return f"scorer raised {type(error).__name__}"
    return value if math.isfinite(value) else f"scored {value}"


CANARY = "no idea"
"""An answer that is never right."""
_NAN = re.compile(r"[-+*/()\s\dij.]*(?:nan[-+*/()\s\dij.]*)+", re.IGNORECASE)
MAX_DEVIATION = 0.01


def _doubt(name: str, answer: str, gold: str, entry: dict[str, Any]) -> str:
    """Why a full score is not believed: some scorers give it to any text, to NaN, to the first digits of the gold."""
    if answer.strip().casefold() == gold.strip().casefold():
        return ""
    free = _scored(name, CANARY, entry)
    if not isinstance(free, str) and free >= 1:
        return "its scorer accepts anything"
    if _NAN.fullmatch(answer):
        return "not a number"
    said, true = _number(answer), _number(gold)
    if said is not None and true is not None and abs(said - true) > MAX_DEVIATION * abs(true):
        return "another number"
    if name == "puzzle24" and sorted(map(int, re.findall(r"\d+", answer))) != sorted(entry["metadata"]["numbers"]):
        return "other numbers than those given"  # which its scorer does not look at
    return ""


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "")) if len(text) < 100 else None
    except (ValueError, ZeroDivisionError):
        return None


@functools.cache
def _scorer(name: str) -> Callable[[str, dict[str, Any]], float]:
    found: Callable[[str, dict[str, Any]], float] = reasoning_gym.get_score_answer_fn(name)
    return found


def read_value(text: Any, *scopes: Any) -> Any:
    """In place of `eval`: the value of a Python literal or of arithmetic on numbers. Raises ValueError otherwise."""
    del scopes
    if not isinstance(text, str):
        raise ValueError("not text")
    if _ARITHMETIC.fullmatch(text) and "**" not in text:
        return eval(text, {"__builtins__": {}})  # numbers and operators alone: there is no name to call
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("no literal") from error


def refuse(*_: Any, **__: Any) -> Any:
    """In place of `exec`."""
    raise ValueError("programs are not run here")


def is_formula(text: str) -> bool:
    """Whether a text has numbers, operators and known names alone: nothing to call but functions of mathematics.

    >>> is_formula("x**2/2 + sin(x) + C"), is_formula("eval(chr(49))"), is_formula("x.y"), is_formula("2.5")
    (True, False, False, True)
    """
    if not _FORMULA.fullmatch(text):
        return False
    rest = _NUMBER.sub(" ", text)
    return "." not in rest and all(len(name) == 1 or bool(_FUNCTION.fullmatch(name)) for name in _NAME.findall(rest))


_parse_expr: Callable[..., Any] = sympy_parser.parse_expr


def parse_formula(text: Any, *args: Any, **kwargs: Any) -> Any:
    """In place of `parse_expr`. Raises ValueError for what is no formula."""
    if not isinstance(text, str) or not is_formula(text):
        raise ValueError("no formula")
    return _parse_expr(text, *args, **kwargs)


def _disarm() -> None:
    sympy_parser.parse_expr = parse_formula
    for name in ("sympy", "sympy.parsing"):
        if hasattr(sys.modules[name], "parse_expr"):
            sys.modules[name].parse_expr = parse_formula  # type: ignore[attr-defined]  # re-exported there
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "reasoning_gym":
            vars(module).update({"eval": read_value, "exec": refuse})
            for alias in [alias for alias, value in vars(module).items() if value is _parse_expr]:
                setattr(module, alias, parse_formula)


_disarm()
assert sympy.parse_expr is parse_formula
