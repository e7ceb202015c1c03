"""The scoring stage: the same files whatever happens on the way, nothing scored twice, texts made into ids once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core import rundir, shards, tables
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.protocols import Keep, ScoreRequest
from distill.core.records import Message, Trace, TraceTokens
from distill.core.shards import Shard
from distill.core.stage import StageRun, Workspace
from distill.engines import transformers as engine_module
from students.rows import build_rows, read_student
from teachers import recording, score, settings
from tests.students.made import a_trace
from tests.tiny import make_tiny_model

SAMPLED = {"mode": "sampled", "draws": 20, "temperatures": [2.0]}


def kept(model: Path, n: int = 12) -> list[Trace]:
    """Traces of the model's own tokens; the last two come from elsewhere, as text alone."""
    student = read_student(model)
    bare = {"prompt_ids": None, "prefill_ids": None, "completion_ids": None, "tokenizer": None}
    return [a_trace(student, i, **(bare if i >= n - 2 else {})) for i in range(n)]


def stage_of(folder: Path, model: Path, traces: Sequence[Trace], name: str = "score-1", **config: Any) -> StageRun:
    """A stage ready to run in `folder`; its inputs are those of the traces."""
    inputs = folder / f"filter-of-{name}"
    inputs.mkdir(parents=True, exist_ok=True)
    tables.write(inputs / "traces.parquet", traces, Trace)
    out = folder / "run" / name
    out.mkdir(parents=True, exist_ok=True)
    engine = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
    sections: dict[str, Settings] = {
        "score": score.Config.model_validate({"engine": engine, "top_k": 8, **config}),
        "teacher": settings.Config.model_validate({"model": str(model)}),
    }
    return StageRun("score", out, {"filter": inputs}, sections, 0, Workspace(folder))


def left(stage: StageRun) -> dict[str, bytes]:
    """Every byte that the stage wrote."""
    return {path.name: path.read_bytes() for path in sorted(stage.out.iterdir()) if path.is_file()}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What each engine that is built is asked to score."""
    built: list[list[str]] = []
    original = engine_module.TransformersEngine.score

    def watched(self: Any, requests: Any, keep: Keep) -> Iterator[Any]:
        asked = list(requests)
        built.append([request.key for request in asked])
        return original(self, asked, keep)

    monkeypatch.setattr(engine_module.TransformersEngine, "score", watched)
    return built


@pytest.mark.parametrize("config", [{"temperatures": [2.0]}, SAMPLED], ids=["topk", "sampled"])
def test_every_trace_gets_the_engine_s_rows_in_order(
    tmp_path: Path, tiny_model: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "SHARD_TOKENS", 100)
    traces = kept(tiny_model)
    stage = stage_of(tmp_path, tiny_model, traces, **config)
    report = score.run(stage)

    found = shards.find(stage.out)
    assert len(found) > 2
    assert [key for shard in found for key in shard.keys] == [trace.key for trace in traces]
    assert report.data["traces"] == 12
    assert report.data["family"]["notice"]  # the terms of who was asked, for whoever publishes the run
    assert report.data["tokenised"] == 2
    assert report.data["rows"] == report.data["present"]
    made = {tokens.key: tokens for tokens in tables.read(stage.out / score.TOKENS, TraceTokens)}
    assert set(made) == {trace.key for trace in traces[-2:]}
    engine = engine_module.build(engine_module.Config(device="cpu", dtype="fp32"), str(tiny_model))
    keep = stage.sections["score"].keep  # type: ignore[attr-defined]  # its own settings
    for trace in traces:
        tokens = made.get(trace.key, trace)
        asked = ScoreRequest(
            trace.key, (*(tokens.prompt_ids or ()), *(tokens.prefill_ids or ())), tokens.completion_ids or ()
        )
        ((_, expected),) = engine.score([asked], keep)
        shard = next(shard for shard in found if trace.key in shard)
        read = shard.rows if shard.info.mode == "topk" else shard.draws
        got = read(trace.key, asked.completion_ids)
        np.testing.assert_array_equal(got.realised_N, expected.realised_N)


def test_a_text_becomes_the_ids_that_the_student_s_row_would_have(tmp_path: Path, tiny_model: Path) -> None:
    """A student with the teacher's tokenizer then trains on exactly what was scored, no longer `rendered`."""
    traces, student = kept(tiny_model), read_student(tiny_model)
    stage = stage_of(tmp_path, tiny_model, traces)
    score.run(stage)
    made = {tokens.key: tokens for tokens in tables.read(stage.out / score.TOKENS, TraceTokens)}
    whole = [
        replace(
            t, prompt_ids=made[t.key].prompt_ids, prefill_ids=made[t.key].prefill_ids,
            completion_ids=made[t.key].completion_ids, tokenizer=made[t.key].tokenizer,
        )
        for t in traces[-2:]
    ]  # fmt: skip
    rendered = build_rows(traces[-2:], student, target="trace", max_length=None)
    scored = build_rows(whole, student, target="trace", max_length=None)
    assert [row.rendered for row in rendered.rows] == ["no ids", "no ids"]
    assert [row.rendered for row in scored.rows] == ["", ""]
    for before, after in zip(rendered.rows, scored.rows, strict=True):
        np.testing.assert_array_equal(before.ids, after.ids)
        assert before.start == after.start


