"""Hidden tests of code problems: the JSON that `Problem.tests` holds, written by sources and read by code verifiers.

Three styles, told apart by `style`:

    {"style": "function", "entry_point": "add", "tests": ["assert add(1, 2) == 3", ...],
     "prelude": "from typing import List", "setup": ""}
    {"style": "call", "entry_point": "Solution.add", "cases": [{"input": [1, 2], "output": 3}, ...]}
    {"style": "stdio", "cases": [{"input": "1 2\\n", "output": "3\\n"}, ...]}

- `function` (HumanEval, MBPP): each test is Python source of its own, passed where it raises nothing. Executed in one
  namespace in this order: `prelude`, the answer's program, `setup`, one test. `prelude` is what the question already
  gave (imports, helpers, a signature with its docstring): an answer that is only the function's body continues it, a
  whole function defines it anew. `entry_point` names the function, None where tests only say so themselves.
- `call` (LeetCode-like): `entry_point` is called with the values of `input` as its arguments; what it returns equals
  `output` as JSON values (tuples are lists). `Solution.add` is method `add` of a new `Solution()`.
- `stdio` (contests): the program reads `input` and its output is compared with `output`, whole and in length too.

Every case counts for itself, so that one that runs out of time voids no other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class FunctionTests:
    """Python sources that raise nothing where the answer is right."""

    entry_point: str | None
    tests: tuple[str, ...]
    prelude: str = ""
    setup: str = ""


@dataclass(frozen=True)
class Call:
    """Arguments, and the value to be returned; both as JSON has them."""

    input: tuple[Any, ...]
    output: Any


@dataclass(frozen=True)
class CallTests:
    """Calls of one function or of one method of `Solution`."""

    entry_point: str
    cases: tuple[Call, ...]


@dataclass(frozen=True)
class Exchange:
    """What a program reads and what it prints."""

    input: str
    output: str


@dataclass(frozen=True)
class StdioTests:
    """Runs of a whole program."""

    cases: tuple[Exchange, ...]


CodeTests = FunctionTests | CallTests | StdioTests

_STYLES: dict[str, type[FunctionTests] | type[CallTests] | type[StdioTests]] = {
    "function": FunctionTests,
    "call": CallTests,
    "stdio": StdioTests,
}
_KEYS = {
    "function": ({"entry_point", "tests"}, {"prelude", "setup"}),
    "call": ({"entry_point", "cases"}, set[str]()),
    "stdio": ({"cases"}, set[str]()),
}


def dump(tests: CodeTests) -> str:
    """Tests as `Problem.tests` holds them: one JSON text for one set of tests.

    >>> dump(StdioTests((Exchange("1 2", "3"),)))
    '{"cases": [{"input": "1 2", "output": "3"}], "style": "stdio"}'
    """
    style = next(name for name, kind in _STYLES.items() if isinstance(tests, kind))
    return json.dumps({"style": style, **asdict(tests)}, sort_keys=True, ensure_ascii=False)


def parse(text: str) -> CodeTests:
    """The tests that `dump` wrote. Raises ValueError, saying what is wrong, for anything else."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tests are not JSON ({error})") from None
    style = data.get("style") if isinstance(data, dict) else None
    if not isinstance(style, str) or style not in _STYLES:
        raise ValueError(f"tests have no known `style` ({', '.join(_STYLES)}); got {text[:60]}")
    needed, optional = _KEYS[style]
    given = set(data) - {"style"}
    if missing := sorted(needed - given):
        raise ValueError(f"`{style}` tests have no `{missing[0]}`")
    if unknown := sorted(given - needed - optional):
        raise ValueError(f"`{style}` tests have an unknown `{unknown[0]}`")
    if style == "function":
        return _function(data)
    cases = data["cases"]
    if not isinstance(cases, list) or not cases:
        raise ValueError(f"`{style}` tests have no cases")
    for number, case in enumerate(cases):
        if not isinstance(case, dict) or set(case) != {"input", "output"}:
            raise ValueError(f"case {number} is not an object with `input` and `output`")
    if style == "call":
        return _calls(data["entry_point"], cases)
    if not all(isinstance(case[side], str) for case in cases for side in ("input", "output")):
        raise ValueError("`input` and `output` of a `stdio` case are texts")
    return StdioTests(tuple(Exchange(case["input"], case["output"]) for case in cases))


def tests_fault(tests: str | None) -> str | None:
    """Why hidden tests cannot be run, or None: no JSON of ours, no case, Python that is no Python.

    >>> tests_fault('{"style": "stdio", "cases": []}')
    'tests cannot be used: `stdio` tests have no cases'
    """
    if not tests:
        return "no tests"
    try:
        parsed = parse(tests)
    except ValueError as error:
        return f"tests cannot be used: {error}"
    if isinstance(parsed, FunctionTests):
        for source in (parsed.setup, *parsed.tests):
            try:
                compile(source, "<test>", "exec", dont_inherit=True)  # compiled, never run
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                return f"tests are no Python ({type(error).__name__})"
    return None


def _function(data: dict[str, Any]) -> FunctionTests:
    entry_point, tests = data["entry_point"], data["tests"]
    if entry_point is not None and not _dotted(entry_point):
        raise ValueError(f"`entry_point` is no name: {entry_point!r}")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise ValueError("`tests` is not a list of Python sources")
    prelude, setup = data.get("prelude", ""), data.get("setup", "")
    if not isinstance(prelude, str) or not isinstance(setup, str):
        raise ValueError("`prelude` and `setup` are Python sources")
    return FunctionTests(entry_point, tuple(tests), prelude, setup)


def _calls(entry_point: Any, cases: list[dict[str, Any]]) -> CallTests:
    if not _dotted(entry_point):
        raise ValueError(f"`entry_point` is no name: {entry_point!r}")
    for number, case in enumerate(cases):
        if not isinstance(case["input"], list):
            raise ValueError(f"case {number}: `input` of a `call` is the list of its arguments")
    return CallTests(entry_point, tuple(Call(tuple(case["input"]), case["output"]) for case in cases))


def _dotted(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and all(part.isidentifier() for part in name.split("."))
