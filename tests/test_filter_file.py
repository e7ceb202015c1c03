"""`distill filter --traces`: filters on a plain file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill.core import tables
from distill.core.errors import ConfigError, DistillError
from distill.core.records import Decision, Trace
from distill.filter_file import filter_file, read_rows
from distill.stages.filter import Config
from tests.e2e import small

ROWS: list[dict[str, Any]] = [
    {"question": "What is 2+3?", "reasoning": "2+3=5", "answer": "\\boxed{5}", "verdict": "correct", "id": 7},
    {"question": "What is 2+3?", "reasoning": "2+3=5", "answer": "\\boxed{5}", "verdict": "correct"},
    {"prompt": "What is 2+3?", "response": "<think>2+3=6</think>\\boxed{6}", "verdict": "wrong", "gold": 5},
    {"prompt": "What is 4+3?", "response": "<think>4+3=", "finish_reason": "length", "verdict": "unparseable"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "verdict": "correct"},
]


def file_of(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sections(*filters: Any) -> dict[str, Any]:
    return {"filter": Config.model_validate(list(filters))}


def test_rows_of_every_shape_become_traces(tmp_path: Path):
    traces = [trace for trace, _ in read_rows(file_of(tmp_path, ROWS))]

    assert [t.messages[-1].content for t in traces] == ["What is 2+3?"] * 3 + ["What is 4+3?", "Hi"]
    assert [(t.reasoning, t.answer, t.closed) for t in traces] == [
        ("2+3=5", "\\boxed{5}", True), ("2+3=5", "\\boxed{5}", True), ("2+3=6", "\\boxed{6}", True),
        ("4+3=", "", False), (None, "Hello", True),
    ]  # fmt: skip
    assert traces[2].gold == "5"
    assert len({t.key for t in traces}) == 5
    assert len({t.problem_id for t in traces}) == 3


def test_kept_rows_come_out_as_they_went_in(tmp_path: Path):
    report = filter_file(
        file_of(tmp_path, ROWS), sections("verdict", "exact_duplicates"), tmp_path / "out", "some.yaml"
    )

    kept = [json.loads(line) for line in (tmp_path / "out" / "kept.jsonl").read_text().splitlines()]
    assert sorted(kept, key=str) == sorted([ROWS[0], ROWS[4]], key=str) or ROWS[1] in kept
    assert len(kept) == 2 == len(tables.read(tmp_path / "out" / "traces.parquet", Trace))
    assert len(tables.read(tmp_path / "out" / "decisions.parquet", Decision)) == 5
    assert report.summary.startswith("2 of 5 traces kept")


def test_what_was_written_can_be_filtered_again(tmp_path: Path):
    filter_file(file_of(tmp_path, ROWS), sections("verdict"), tmp_path / "one", "some.yaml")

    again = filter_file(tmp_path / "one" / "traces.parquet", sections("exact_duplicates"), tmp_path / "two", "x.yaml")

    assert again.summary.startswith("2 of 3 traces kept")
    assert not (tmp_path / "two" / "kept.jsonl").exists()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "5"}, "no question"),
        ({"question": "What?"}, "no answer"),
        ({"question": "What?", "answer": "5", "verdict": "right"}, "`verdict` is 'right'; it is one of correct"),
        ({"question": "What?", "answer": "5", "finish_reason": "eos"}, "`finish_reason` is 'eos'"),
        ({"messages": "What?", "answer": "5"}, "`messages` is a list"),
        ({"question": "What?", "answer": ["5"]}, "`answer` is neither text nor a number"),
    ],
)
def test_a_row_that_is_no_trace_is_named(tmp_path: Path, row: dict[str, Any], said: str):
    path = file_of(tmp_path, [ROWS[0], row])

    with pytest.raises(DistillError, match=r"rows\.jsonl:2: ") as caught:
        filter_file(path, sections("verdict"), tmp_path / "out", "some.yaml")

    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_rows_of_one_key_are_refused(tmp_path: Path):
    path = file_of(tmp_path, [{**ROWS[0], "key": "a"}, {**ROWS[1], "key": "a"}])

    with pytest.raises(DistillError, match="same `key`"):
        filter_file(path, sections("verdict"), tmp_path / "out", "some.yaml")


def test_an_experiment_without_filters_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="no section `filter:`"):
        filter_file(file_of(tmp_path, ROWS), {}, tmp_path / "out", "some.yaml")


def test_on_the_command_line(tmp_path: Path):
    file_of(tmp_path, ROWS)
    (tmp_path / "f.yaml").write_text("name: f\nfilter: [verdict, unfinished]\n")

    done = small.run(tmp_path, "filter", "f.yaml", "--traces", "rows.jsonl", "--out", "out", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["kept"] == 3
    assert small.run(tmp_path, "filter", "f.yaml", "--traces", "rows.jsonl").returncode == 2
