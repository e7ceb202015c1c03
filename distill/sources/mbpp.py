"""MBPP's layout: `text` (or `prompt`) that asks for a function, `test_list` of assertions, `test_setup_code`.

    problems: {source: {mbpp: {path: mbpp.jsonl}}}

The question shows the first assertions, which name the function; all of them, and `challenge_test_list`, are tests.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from pydantic import PositiveInt

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.records import Problem, Split
from distill.text.code_tests import FunctionTests, dump

PRIMARY = "path"


class Config(tabular.Preset):
    """Settings of the `mbpp` source."""

    shown: PositiveInt = 1
    """Assertions that the question shows; the usual prompt of MBPP shows all three."""


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return tabular.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the file as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    return tabular.problems(tabular.rows(config.path), partial(to_problem, shown=config.shown), config.split)


def to_problem(row: tabular.Row, where: str, shown: int = 1) -> Problem:
    """One row; faults start with `where`."""
    asked = tabular.text(row, "text" if "text" in row else "prompt", where)
    tests = [*_sources(row, "test_list", where), *_sources(row, "challenge_test_list", where)]
    if not tests:
        raise DistillError(f"{where}: `test_list` is empty; every row needs tests")
    imports = "\n".join(_sources(row, "test_imports", where))
    setup = jsonl.text(row, "test_setup_code", where) if "test_setup_code" in row else None
    examples = "\n".join(tests[:shown])
    return tabular.problem(
        f"{asked.strip()}\n\nYour Python code must pass:\n\n```python\n{examples}\n```",
        gold=None,
        domain="code",
        source="mbpp",
        licence="CC BY 4.0",
        verifier="code",
        tests=dump(
            FunctionTests(called(tests[0]), tuple(tests), setup="\n".join(part for part in (imports, setup) if part))
        ),
    )


def called(test: str) -> str | None:
    """The function that an assertion calls: the first name it calls that Python itself does not have.

    >>> called("assert set(common((1, 2), (2, 3))) == {2}")
    'common'
    """
    try:
        calls = [node for node in ast.walk(ast.parse(test)) if isinstance(node, ast.Call)]
    except (SyntaxError, ValueError):
        return None
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    return next((name for name in names if not hasattr(builtins, name)), None)


def _sources(row: tabular.Row, name: str, where: str) -> Sequence[str]:
    value = row.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DistillError(f"{where}: `{name}` is no list of Python sources")
    return value
