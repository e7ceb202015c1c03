"""`distill grade` on plain files: every row in order, faults by file and line, nothing half written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from distill.cli import app
from distill.commands import grade
from distill.core.errors import ConfigError, DistillError
from distill.core.stage import Report
from distill.grade import Fields
from distill.grade import grade_file as graded
from distill.layouts import DIALECTS
from distill.sandbox.box import Unavailable, open_box

ROWS = [
    {"id": 1, "gold": "7", "out": {"text": "<think>\\boxed{8}</think>\\boxed{7}"}, "short": "7"},
    {"id": 2, "gold": 7, "out": {"text": "<think>\\boxed{7}</think>\\boxed{8}"}, "short": "8"},
    {"id": 3, "gold": "7", "out": {"text": "<think>\\boxed{7}"}, "short": None},
    {"id": 4, "gold": None, "out": {"text": "\\boxed{7}"}, "short": "7"},
    {"id": 5, "gold": "\\sqrt{8}", "out": {"text": "The answer is $2\\sqrt{2}$."}, "short": "2\\sqrt{2}"},
]


def grade_file(path: Path, *, verifier: str, out: Path, settings: Sequence[str] = (), **fields: Any) -> Report:
    return graded(path, Fields(**fields), verifier=verifier, out=out, settings=settings)


def write(path: Path, rows: list[Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("source", ["in.jsonl", "in.jsonl.gz"])
@pytest.mark.parametrize("target", ["out.jsonl", "out.jsonl.gz"])
def test_adds_verdict_reason_and_extracted_to_every_row_in_order(tmp_path: Path, source: str, target: str):
    out = tmp_path / target

    report = grade_file(write(tmp_path / source, ROWS), verifier="math", gold="gold", response="out.text", out=out)

    rows = read(out)
    assert [{key: row[key] for key in ROWS[0]} for row in rows] == ROWS
    assert [row["verdict"] for row in rows] == ["correct", "wrong", "unparseable", "ungradable", "correct"]
    assert [row["extracted"] for row in rows] == ["7", "8", None, None, "$2\\sqrt{2}$"]
    assert rows[2]["reason"] == "unfinished thinking"
    assert report.data["verdicts"] == {"correct": 2, "wrong": 1, "unparseable": 1, "ungradable": 1, "error": 0}
    assert report.summary == "correct 2   wrong 1   unparseable 1   ungradable 1; 50.0% of 4 graded correct"
    assert sum(row["rows"] for row in report.rows) == 5


def test_takes_extracted_answers(tmp_path: Path):
    out = tmp_path / "out.jsonl"

    grade_file(write(tmp_path / "in.jsonl", ROWS), verifier="math", gold="gold", answer="short", out=out)

    assert [row["verdict"] for row in read(out)] == ["correct", "wrong", "unparseable", "ungradable", "correct"]


def test_a_declared_thinker_must_close(tmp_path: Path):
    path, out = write(tmp_path / "in.jsonl", [{"gold": "7", "text": "so \\boxed{7}"}]), tmp_path / "out.jsonl"

    grade_file(path, verifier="math", gold="gold", response="text", out=out)
    plain = read(out)[0]["verdict"]
    grade_file(path, verifier="math", gold="gold", response="text", out=out, thinker=True)

    assert (plain, read(out)[0]["verdict"]) == ("correct", "unparseable")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"gold": "7"}], r"in\.jsonl:6: no field `out\.text`; there are `gold`"),
        ([*ROWS, {"out": {"text": "7"}}], r"in\.jsonl:6: no field `gold`; there are `out`"),
        ([{"gold": ["7"], "out": {"text": "7"}}], r"in\.jsonl:1: `gold` is neither text nor a number"),
        ([ROWS[0], "text"], r"in\.jsonl:2: a row is an object"),
    ],
)
def test_a_fault_names_file_and_line_and_leaves_the_output_as_it_was(tmp_path: Path, rows: list[Any], message: str):
    out = tmp_path / "out.jsonl"
    out.write_text("as it was")

    with pytest.raises(DistillError, match=message):
        grade_file(write(tmp_path / "in.jsonl", rows), verifier="math", gold="gold", response="out.text", out=out)

    assert out.read_text() == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_one_of_response_and_answer_is_needed(tmp_path: Path):
    path = write(tmp_path / "in.jsonl", ROWS)
    for fields in ({}, {"response": "out.text", "answer": "short"}):
        with pytest.raises(ConfigError, match="give one of --response"):
            grade_file(path, verifier="math", gold="gold", out=tmp_path / "out.jsonl", **fields)


def test_an_unknown_verifier_is_named_with_the_nearest(tmp_path: Path):
    with pytest.raises(ConfigError, match="no verifier `maths`. Did you mean `math`"):
        grade_file(
            write(tmp_path / "in.jsonl", ROWS), verifier="maths", gold="gold", answer="short", out=tmp_path / "o"
        )


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(DistillError, match=r"nowhere\.jsonl: no such file"):
        grade_file(tmp_path / "nowhere.jsonl", verifier="math", gold="gold", answer="short", out=tmp_path / "o")


def test_the_same_rows_give_the_same_bytes(tmp_path: Path):
    path = write(tmp_path / "in.jsonl", ROWS)
    outs = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"]

    for out in outs:
        grade_file(path, verifier="math", gold="gold", answer="short", out=out)

    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_half_a_character_does_not_stop_the_file(tmp_path: Path):
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"gold": "7", "text": "\\ud83d \\\\boxed{7}"}\n')

    grade_file(path, verifier="math", gold="gold", response="text", out=out)

    assert read(out)[0]["verdict"] == "correct"
    assert read(out)[0]["text"] == "? \\boxed{7}"


@pytest.mark.parametrize("value", ["1" * 5000, "[" * 100_000], ids=["digits", "brackets"])
def test_a_value_that_python_cannot_read_is_named(tmp_path: Path, value: str):
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"gold": {value}}}\n')

    with pytest.raises(DistillError, match=r"in\.jsonl:1: not JSON"):
        grade_file(path, verifier="math", gold="gold", answer="gold", out=tmp_path / "out.jsonl")


def test_grades_programs_by_the_tests_in_a_field(tmp_path: Path):
    try:
        open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
    tests = {"style": "stdio", "cases": [{"input": "4\n", "output": "8\n"}]}
    rows = [
        {"tests": tests, "out": "<think>hm</think>```python\nprint(2 * int(input()))\n```"},
        {"tests": json.dumps(tests), "out": "<think>hm</think>```python\nprint(input())\n```"},
        {"tests": "no tests", "out": "</think>```python\nprint(8)\n```"},
    ]
    out = tmp_path / "out.jsonl"

    grade_file(write(tmp_path / "in.jsonl", rows), verifier="code", gold="tests", response="out", out=out)

    assert [row["verdict"] for row in read(out)] == ["correct", "wrong", "ungradable"]
    assert read(out)[1]["reason"] == "case 1 of 1: wrong output; 0 passed"


def test_grades_programs_by_a_field_of_tests_of_its_own(tmp_path: Path):
    tests = json.dumps({"style": "stdio", "cases": [{"input": "4\n", "output": "8\n"}]})
    rows = [{"gold": "x", "tests": tests, "out": "no program"}, {"gold": "x", "tests": "none", "out": "y"}]
    out = tmp_path / "out.jsonl"

    grade_file(write(tmp_path / "in.jsonl", rows), verifier="code", tests="tests", gold="gold", answer="gold", out=out)

    assert read(out)[1]["verdict"] == "ungradable"


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("think", "<think>\\boxed{8}</think>\\boxed{7}"),
        ("begin_of_thought", "<|begin_of_thought|>\\boxed{8}<|end_of_thought|><|begin_of_solution|>\\boxed{7}"),
        ("harmony", "<|channel|>analysis<|message|>\\boxed{8}<|end|><|channel|>final<|message|>\\boxed{7}"),
        ("none", "</think>\\boxed{8}: no, \\boxed{7}"),
    ],
)
def test_reads_the_answer_after_the_thinking_of_any_family(tmp_path: Path, dialect: Any, text: str):
    path, out = write(tmp_path / "in.jsonl", [{"gold": "7", "out": text}]), tmp_path / "out.jsonl"

    grade_file(path, verifier="math", gold="gold", response="out", dialect=dialect, out=out)
    cut = text.partition("\\boxed{8}")[0] + "\\boxed{7}"
    grade_file(
        write(path, [{"gold": "7", "out": cut}]), verifier="math", gold="gold", response="out", dialect=dialect,
        out=tmp_path / "cut.jsonl",
    )  # fmt: skip

    assert (read(out)[0]["verdict"], read(out)[0]["extracted"]) == ("correct", "7")
    unfinished = dialect in ("think", "begin_of_thought", "harmony")
    assert (read(tmp_path / "cut.jsonl")[0]["reason"] == "unfinished thinking") == unfinished


def test_a_response_that_was_cut_has_no_answer(tmp_path: Path):
    rows = [{"gold": "7", "out": "\\boxed{7}", "end": end} for end in ("stop", "length", None)]
    out = tmp_path / "out.jsonl"

    grade_file(
        write(tmp_path / "in.jsonl", rows), verifier="math", gold="gold", response="out", finish_reason="end", out=out
    )

    assert [row["reason"] for row in read(out)] == ["same text", "truncated", "same text"]


def test_the_form_of_a_response_is_judged_with_its_thinking(tmp_path: Path):
    rows = [{"out": f"{thought}\\boxed{{7}}"} for thought in ("<think>so</think>", "")]
    out = tmp_path / "out.jsonl"

    grade_file(write(tmp_path / "in.jsonl", rows), verifier="format", gold="out", response="out", out=out)

    assert [row["reason"] for row in read(out)] == ["well formed", "no thinking"]


def test_settings_of_the_verifier_are_taken_and_checked(tmp_path: Path):
    path, out = write(tmp_path / "in.jsonl", [{"gold": "7%", "out": "7"}]), tmp_path / "out.jsonl"
    asked: dict[str, Any] = {"verifier": "math", "gold": "gold", "answer": "out", "out": out}

    grade_file(path, **asked)
    strict = read(out)[0]["verdict"]
    grade_file(path, settings=["percent=ignore", "cpu_s=2"], **asked)

    assert (strict, read(out)[0]["verdict"]) == ("wrong", "correct")
    with pytest.raises(ConfigError, match="percent.*'strict' or 'ignore'; got 'no'"):
        grade_file(path, settings=["percent=no"], **asked)
    with pytest.raises(ConfigError, match="no setting `percents`. Did you mean `percent`"):
        grade_file(path, settings=["percents=ignore"], **asked)
    with pytest.raises(ConfigError, match="--set percent: write"):
        grade_file(path, settings=["percent"], **asked)


def test_parquet_is_graded_with_its_columns_as_they_were(tmp_path: Path):
    schema = pa.schema(
        [("n", pa.int32()), ("gold", pa.string()), ("reason", pa.int64()), ("out", pa.list_(pa.string()))]
    )
    rows = [{"n": n, "gold": "7", "reason": n, "out": [str(n)]} for n in range(600)]
    path, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)

    grade_file(path, verifier="math", gold="gold", answer="n", out=out)
    grade_file(path, verifier="math", gold="gold", answer="n", out=tmp_path / "out.jsonl")

    table = pq.read_table(out)
    assert table.schema.names == ["n", "gold", "out", "verdict", "reason", "extracted"]
    assert table.schema.field("n").type == pa.int32()
    assert [row["n"] for row in table.to_pylist()] == list(range(600))
    assert [row["n"] for row in table.to_pylist() if row["verdict"] == "correct"] == [7]
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == table.column("verdict").to_pylist()
    with pytest.raises(ConfigError, match="Parquet is written of Parquet"):
        grade_file(write(tmp_path / "in.jsonl", ROWS), verifier="math", gold="gold", answer="short", out=out)


def test_the_command_line_knows_every_dialect():
    option = next(option for option in grade.command.params if option.name == "dialect")

    assert option.type.choices == tuple(DIALECTS)  # type: ignore[attr-defined]  # a click.Choice


def test_the_command_line_has_it_all(tmp_path: Path):
    rows = [{"gold": "7%", "out": "<|channel|>final<|message|>7", "end": end} for end in ("stop", "length")]
    path, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl.zst"

    done = CliRunner().invoke(app, [
        "grade", str(path), "--set", "percent=ignore", "--gold", "gold", "--response", "out", "--finish-reason", "end",
        "--thinker", "--dialect", "harmony", "--out", str(out), "--json",
    ])  # fmt: skip

    assert done.exit_code == 0, done.output
    with pa.input_stream(str(out), compression="zstd") as file:
        assert [json.loads(line)["verdict"] for line in file.read().splitlines()] == ["correct", "unparseable"]
    assert CliRunner().invoke(app, ["grade", str(path), "--answer", "out", "--out", str(out)]).exit_code == 2
