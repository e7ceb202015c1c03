"""Log-probabilities that sampling captures: temperatures asked for later, narrower rows, engines that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core import shards, tables
from distill.core.config import Settings
from distill.core.records import Message, Problem, Sample, problem_id
from distill.core.shards import Shard
from distill.core.stage import Report, StageRun, Workspace
from distill.engines import transformers as engine_module
from teachers import sample
from teachers.settings import Config as TeacherConfig


def run(root: Path, model: Path, number: int, **settings: Any) -> tuple[Shard, list[Sample], Report]:
    """Sample three answers, as the stage's run of this number in one workspace."""
    messages = [(Message("user", f"What is {n}*7?"),) for n in range(3)]
    problems = [Problem(problem_id(m), m, gold="7", split="train") for m in messages]
    tables.write(root / "problems" / "problems.parquet", problems, Problem)
    out = root / f"sample-{number}"
    out.mkdir()
    engine = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
    sections: dict[str, Settings] = {
        "sample": sample.Config.model_validate({"max_tokens": 20, "policy": {"fixed": 1}, **settings}),
        "teacher": TeacherConfig.model_validate({"model": str(model), "engine": engine}),
    }
    report = sample.run(StageRun("sample", out, {"problems": root / "problems"}, sections, 0, Workspace(root)))
    (shard,) = shards.find(out)
    return shard, tables.read(out / "samples.parquet", Sample), report


def test_temperatures_reach_the_stage_s_shard(tmp_path: Path, tiny_model: Path) -> None:
    shard, samples, _ = run(tmp_path, tiny_model, 1, top_logprobs=8, logprob_temperatures=[2.0, 0.7])
    assert shard.info.temperatures == (1.0, 0.7, 2.0)
    for one in samples:
        rows = shard.rows(one.key, one.completion_ids or ())
        assert all(np.isfinite(rows.tails[t]).all() for t in (0.7, 2.0))
        assert (rows.tails[2.0] > rows.tail_N).all()  # softened, more lies outside


def test_what_was_paid_for_without_a_temperature_is_absent_and_said(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers stay; nothing is drawn again; the rows lack the term and say so."""
    before, samples, _ = run(tmp_path, tiny_model, 1, top_logprobs=8)
    capsys.readouterr()
    monkeypatch.setattr(engine_module, "build", None)
    after, again, _ = run(tmp_path, tiny_model, 2, top_logprobs=8, logprob_temperatures=[2.0])
    assert "3 stored answers were recorded without temperature 2" in capsys.readouterr().err
    assert [one.completion_ids for one in again] == [one.completion_ids for one in samples]
    for one in again:
        ids = one.completion_ids or ()
        assert np.isnan(after.rows(one.key, ids).tails[2.0]).all()
        np.testing.assert_array_equal(after.rows(one.key, ids).logprobs_NK, before.rows(one.key, ids).logprobs_NK)


def test_wider_rows_of_an_earlier_run_are_cut_to_what_is_wanted(tmp_path: Path, tiny_model: Path) -> None:
    wide, samples, _ = run(tmp_path, tiny_model, 1, top_logprobs=8, logprob_temperatures=[2.0])
    narrow, _, _ = run(tmp_path, tiny_model, 2, top_logprobs=4)
    assert (narrow.info.top_k, narrow.info.temperatures) == (4, (1.0,))
    for one in samples:
        ids = one.completion_ids or ()
        ours, theirs = narrow.rows(one.key, ids), wide.rows(one.key, ids)
        np.testing.assert_array_equal(ours.ids_NK, theirs.ids_NK[:, :4])
        beyond_N = np.logaddexp.reduce(theirs.logprobs_NK[:, 4:], axis=1)
        np.testing.assert_allclose(ours.tail_N, np.logaddexp(theirs.tail_N, beyond_N), rtol=1e-6)


@pytest.mark.parametrize(
    ("engine", "settings", "message"),
    [
        ("llamacpp", {"top_logprobs": 8, "logprob_temperatures": [2.0]}, "a temperature of 2 needs the whole"),
        ("vllm", {"top_logprobs": 8, "logprob_temperatures": [4]}, "engine `vllm` sees only the largest"),
        ("transformers", {"logprob_temperatures": [2.0]}, "record some (`top_logprobs: 16`)"),
        ("transformers", {"top_logprobs": 8, "logprob_temperatures": [2.0]}, None),
        ("llamacpp", {"top_logprobs": 8, "logprob_temperatures": [1.0]}, None),
    ],
)
def test_engines_that_see_too_little_are_refused_before_anything_is_bought(
    engine: str, settings: dict[str, Any], message: str | None
) -> None:
    model = "org/m" if engine == "vllm" else "embedded"
    teacher = TeacherConfig.model_validate({"model": model, "engine": engine})
    got = sample.check({"sample": sample.Config.model_validate(settings), "teacher": teacher})
    if message is None:
        assert got is None
    else:
        assert got is not None
        assert got[0] == ("sample", "logprob_temperatures")
        assert message in got[1]