def test_what_was_scored_for_another_choice_of_traces_is_not_scored_again(
    tmp_path: Path, tiny_model: Path, engines: list[list[str]]
) -> None:
    traces = kept(tiny_model)
    first = stage_of(tmp_path, tiny_model, traces[3:])
    score.run(first)
    (first.out / rundir.MANIFEST).write_text("{}")
    second = stage_of(tmp_path, tiny_model, traces, "score-2")
    report = score.run(second)
    alone = stage_of(tmp_path / "alone", tiny_model, traces)
    score.run(alone)

    assert sorted(engines[1]) == sorted(trace.key for trace in traces[:3])
    assert "9 scored before" in report.summary
    assert left(second) == left(alone)
    third = stage_of(tmp_path, tiny_model, traces, "score-3", top_k=4)
    score.run(third)
    assert len(engines[3]) == 12  # another width is another recording


def test_an_unfinished_stage_lends_nothing(tmp_path: Path, tiny_model: Path, engines: list[list[str]]) -> None:
    traces = kept(tiny_model, 5)
    score.run(stage_of(tmp_path, tiny_model, traces))
    score.run(stage_of(tmp_path, tiny_model, traces, "score-2"))
    assert [len(asked) for asked in engines] == [5, 5]


def test_nothing_is_loaded_where_nothing_is_missing(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage_of(tmp_path, tiny_model, kept(tiny_model))
    score.run(first)
    (first.out / rundir.MANIFEST).write_text("{}")
    monkeypatch.setattr(engine_module, "build", None)
    score.run(stage_of(tmp_path, tiny_model, kept(tiny_model)[:4], "score-2"))


# ---- kills

SCRIPT = """
import sys
from pathlib import Path
from tests.teachers.test_score import kept, stage_of
from teachers import score
score.SHARD_TOKENS = 150
model, config = Path(sys.argv[2]), eval(sys.argv[3])
score.run(stage_of(Path(sys.argv[1]), model, kept(model), write_every_s=0.0, **config))
"""


@pytest.mark.parametrize(
    ("config", "point", "scored"),
    [({}, "file.before-rename:7", 5), (SAMPLED, "file.after-rename:14", 12)],
    ids=["topk, between parts", "sampled, between its own files"],
)
def test_a_killed_pass_goes_on_and_leaves_the_same_bytes(
    tmp_path: Path, tiny_model: Path, config: dict[str, Any], point: str, scored: int, engines: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(score, "SHARD_TOKENS", 150)
    straight = stage_of(tmp_path / "straight", tiny_model, kept(tiny_model), **config)
    score.run(straight)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), str(tiny_model), repr(config)],
        env={**os.environ, "DISTILL_CRASH_AT": point}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    killed = stage_of(tmp_path / "killed", tiny_model, kept(tiny_model), **config)
    parts = (killed.work / "scored").glob("part-*.safetensors")
    there = {key for path in parts for key in Shard(path).keys}
    rundir.begin(killed.out)  # as the pipeline does
    score.run(killed)

    assert len(there) == scored
    assert sum(map(len, engines)) == 12 + 12 - scored  # the straight one, and what was still missing
    assert left(killed) == left(straight)
    assert not list(killed.out.rglob("*partial*"))


