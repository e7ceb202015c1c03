"""LiveCodeBench's layout: `question_content`, `starter_code`, public and private test cases, `metadata`.

    problems: {source: {livecodebench: {path: "test*.jsonl", split: test}}}

Cases of type `stdin` become runs of a whole program, `functional` ones calls of the method that `metadata` names.
Private cases are often packed (base64, zlib, a pickled text): unpacked without running anything.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.records import Problem, Split
from distill.text.code_tests import Call, CallTests, CodeTests, Exchange, StdioTests, dump

UNPACKED_BYTES = 1 << 30
"""Most that a row's packed cases may become."""


class Config(tabular.Preset):
    """Settings of the `livecodebench` source."""


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return tabular.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the file as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    return tabular.problems(tabular.rows(config.path), to_problem, config.split)


def to_problem(row: tabular.Row, where: str) -> Problem:
    """One row; faults start with `where`."""
    question = tabular.text(row, "question_content", where).strip()
    starter = (jsonl.text(row, "starter_code", where) if "starter_code" in row else None) or ""
    cases = [*_cases(row, "public_test_cases", where), *_cases(row, "private_test_cases", where)]
    if starter.strip():
        ask = f"{question}\n\nComplete this Python code:\n\n```python\n{starter.rstrip()}\n```"
    else:
        ask = f"{question}\n\nWrite a Python program that reads standard input and prints the answer."
    return tabular.problem(
        ask,
        gold=None,
        domain="code",
        level=(jsonl.text(row, "difficulty", where) if "difficulty" in row else None) or "",
        source="livecodebench",
        verifier="code",
        tests=dump(_tests(row, starter, cases, where)),
    )


def _tests(row: tabular.Row, starter: str, cases: list[dict[str, Any]], where: str) -> CodeTests:
    kinds = {case.get("testtype", "stdin") for case in cases}
    if not cases or len(kinds) != 1 or not kinds <= {"stdin", "functional"}:
        raise DistillError(f"{where}: test cases of type {', '.join(sorted(map(str, kinds))) or 'none'}; one is needed")
    if not all(isinstance(case.get(side), str) for case in cases for side in ("input", "output")):
        raise DistillError(f"{where}: a test case has no text `input` and `output`")
    if kinds == {"stdin"}:
        return StdioTests(tuple(Exchange(case["input"], case["output"]) for case in cases))
    about = _json(row.get("metadata") or "{}", "metadata", where)
    name = about.get("func_name") if isinstance(about, dict) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise DistillError(f"{where}: `metadata` has no `func_name` for its functional cases")
    calls = [
        Call(
            tuple(_json(line, "input", where) for line in case["input"].split("\n") if line.strip()),
            _json(case["output"], "output", where),
        )
        for case in cases
    ]
    return CallTests(f"Solution.{name}" if "class Solution" in starter else name, tuple(calls))


def _cases(row: tabular.Row, name: str, where: str) -> list[dict[str, Any]]:
    """The cases of a column: a list, its JSON, or the packed form of that."""
    value = row.get(name) or []
    if isinstance(value, str):
        text = value if value.lstrip().startswith("[") else _unpacked(value, name, where)
        value = _json(text, name, where)
    if not isinstance(value, list) or not all(isinstance(case, dict) for case in value):
        raise DistillError(f"{where}: `{name}` is no list of test cases")
    return value


class _TextOnly(pickle.Unpickler):
    """Reads a pickle of plain values; whatever would import or call something is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _unpacked(value: str, name: str, where: str) -> str:
    try:
        inflate = zlib.decompressobj()
        data = inflate.decompress(base64.b64decode(value, validate=True), UNPACKED_BYTES)
        if inflate.unconsumed_tail:
            raise DistillError(f"{where}: `{name}` unpacks to more than {UNPACKED_BYTES >> 20} MiB")
        text = _TextOnly(io.BytesIO(data)).load()
    except (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError) as error:
        raise DistillError(f"{where}: `{name}` cannot be unpacked ({error})") from error
    if not isinstance(text, str):
        raise DistillError(f"{where}: `{name}` unpacks to no text")
    return text


def _json(text: str, name: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DistillError(f"{where}: `{name}` is not JSON ({error})") from error
