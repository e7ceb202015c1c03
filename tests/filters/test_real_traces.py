"""Filters on real thinking traces of open models, whose faults SOURCE.md counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.core import jsonl
from distill.core.records import Message, Trace
from distill.filters import language, near_duplicates, repetition, unfinished
from distill.stages import funnel

FILES = ("q3_30ba3-think", "glm32b", "q3_235b-think", "q3_30ba3")


def traces(shared_data: Path, name: str) -> list[Trace]:
    return [
        trace_of(n, row) for n, (_, row) in enumerate(jsonl.read(shared_data / "thinking_traces" / f"{name}.jsonl.gz"))
    ]


def trace_of(n: int, row: dict[str, Any], **about: Any) -> Trace:
    return Trace(
        key=f"{n:04d}", problem_id=str(row["prompt_id"]), messages=(Message("user", "?"),),
        reasoning=row["thinking"], answer=row["output"] or "", **about,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "empty"), list(zip(FILES, (1, 14, 9, 0), strict=True)))
def test_every_empty_answer_is_rejected_and_nothing_else(shared_data: Path, name: str, empty: int):
    chosen = unfinished.build(unfinished.Config())

    reasons = Counter(chosen.fault(trace) for trace in traces(shared_data, name))

    assert reasons["empty answer"] == empty
    assert set(reasons) <= {"", "empty answer", "empty thinking"}


def test_every_left_over_tag_is_rejected(shared_data: Path):
    chosen = unfinished.build(unfinished.Config())
    rows = [row for _, row in jsonl.read(shared_data / "thinking_traces" / "q3_30ba3-think.jsonl.gz") if row["output"]]

    for n, row in enumerate(rows):  # the same rows as they look where a tool took the thinking off badly
        for left_over in (f"</think>\n\n{row['output']}", f"<think>\n{row['output']}", f"{row['output']}\n</think>"):
            assert chosen.fault(trace_of(n, {**row, "output": left_over})) == "stray think tag"


def test_labelled_loops_are_found_and_finished_traces_are_not(shared_data: Path):
    chosen = repetition.build(repetition.Config())
    folder = shared_data / "thinking_traces"
    by_prompt: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for name in FILES:
        for _, row in jsonl.read(folder / f"{name}.jsonl.gz"):
            by_prompt.setdefault((name, str(row["prompt_id"])), []).append(row)
    checked = Counter[bool]()
    for line in (folder / "loop_labels.jsonl").read_text().splitlines():
        label = json.loads(line)
        row = by_prompt[label["file"], str(label["prompt_id"])][label["sample"]]
        checked[label["loop"]] += 1
        assert bool(chosen.fault(trace_of(0, row))) == label["loop"], label
    assert min(checked[True], checked[False]) >= 5


def test_traces_that_slip_into_chinese_are_counted(shared_data: Path):
    chosen = language.build(language.Config())

    slipped = {
        name: sum(chosen.fault(trace) == "foreign script in the thinking" for trace in traces(shared_data, name))
        for name in ("glm32b", "q3_235b-think")
    }

    assert slipped == {"glm32b": 1, "q3_235b-think": 3}


def test_samples_of_one_prompt_are_no_near_duplicates_of_other_prompts(shared_data: Path):
    some = traces(shared_data, "q3_30ba3")

    decisions, _ = funnel.apply(some, [("near", near_duplicates.build(near_duplicates.Config(threshold=0.8)))])

    assert sum(not decision.kept for decision in decisions) <= 0.05 * len(some)