# ---- what is left out or refused


def test_what_does_not_fit_the_teacher_is_counted(tmp_path: Path, tiny_model: Path) -> None:
    traces = kept(tiny_model)
    traces[-1] = replace(traces[-1], reasoning="17*23=391\n" * 200)
    stage = stage_of(tmp_path, tiny_model, traces)
    report = score.run(stage)
    assert report.data["skipped"] == {"over the teacher's context of 512 tokens": 1}
    assert report.data["traces"] == 11
    nothing = stage_of(tmp_path, tiny_model, traces[-1:], "score-2")
    with pytest.raises(DistillError, match=r"none of 1 kept traces can be scored \(1 over the teacher's context"):
        score.run(nothing)


def test_another_model_s_traces_are_scored_in_the_teacher_s_tokens(tmp_path: Path, tiny_model: Path) -> None:
    other = make_tiny_model(tmp_path / "other", vocab=330)
    foreign = [a_trace(read_student(other), i) for i in range(3)]
    stage = stage_of(tmp_path, tiny_model, foreign)
    report = score.run(stage)
    assert report.data["tokenised"] == 3
    ours = read_student(tiny_model)
    for tokens in tables.read(stage.out / score.TOKENS, TraceTokens):
        assert tokens.tokenizer == ours.fingerprint
        assert tokens.completion_ids[-1] == ours.end_id


def test_a_trace_without_reasoning_is_scored_in_the_no_think_form(tmp_path: Path, tiny_model: Path) -> None:
    student = read_student(tiny_model)
    plain = Trace("k" * 64, "p" * 32, (Message("user", "What is 2*3?"),), None, "6")
    stage = stage_of(tmp_path, tiny_model, [plain])
    score.run(stage)
    (tokens,) = tables.read(stage.out / score.TOKENS, TraceTokens)
    (row,) = build_rows([plain], student, target="trace", max_length=None).rows
    assert tokens.completion_ids == tuple(row.completion_ids.tolist())


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        ({"engine": "llamacpp"}, "engine", "engine `llamacpp` cannot score given tokens"),
        ({"engine": "replay"}, "engine", "cannot score given tokens"),
        ({"engine": "vllm", "mode": "sampled"}, "mode", "draws need them all"),
        ({"engine": "openai", "mode": "sampled"}, "mode", "draws need them all"),
        ({"engine": "vllm", "temperatures": [2.0]}, "temperatures", "a temperature of 2 needs the whole distribution"),
        ({"engine": "vllm"}, "", ""),
        ({"engine": "openai"}, "", ""),
        ({"mode": "sampled", "temperatures": [2.0]}, "", ""),
    ],
)
def test_engines_that_cannot_are_refused_before_anything_runs(config: dict[str, Any], key: str, message: str) -> None:
    got = score.check({"score": score.Config.model_validate(config)})
    if not key:
        assert got is None
    else:
        assert got is not None
        assert got[0] == ("score", key)
        assert message in got[1]


def test_settings_of_the_other_mode_do_not_count() -> None:
    def key(**config: Any) -> Any:
        return score.keyed({"score": score.Config.model_validate(config)})

    assert key(draws=9) == key()
    assert key(top_k=9) != key()
    assert key(mode="sampled", top_k=9) == key(mode="sampled")
    assert key(mode="sampled", draws=9) != key(mode="sampled")
    assert key(temperatures=[4, 1, 2, 2.0]) == key(temperatures=[2.0, 4.0])
    assert key(write_every_s=1.0) == key()


def test_a_revision_is_another_teacher(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(score.rollout, "identify", lambda *given: asked.append(given) or read_identity(tiny_model))
    teacher = settings.Config.model_validate({"model": "org/m", "revision": "v2"})
    score.externals({"score": score.Config(), "teacher": teacher})
    assert asked[0][1:] == ("org/m", "v2")


def read_identity(model: Path) -> Any:
    return engine_module.identify(engine_module.Config(), str(model))


def test_shards_are_named_in_order(tmp_path: Path) -> None:
    assert recording.shard_path(tmp_path, 7).name == "logits-00007.safetensors"
