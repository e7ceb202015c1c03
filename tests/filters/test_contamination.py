"""The `contamination` filter: rejects by benchmark and kind, remarks on siblings, stops without its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from distill.core.errors import DistillError
from distill.core.records import Message
from distill.filters import contamination as plugin
from distill.stages import filter as stage
from distill.stages import funnel
from distill.text.contamination import build, write
from tests.filters.test_filters import TRACE
from tests.text.test_contamination import BENCHMARK

QUESTIONS = {
    "copy": BENCHMARK[2],
    "sibling": BENCHMARK[2].replace("48", "50").replace("30", "20"),
    "clean": "How many days are there in 3 leap years?",
}


@pytest.fixture
def config(tmp_path: Path) -> plugin.Config:
    write(tmp_path / "made.sig", build("made", BENCHMARK))
    return plugin.Config(signatures=[str(tmp_path / "made.sig")])


def test_copies_go_and_siblings_are_remarked_on(config: plugin.Config):
    traces = [replace(TRACE, key=key, messages=(Message("user", text),)) for key, text in QUESTIONS.items()]

    decisions, steps = funnel.apply(traces, [("contamination", plugin.build(config))])

    assert {d.sample_key: d.why for d in decisions} == {"copy": "copy of made", "sibling": "", "clean": ""}
    assert steps[1].remarks == {"same words, other numbers as made": 1}


def test_siblings_go_where_they_shall(config: plugin.Config):
    chosen = plugin.build(config.model_copy(update={"siblings": True}))

    assert chosen.fault(replace(TRACE, messages=(Message("user", QUESTIONS["sibling"]),))) != ""


def test_what_the_system_prompt_says_is_no_question(config: plugin.Config):
    asked = (Message("system", BENCHMARK[2]), Message("user", QUESTIONS["clean"]))

    assert plugin.build(config).fault(replace(TRACE, messages=asked)) == ""


def test_a_missing_benchmark_stops_the_run_before_anything_else(tmp_path: Path):
    sections = {"filter": stage.Config.model_validate([{"contamination": [str(tmp_path / "gone.sig")]}])}

    fault = stage.check(sections)

    assert fault is not None
    assert fault[0] == ("filter",)
    assert "gone.sig: no such signature file" in fault[1]
    with pytest.raises(DistillError, match="distill signature"):
        plugin.build(plugin.Config(signatures=[str(tmp_path / "gone.sig")]))


def test_the_key_follows_the_contents_not_the_place(tmp_path: Path, config: plugin.Config):
    moved = tmp_path / "elsewhere" / "made.sig"
    moved.parent.mkdir()
    write(moved, build("made", BENCHMARK))
    changed = tmp_path / "changed" / "made.sig"
    changed.parent.mkdir()
    write(changed, build("made", BENCHMARK[:2]))
    one, same, other = (
        {"filter": stage.Config.model_validate([{"contamination": files}])}
        for files in (config.signatures, [str(moved)], [str(changed)])
    )

    assert stage.externals(one) == stage.externals(same) != stage.externals(other)
    assert one["filter"].keyed() == same["filter"].keyed()


def test_a_benchmark_s_own_file_is_signed_as_it_is_published(tmp_path: Path):
    from distill.signature import sign_file

    questions = ["How many protons has the element of atomic number three, please?", "Which acid is in vinegar, then?"]
    table = tmp_path / "gpqa_diamond.csv"
    table.write_text('"Record ID",Question\n' + "".join(f'r{n},"{q}"\n' for n, q in enumerate(questions)))
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps({"Question": question}) + "\n" for question in questions))

    for file in (table, lines):
        sign_file(file, field="Question", name="gpqa", out=file.with_suffix(".sig"))

    assert (tmp_path / "gpqa_diamond.sig").read_bytes() == (tmp_path / "rows.sig").read_bytes()
    with pytest.raises(DistillError, match=r"gpqa_diamond.csv:2: no field `question`"):
        sign_file(table, field="question", name="gpqa", out=tmp_path / "none.sig")
