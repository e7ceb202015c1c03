"""The `jsonl` source: columns by name, patterns for golds, and errors with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.sources.jsonl import Config, build

EVERYTHING = {"train": None, "dev": None, "test": None}


def read(path: Path, rows: list[Any], **settings: Any) -> list[Problem]:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return list(build(Config(path=str(path), **settings), EVERYTHING))  # type: ignore[arg-type]  # keys are splits


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_takes_columns_by_name(tmp_path: Path, name: str):
    rows = [{"meta": {"text": "1+1?", "kind": "sum"}, "gold": 2, "hard": 3, "how": "count"}]

    problem = read(
        tmp_path / name, rows,
        question="meta.text", gold="gold", domain="meta.kind", level="hard", solution="how", dataset="mine",
        licence="MIT",
    )[0]  # fmt: skip

    assert problem.messages[0].content == "1+1?"
    assert (problem.gold, problem.domain, problem.level, problem.reference_reasoning) == ("2", "sum", "3", "count")
    assert (problem.source, problem.licence) == ("mine", "MIT")


def test_a_pattern_takes_the_gold_out(tmp_path: Path):
    rows = [{"question": "a", "answer": "1 then <ans>7</ans> then <ans>8</ans>"}, {"question": "b", "answer": "none"}]

    problems = read(tmp_path / "rows.jsonl", rows, gold_pattern="<ans>(.*?)</ans>")

    assert [problem.gold for problem in problems] == ["8", None]


def test_a_null_gold_shifts_nothing(tmp_path: Path):
    rows = [{"question": f"q{n}", "answer": None if n == 0 else f"a{n}"} for n in range(6)]

    problems = read(tmp_path / "rows.jsonl", rows)

    assert [(p.messages[0].content, p.gold) for p in problems] == [(r["question"], r["answer"]) for r in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"question": "a", "answer": "1"}\n{"question": "b"}\n',
            r"rows.jsonl:2: no field `answer`; there are `question`",
        ),
        ('{"question": " ", "answer": "1"}\n', r"rows.jsonl:1: `question` is empty"),
        ('\n{"question": "a", "answer": [1]}\n', r"rows.jsonl:2: `answer` is neither text nor a number: \[1\]"),
        ('{"question": "a", "answer": "1"}\n{"question"\n', r"rows.jsonl:2: not JSON"),
        ("[1, 2]\n", r"rows.jsonl:1: a row is an object"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)

    with pytest.raises(DistillError, match=message):
        list(build(Config(path=str(path)), EVERYTHING))  # type: ignore[arg-type]  # keys are splits


def test_a_broken_archive_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(b"no gzip at all")

    with pytest.raises(DistillError, match="cannot be decompressed"):
        list(build(Config(path=str(path)), EVERYTHING))  # type: ignore[arg-type]  # keys are splits


def test_a_broken_pattern_is_refused():
    with pytest.raises(ValidationError, match="no regular expression"):
        Config(path="x", gold_pattern="(")
