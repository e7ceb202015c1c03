"""Runs and files as entries."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.core import files, rundir, tables
from distill.core.errors import ConfigError, DistillError
from distill.core.records import Trace
from distill.view import sources
from distill.view.entries import Entry, Source
from tests.view.made import make_run, problem, sample, trace


def entries(source: Source) -> list[Entry]:
    found = list(source.entries())
    assert len(found) == source.total
    return [entry for entry in found if entry is not None]


def test_a_run_has_samples_with_decisions_and_every_models_answers(tmp_path: Path) -> None:
    source = sources.of(make_run(tmp_path / "run"))
    found = entries(source)

    sampled = [entry for entry in found if entry.facets["origin"] == "sampled"]
    assert len(sampled) == 8
    rejected = next(entry for entry in sampled if entry.facets["verdict"] == "wrong")
    assert rejected.facets["decision"] == "rejected: verdict"
    assert rejected.facets["why"] == "wrong: another number"
    assert rejected.facets["decision-2"] == "kept"
    assert ("filter (strict)", "rejected by verdict: wrong: another number") in rejected.notes
    assert source.labels == {
        "decision": "Filter of strict", "why": "Its reason for strict",
        "decision-2": "Filter of loose", "why-2": "Its reason for loose",
    }  # fmt: skip
    assert {question.text for question in source.questions()} >= {"What is $6 \\times 7$?", "三角形の面積は? (test)"}


def test_what_several_arms_measured_comes_once_and_students_say_their_arm(tmp_path: Path) -> None:
    found = entries(sources.of(make_run(tmp_path / "run")))

    told = [
        (entry.facets["model"], entry.facets.get("arm")) for entry in found if entry.facets["origin"] == "evaluated"
    ]

    assert sorted(set(told), key=str) == [
        ("base", None),
        ("student", "loose"),
        ("student", "strict"),
        ("teacher", None),
    ]
    assert len(told) == 16


def test_one_arm_needs_no_names_for_its_filter(tmp_path: Path) -> None:
    source = sources.of(make_run(tmp_path / "run", arms=("only",)))

    assert source.labels == {}
    assert all("arm" not in entry.facets for entry in entries(source))


def test_a_published_run_shows_its_traces(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", arms=("only",))
    index = rundir.read_index(run)
    stages = {stage: run / about["folder"] for stage, about in index["arms"]["only"]["0"].items()}
    tables.write(stages["filter"] / "traces.parquet", [trace(1), trace(2)], Trace)
    for name in ("problems", "sample", "verify", "evaluate"):
        gone = [path.name for path in stages[name].glob("*.parquet") if path.name != "scores.parquet"]
        files.write_json(stages[name] / rundir.ABSENT, gone)
        for file in gone:
            (stages[name] / file).unlink()
    files.write_json(stages["filter"] / rundir.ABSENT, ["decisions.parquet"])
    (stages["filter"] / "decisions.parquet").unlink()

    found = entries(sources.of(run))

    assert [(entry.answer, entry.facets["decision"], entry.facets["origin"]) for entry in found] == [
        ("So 1", "kept", "sampled"), ("So 2", "kept", "sampled"),
    ]  # fmt: skip


def test_the_content_follows_what_is_read(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run", thinking="Otherwise.")

    assert sources.of(one).content == sources.of(one).content
    assert sources.of(one).content != sources.of(two).content


def test_an_unfinished_run_has_nothing_to_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for manifest in run.glob("*/manifest.json"):
        manifest.unlink()

    with pytest.raises(DistillError, match="nothing to read"):
        sources.of(run)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_rows_of_any_file(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        {
            "question": "1+1?",
            "response": "<think>one</think>2<|end|>",
            "gold": "2",
            "verdict": "correct",
            "reason": "same",
        },
        {"question": "1+2?", "response": "3", "gold": None, "verdict": None, "reason": None},
    ]
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        opening = gzip.open if suffix.endswith(".gz") else open
        with opening(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    first, second = entries(sources.of(path))

    assert (first.thinking, first.answer, first.raw) == ("one", "2<|end|>", "<think>one</think>2<|end|>")
    assert (first.facets["verdict"], first.facets["reason"]) == ("correct", "same")
    assert first.question is not None and first.question.gold == "2"
    assert second.thinking is None and "verdict" not in second.facets


def test_tables_of_traces_and_samples(tmp_path: Path) -> None:
    traces, samples = tmp_path / "traces.parquet", tmp_path / "samples.parquet"
    tables.write(traces, [trace(1, completion_ids=(1, 2, 3))], Trace)
    answer = sample(problem(0), 0, "big", "hm", "So 1")
    tables.write(samples, [answer], type(answer))

    [of_trace], [of_sample] = entries(sources.of(traces)), entries(sources.of(samples))

    assert of_trace.question is not None and of_trace.question.text == "Name the roots of $x^2 - 3x + 2$."
    assert (of_sample.thinking, of_sample.answer, of_sample.tokens) == ("hm", "So 1", answer.completion_tokens)
    assert of_sample.raw.endswith("<|im_end|>")


def test_what_is_neither_a_run_nor_a_file_of_traces(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run folder or file"):
        sources.of(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="not a run folder"):
        sources.of(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DistillError, match=r"x\.parquet: cannot be read as Parquet"):
        sources.of(tmp_path / "x.parquet")
    (tmp_path / "x.jsonl").write_text('{"question": "q", "answer": "a"}\n{"answer": "a"}\n', encoding="utf-8")
    with pytest.raises(DistillError, match=r"x\.jsonl:2: no question"):
        list(sources.of(tmp_path / "x.jsonl").entries())
