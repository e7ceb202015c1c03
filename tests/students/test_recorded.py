"""A loss reads what is recorded, or the experiment is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.core import tables
from distill.core.config import Settings
from distill.core.records import Trace, TraceTokens
from students import train
from students.recorded import TOKENS, Traces
from students.rows import read_student
from teachers import sample as sample_stage
from teachers import score as score_stage
from tests.students.made import a_trace


def sample(**settings: Any) -> Settings:
    return sample_stage.Config.model_validate(settings)


def score(**settings: Any) -> Settings:
    return score_stage.Config.model_validate(settings)


@pytest.mark.parametrize(
    ("loss", "others", "message"),
    [
        ({"loss_temperature": 2}, {"sample": sample(top_logprobs=16, logprob_temperatures=[2.0])}, None),
        ({"loss_temperature": 2}, {"score": score(temperatures=[4, 2])}, None),
        ({"loss_temperature": 1}, {"score": score(temperatures=[2])}, None),
        (
            {"loss_temperature": 2},
            {"sample": sample(top_logprobs=16)},
            "add `logprob_temperatures: [2.0]` to `sample:`, or leave the temperature at 1",
        ),
        (
            {"loss_temperature": 1.5},
            {"sample": sample(top_logprobs=16, logprob_temperatures=[1.5]), "score": score(temperatures=[2])},
            "add `temperatures: [1.5, 2.0]` to `score:`",
        ),
        ({"top_k": 99}, {"score": score(mode="sampled")}, None),
        ({"loss_temperature": 2}, {"score": score(mode="sampled", temperatures=[2])}, None),
        ({"loss_temperature": 2}, {"score": score(mode="sampled")}, "add `temperatures: [2.0]` to `score:`"),
        ({"name": "jsd"}, {"score": score(mode="sampled")}, "`jsd` cannot be matched to draws"),
        ({"name": "reverse_kl"}, {"score": score(mode="sampled")}, "only `forward_kl` has the right gradient"),
        ({}, {"sample": sample()}, "`sample.top_logprobs` is 0; raise it to 16"),
    ],
)
def test_what_nobody_records_is_refused_with_the_setting_that_would(
    loss: dict[str, Any], others: dict[str, Settings], message: str | None
) -> None:
    config = train.Config.model_validate({"loss": {"name": "forward_kl", **loss}})
    got = train.check({"train": config, **others})
    if message is None:
        assert got is None
    else:
        assert got is not None
        assert got[0] == ("train", "loss")
        assert message in got[1]
        assert "\n" not in got[1]


def test_traces_take_the_ids_that_were_scored(tmp_path: Path, tiny_model: Path) -> None:
    student = read_student(tiny_model)
    traces = [a_trace(student, n) for n in range(5)]
    plain = [replace(t, prompt_ids=None, prefill_ids=None, completion_ids=None, tokenizer=None) for t in traces[:3]]
    tables.write(tmp_path / "traces.parquet", [*plain, *traces[3:]], Trace)
    made = [
        TraceTokens(t.key, t.prompt_ids or (), t.prefill_ids or (), t.completion_ids or (), t.tokenizer or "")
        for t in traces[:2]
    ]
    (tmp_path / "score").mkdir()
    tables.write(tmp_path / "score" / TOKENS, made, TraceTokens)

    assert list(Traces(tmp_path / "traces.parquet", None)) == [*plain, *traces[3:]]
    assert list(Traces(tmp_path / "traces.parquet", tmp_path)) == [*plain, *traces[3:]]
    assert list(Traces(tmp_path / "traces.parquet", tmp_path / "score")) == [*traces[:2], plain[2], *traces[3:]]
