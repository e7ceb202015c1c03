"""The `filter` stage: the funnel adds up, order does not matter, and no dev or test problem is ever trained on."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.records import Decision, Trace, Verdict
from distill.stages import filter as stage
from distill.stages.filter import Config, run, trace_of
from distill.stages.funnel import apply
from distill.stages.verify import Config as VerifyConfig
from distill.stages.verify import grade
from tests.stages.answers import make_problem, make_sample, make_stage

QUICKSTART = ["verdict", "unfinished", "repetition", "exact_duplicates", {"at_most": 2}]


def inputs(splits: tuple[str, ...] = ("train",)) -> tuple[list[Any], list[Any], list[Verdict]]:
    """Problems with five answers each: three right (two alike), one wrong, one cut off."""
    problems = [make_problem(n, split=splits[n % len(splits)]) for n in range(1, 13)]
    samples = []
    for p in problems:
        samples += [
            make_sample(p, rf"\boxed{{{p.gold}}}", 0, reasoning="one way"),
            make_sample(p, rf"\boxed{{{p.gold}}}", 1, reasoning="one way"),
            make_sample(p, rf"\boxed{{{p.gold}}}", 2, reasoning="another way"),
            make_sample(p, r"\boxed{1000}", 3),
            make_sample(p, "", 4, closed=False, finish_reason="length"),
        ]
    verdicts = grade({p.id: p for p in problems}, samples, VerifyConfig().verifier)
    return problems, samples, verdicts


def filters(section: list[Any]) -> list[Any]:
    return list(Config.model_validate(section).build())


def traces() -> list[Trace]:
    problems, samples, verdicts = inputs()
    by_id = {p.id: p for p in problems}
    return [trace_of(by_id[s.problem_id], s, v) for s, v in zip(samples, verdicts, strict=True)]


def test_the_section_is_a_list_of_names_and_short_forms():
    config = Config.model_validate(QUICKSTART)

    assert [choice.name for choice in config.filters] == [
        "verdict",
        "unfinished",
        "repetition",
        "exact_duplicates",
        "at_most",
    ]
    assert config.filters[-1].config.dump() == {"k": 2, "prefer": "hash"}
    assert Config.model_validate(config.dump()) == config


def test_every_rejected_trace_has_one_reason_and_the_funnel_adds_up():
    some = traces()

    decisions, funnel = apply(some, filters(QUICKSTART))

    assert [d.sample_key for d in decisions] == [t.key for t in some]
    assert funnel[0].kept == 60
    for before, after in itertools.pairwise(funnel):
        assert after.kept == before.kept - after.rejected
        assert sum(after.reasons.values()) == after.rejected
        assert sum(after.by_level.values()) == after.kept
    assert {step.filter: step.reasons for step in funnel[1:]} == {
        "verdict": {"wrong: another number": 12, "unparseable: truncated": 12},
        "unfinished": {},
        "repetition": {},
        "exact_duplicates": {"same text as another": 12},
        "at_most": {},
    }
    assert sum(d.kept for d in decisions) == funnel[-1].kept == 24


def test_each_filter_sees_only_what_the_one_before_left():
    decisions, _ = apply(traces(), filters(["unfinished", "verdict"]))

    cut = [d for d in decisions if d.filter == "unfinished"]
    assert len(cut) == 12
    assert {d.why for d in cut} == {"thinking never ended"}


def test_shuffled_input_keeps_the_same_traces():
    some = traces()
    shuffled = random.Random(0).sample(some, len(some))

    one, two = (apply(order, filters(QUICKSTART))[0] for order in (some, shuffled))

    assert {d.sample_key: d for d in one} == {d.sample_key: d for d in two}


def test_lengths_and_levels_stand_beside_every_filter():
    some = traces()
    short = [("at_most", filters([{"at_most": {"k": 1, "prefer": "shortest"}}])[0][1])]

    _, funnel = apply(some, short)

    assert funnel[0].lengths is not None
    assert funnel[1].lengths is not None
    assert funnel[1].lengths.mean < funnel[0].lengths.mean
    assert funnel[0].by_level == {"1": 20, "2": 20, "3": 20}


def test_two_traces_of_one_key_are_a_bug():
    with pytest.raises(ValueError, match="same key"):
        apply([traces()[0]] * 2, [])


def test_only_training_problems_become_traces(tmp_path: Path):
    problems, samples, verdicts = inputs(("train", "dev", "test"))

    report = run(make_stage(tmp_path, "filter", Config.model_validate(QUICKSTART), problems, samples, verdicts))

    kept = tables.read(tmp_path / "out" / "traces.parquet", Trace)
    decisions = tables.read(tmp_path / "out" / "decisions.parquet", Decision)
    funnel = json.loads((tmp_path / "out" / "funnel.json").read_text())
    train = {p.id for p in problems if p.split == "train"}
    assert len(kept) == 8
    assert {t.problem_id for t in kept} == train
    assert [d.sample_key for d in decisions] == [s.key for s in samples]
    assert {d.why for d in decisions if d.filter == "split"} == {"answers a dev problem", "answers a test problem"}
    assert funnel["held_out"] == report.data["held_out"] == 40
    assert funnel["steps"][0]["kept"] == 20
    assert "40 answer dev or test problems" in report.summary
    assert all(t.verdict == "correct" and t.label_source == "gold" and t.gold for t in kept)


def test_the_last_lock_holds_when_a_split_is_lost_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problems, samples, verdicts = inputs(("test",))
    monkeypatch.setattr(stage, "_is_held_out", lambda _: False)

    with pytest.raises(DistillError, match="a test problem would be trained on"):
        run(make_stage(tmp_path, "filter", Config.model_validate(["verdict"]), problems, samples, verdicts))


def test_an_answer_without_a_verdict_is_not_kept(tmp_path: Path):
    problems, samples, verdicts = inputs()

    run(make_stage(tmp_path, "filter", Config.model_validate(["verdict"]), problems, samples, verdicts[1:]))

    first = tables.read(tmp_path / "out" / "decisions.parquet", Decision)[0]
    assert first == Decision(samples[0].key, False, "verdict", "not graded")


def test_the_report_is_a_table_of_the_funnel(tmp_path: Path):
    problems, samples, verdicts = inputs()

    report = run(make_stage(tmp_path, "filter", Config.model_validate(QUICKSTART), problems, samples, verdicts))

    assert [row["filter"] for row in report.rows] == [
        "all answers",
        "verdict",
        "unfinished",
        "repetition",
        "exact_duplicates",
        "at_most",
    ]
    assert report.rows[1]["reasons"] == "unparseable: truncated 12, wrong: another number 12"
    assert report.summary == "24 of 60 traces kept, 12 of 12 problems"


def written(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "out").iterdir())}


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stage, "CHUNK", 7)  # many chunks, none of them a problem's own
    problems, samples, verdicts = inputs(("train", "test"))
    for workers in (1, 3):
        config = Config.model_validate({"filters": QUICKSTART, "control": True, "workers": workers})
        run(make_stage(tmp_path / str(workers), "filter", config, problems, samples, verdicts))

    assert written(tmp_path / "1") == written(tmp_path / "3")
    assert set(written(tmp_path / "1")) == {
        "control.parquet", "decisions.parquet", "funnel.json", "rejected.json", "statistics.json", "traces.parquet",
    }  # fmt: skip


def test_the_control_set_is_unfiltered_and_costs_as_much(tmp_path: Path):
    problems, samples, verdicts = inputs(("train", "train", "test"))
    samples = [replace(s, completion_ids=tuple(range(5 + s.index))) for s in samples]
    config = Config.model_validate({"filters": ["verdict", "exact_duplicates"], "control": True})

    report = run(make_stage(tmp_path, "filter", config, problems, samples, verdicts))

    kept, control = (tables.read(tmp_path / "out" / f"{name}.parquet", Trace) for name in ("traces", "control"))
    tokens = [sum(len(t.completion_ids or ()) for t in some) for some in (kept, control)]
    assert report.data["tokens"] == tokens[0]
    assert tokens[0] - 10 < report.data["control_tokens"] == tokens[1] <= tokens[0]
    assert {t.verdict for t in kept} == {"correct"}
    assert {t.verdict for t in control} == {"correct", "wrong", "unparseable"}
    assert {t.problem_id for t in control} <= {p.id for p in problems if p.split == "train"}


def test_a_few_rejected_traces_are_shown_for_each_reason(tmp_path: Path):
    problems, samples, verdicts = inputs()
    samples = [replace(s, reasoning="x" * 5000) if s.finish_reason == "length" else s for s in samples]

    run(make_stage(tmp_path, "filter", Config.model_validate(QUICKSTART), problems, samples, verdicts))

    shown = json.loads((tmp_path / "out" / "rejected.json").read_text())
    assert Counter((item["filter"], item["why"]) for item in shown) == {
        ("verdict", "wrong: another number"): 3,
        ("verdict", "unparseable: truncated"): 3,
        ("exact_duplicates", "same text as another"): 3,
    }
    assert max(len(item["reasoning"]) for item in shown) < 1000


def test_verdicts_in_another_order_are_not_taken_for_none(tmp_path: Path):
    problems, samples, verdicts = inputs()

    with pytest.raises(DistillError, match="its order is not that of the answers"):
        run(make_stage(tmp_path, "filter", Config.model_validate(["verdict"]), problems, samples, verdicts[::-1]))
