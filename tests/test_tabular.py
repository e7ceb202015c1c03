"""Rows of files as problems: every format alike, faults with file and row, options under letters."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from distill import tabular
from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.sources import csv, jsonl, parquet
from distill.text.code_tests import Exchange, StdioTests, dump

EVERYTHING = {"train": None, "dev": None, "test": None}
ROWS = [{"q": f"What is {n}+1?", "a": None if n == 0 else str(n + 1), "kind": "sums"} for n in range(6)]
COLUMNS = {"question": "q", "gold": "a", "domain": "kind", "dataset": "mine"}


def write(folder: Path, name: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    path = folder / name
    if ".parquet" in name:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if ".csv" in name:
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        text = "\n".join(lines) + "\n"
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    content = text.encode()
    if name.endswith(".gz"):
        content = gzip.compress(content)
    if name.endswith(".zst"):
        content = pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(content)
    return path


def read(module: Any, **settings: Any) -> list[Problem]:
    return list(module.build(module.Config(**settings), EVERYTHING))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (jsonl, "rows.jsonl"),
        (jsonl, "rows.jsonl.gz"),
        (jsonl, "rows.jsonl.zst"),
        (csv, "rows.csv"),
        (csv, "rows.csv.gz"),
        (csv, "rows.csv.zst"),
        (parquet, "rows.parquet"),
    ],
)
def test_every_format_gives_the_same_problems(tmp_path: Path, module: Any, name: str):
    problems = read(module, path=str(write(tmp_path, name)), **COLUMNS)

    assert [(p.messages[0].content, p.gold) for p in problems] == [(row["q"], row["a"]) for row in ROWS]
    assert {(p.domain, p.source) for p in problems} == {("sums", "mine")}


@pytest.mark.parametrize("name", ["rows-{}.jsonl", "rows-{}.parquet", "rows-{}.csv.gz"])
def test_a_pattern_reads_all_its_files_in_order(tmp_path: Path, name: str):
    write(tmp_path, name.format(1), ROWS[3:])
    write(tmp_path, name.format(0), ROWS[:3])

    found = [row["q"] for _, row in tabular.rows(str(tmp_path / name.format("*")))]

    assert found == [row["q"] for row in ROWS]
    with pytest.raises(DistillError, match=r"no-\*.jsonl: no such file"):
        list(tabular.rows(str(tmp_path / "no-*.jsonl")))


def test_a_null_gold_in_row_0_shifts_no_other_row(tmp_path: Path):
    for module, name in ((jsonl, "rows.jsonl"), (csv, "rows.csv"), (parquet, "rows.parquet")):
        problems = read(module, path=str(write(tmp_path, name)), **COLUMNS)
        assert problems[0].gold is None
        assert problems[5].gold == "6"


def test_csv_takes_quotes_line_breaks_and_names_of_its_own(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_bytes("\ufeff".encode() + b'"a, b\nor ""c""?";7\r\nlast;8\r\n')

    problems = read(csv, path=str(path), delimiter=";", header=["question", "answer"])

    assert [(p.messages[0].content, p.gold) for p in problems] == [('a, b\nor "c"?', "7"), ("last", "8")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,answer\na,1\nb,2,3\n", r"rows.csv:3: 3 values for 2 columns \(question, answer\); quote"),
        ("question,answer\na,1\n,2\n", r"rows.csv:3: `question` is empty"),
        ("question,gold\na,1\n", r"rows.csv:2: no field `answer`; there are `question`, `gold`"),
        ("question,question\na,1\n", "two columns have one name"),
        ('question,answer\n"a"b,1\n', r"rows.csv:2: not CSV"),
    ],
)
def test_faults_of_csv_name_file_and_line(tmp_path: Path, text: str, message: str):
    path = tmp_path / "rows.csv"
    path.write_text(text)

    with pytest.raises(DistillError, match=message):
        read(csv, path=str(path))


def test_faults_of_parquet_name_file_and_row(tmp_path: Path):
    path = write(tmp_path, "rows.parquet", [{"question": "a", "answer": "1"}, {"question": " ", "answer": "2"}])

    with pytest.raises(DistillError, match=r"rows.parquet:2: `question` is empty"):
        read(parquet, path=str(path))
    with pytest.raises(DistillError, match=r"rows.parquet: no column `gold`; there are question, answer"):
        read(parquet, path=str(path), gold="gold")
    path.write_text("no parquet")
    with pytest.raises(DistillError, match=r"rows.parquet: cannot be read as Parquet"):
        read(parquet, path=str(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_broken_archive_is_named(tmp_path: Path, suffix: str):
    path = write(tmp_path, f"rows.jsonl{suffix}", ROWS * 50)
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(DistillError, match=rf"rows.jsonl{suffix}: cannot be"):
        read(jsonl, path=str(path), **COLUMNS)


def test_parquet_reads_nested_columns_and_only_those_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path, "rows.parquet", [{"meta": {"q": "1+1?"}, "answer": "2", "huge": "x" * 99}])

    assert [row for _, row in tabular.parquet_rows(path, {"meta.q", "answer"})] == [
        {"meta": {"q": "1+1?"}, "answer": "2"}
    ]
    assert read(parquet, path=str(path), question="meta.q")[0].messages[0].content == "1+1?"


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"o": ["3", "4", "5"], "answer": "b"}, "B"),
        ({"o": ["3", "4", "5"], "answer": 2}, "C"),
        ({"o": ["3", "4", "5"], "answer": "4"}, "B"),
        ({"o": ["3", "4", "5"], "answer": "0"}, "A"),
        ({"o": {"text": ["x", "y"], "label": ["A", "B"]}, "answer": "y"}, "B"),
        ({"o": ["B", "A"], "answer": "A"}, "B"),
        ({"o": ["x", "y"], "answer": None}, None),
    ],
)
def test_options_go_under_letters_and_the_gold_becomes_one(row: dict[str, Any], gold: str | None):
    problem = tabular.mapped({"question": "2+2?\n", **row}, "f:1", tabular.Columns(options="o"), "mine")

    options = row["o"]["text"] if isinstance(row["o"], dict) else row["o"]
    assert problem.gold == gold
    assert problem.verifier == "choice"
    assert problem.messages[0].content == "2+2?\n\n" + "\n".join(
        f"{'ABC'[n]}. {option}" for n, option in enumerate(options)
    )


@pytest.mark.parametrize("gold", ["D", "7", 3, -1, True, "none of these"])
def test_a_gold_that_is_no_option_is_refused_by_its_row(gold: Any):
    row = {"question": "2+2?", "o": ["3", "4", "5"], "answer": gold}

    with pytest.raises(DistillError, match=r"f:1: the gold .* is none of the options A to C"):
        tabular.mapped(row, "f:1", tabular.Columns(options="o"), "mine")


def test_tests_of_a_column_are_checked_as_they_are_read():
    columns = tabular.Columns(gold=None, tests="t")
    good = dump(StdioTests((Exchange("1", "2"),)))

    assert tabular.mapped({"question": "a", "t": good}, "f:1", columns, "mine").verifier == "code"
    with pytest.raises(DistillError, match="f:1: `t`: tests have no known `style`"):
        tabular.mapped({"question": "a", "t": "[]"}, "f:1", columns, "mine")
    with pytest.raises(ValidationError, match="exclude each other"):
        tabular.Columns(options="o", tests="t")


def test_no_more_than_a_batch_is_held(tmp_path: Path):
    path = write(tmp_path, "rows.parquet", [{"q": f"{n}" * 400} for n in range(1000, 9000)])
    found = tabular.parquet_rows(path, {"q"})

    assert next(found)[0].endswith(":1")
    assert sum(1 for _ in found) == 7999
