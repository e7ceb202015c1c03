"""The `mixture` source: counts and weights, no order that matters, shortage said, provenance kept."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.sources import mixture
from distill.sources.mixture import Config

EVERYTHING = {"train": None, "dev": None, "test": None}


def file(folder: Path, name: str, numbers: range, **more: Any) -> dict[str, Any]:
    """A part's source: one question a number; the same number is the same question in every part."""
    path = folder / f"{name}.jsonl"
    rows = [{"question": f"What is {n}+{n}?", "answer": 2 * n} for n in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"jsonl": {"path": str(path), **more}}


def build(**settings: Any) -> list[Problem]:
    return list(mixture.build(Config.model_validate(settings), EVERYTHING))


def sizes(problems: list[Problem]) -> dict[str, int]:
    return dict(Counter(problem.domain for problem in problems))


def test_parts_give_their_counts_under_their_names(tmp_path: Path):
    parts = {
        "maths": {"source": file(tmp_path, "a", range(100), dataset="sums", licence="MIT"), "count": 30},
        "general": {
            "source": file(tmp_path, "b", range(100, 200), gold=None),
            "count": 50, "thinking": False, "licence": "CC0",
        },
    }  # fmt: skip
    problems = build(parts=parts)

    assert sizes(problems) == {"maths": 30, "general": 50}
    assert {(p.domain, p.source, p.licence, p.thinking, p.gold is None) for p in problems} == {
        ("maths", "sums", "MIT", None, False),
        ("general", "b.jsonl", "CC0", False, True),
    }


def test_neither_the_order_of_parts_nor_of_rows_matters(tmp_path: Path):
    parts = {
        "one": {"source": file(tmp_path, "a", range(60)), "count": 20},
        "two": {"source": file(tmp_path, "b", range(40, 120)), "count": 20},
    }
    before = {p.id: p for p in build(parts=parts)}
    for name in ("a", "b"):
        path = tmp_path / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(random.Random(0).sample(lines, len(lines))))

    assert {p.id: p for p in build(parts=dict(reversed(parts.items())))} == before


def test_a_question_of_two_parts_belongs_to_the_first_by_name(tmp_path: Path):
    parts = {
        "b": {"source": file(tmp_path, "b", range(10)), "count": 10},
        "a": {"source": file(tmp_path, "a", range(4)), "count": 4},
    }

    assert sizes(build(parts=parts, short="take")) == {"a": 4, "b": 6}
    with pytest.raises(DistillError, match=r"part `b` has 6 problems, 10 are wanted \(4 more are in an earlier part"):
        build(parts=parts)


def test_a_larger_count_keeps_what_the_smaller_one_took(tmp_path: Path):
    source = file(tmp_path, "a", range(100))

    def ids(count: int, seed: int) -> set[str]:
        return {p.id for p in build(parts={"a": {"source": source, "count": count}}, seed=seed)}

    few, many, other = ids(10, 0), ids(30, 0), ids(10, 1)

    assert few < many
    assert few != other


def test_shortage_stops_or_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    parts = {"a": {"source": file(tmp_path, "a", range(5)), "count": 9}}

    with pytest.raises(DistillError, match="part `a` has 5 problems, 9 are wanted; lower .* `short: take`"):
        build(parts=parts)
    assert len(build(parts=parts, short="take")) == 5
    assert "mixture: a 5 of 5 (9 wanted)" in capsys.readouterr().err


def test_weights_share_a_total_or_what_the_scarcest_part_allows(tmp_path: Path):
    parts = {
        "a": {"source": file(tmp_path, "a", range(100)), "weight": 2},
        "b": {"source": file(tmp_path, "b", range(100, 130)), "weight": 1},
        "c": {"source": file(tmp_path, "c", range(130, 300)), "weight": 0.5},
    }
    parts = {name: {**part, "weight": float(part["weight"])} for name, part in parts.items()}  # type: ignore[arg-type]  # numbers

    assert sizes(build(parts=parts)) == {"a": 60, "b": 30, "c": 15}
    for total in (7, 20, 50):
        assert len(build(parts=parts, total=total)) == total
    assert sizes(build(parts=parts, total=7)) == {"a": 4, "b": 2, "c": 1}


def test_repeats_and_conflicting_golds_reach_the_stage(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    rows = [{"question": f"q{n % 5}", "answer": n} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    problems = build(parts={"a": {"source": {"jsonl": {"path": str(path)}}, "count": 5}})

    assert sorted(int(p.gold or "") for p in problems) == list(range(10))


def test_a_part_of_generated_problems_is_asked_for_its_count():
    parts = {"sums": {"source": "embedded", "count": 7}}
    config = Config.model_validate({"parts": parts})

    problems = list(mixture.build(config, {"train": None, "dev": 2, "test": 3}))

    assert mixture.own_split(config)
    assert Counter(p.split for p in problems) == {"train": 7, "dev": 2, "test": 3}


def test_parts_with_and_without_splits_do_not_mix(tmp_path: Path):
    parts = {
        "a": {"source": file(tmp_path, "a", range(9)), "count": 3},
        "b": {"source": file(tmp_path, "b", range(9), split="train"), "count": 3},
    }

    with pytest.raises(DistillError, match="part `b` comes with its split and part `a` does not"):
        build(parts=parts)


def test_a_domain_of_its_own_or_the_source_s(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": 1, "kind": "algebra"}\n')
    source = {"jsonl": {"path": str(path), "domain": "kind"}}

    for domain, expected in ((None, "a"), ("", "algebra"), ("maths", "maths")):
        (problem,) = build(parts={"a": {"source": source, "count": 1, "domain": domain}})
        assert problem.domain == expected


@pytest.mark.parametrize(
    ("parts", "more", "message"),
    [
        ({"a": {}}, {}, "part `a` needs either `count` or `weight`"),
        ({"a": {"count": 1, "weight": 1.0}}, {}, "either `count` or `weight`"),
        ({"a": {"count": 1}, "b": {"weight": 1.0}}, {}, "give all the same"),
        ({"a": {"count": 1}}, {"total": 3}, "`total` is for parts with a `weight`"),
        ({}, {}, "at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(parts: dict[str, Any], more: dict[str, Any], message: str):
    given = {name: {"source": "embedded", **part} for name, part in parts.items()}

    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"parts": given, **more})
