"""The `gsm8k` source: golds, and worked solutions without calculator marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.sources.gsm8k import Config, build
from distill.text.answers import gold_fault

EVERYTHING = {"train": None, "dev": None, "test": None}


def read(path: Path, split: str | None = None) -> list[Problem]:
    return list(build(Config(path=str(path), split=split), EVERYTHING))  # type: ignore[arg-type]  # plain names of splits


def test_a_row_becomes_a_problem_with_its_reference(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    answer = "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 1,072"
    path.write_text(json.dumps({"question": "How many?", "answer": answer}) + "\n")

    problem = read(path, "test")[0]

    assert problem.gold == "1,072"
    assert problem.reference_reasoning == "She sold 48/2 = 24 clips in May.\nIn all 48+24 = 72."
    assert problem.split == "test"


def test_a_row_without_the_mark_is_named(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "How many?", "answer": "72"}) + "\n")

    with pytest.raises(DistillError, match=r"rows.jsonl:1: `answer` has no `####`"):
        read(path)


def test_reads_all_of_gsm8k(shared_data: Path):
    problems = read(shared_data / "gsm8k" / "train.jsonl.gz")

    assert len({problem.id for problem in problems}) == 7473
    assert all(gold_fault(problem.gold) is None for problem in problems)
    assert not any("<<" in (problem.reference_reasoning or "") for problem in problems)
    assert all(problem.reference_reasoning for problem in problems)
