"""The GPU benchmark of training, on tiny shapes on a CPU: every arm trains, and the table says what the plan missed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu import train
from distill.plan import memory
from tests.plan.meter import Meter

DONE = {
    "case": "7b-lora", "tokens": 4096, "arm": "ours", "planned": 20 * 2**30, "tokens_s": 1000.0, "mfu": 0.4,
    "allocated": 21 * 2**30, "reserved": 22 * 2**30,
}  # fmt: skip


def test_a_plan_that_missed_is_named() -> None:
    peer = {**DONE, "arm": "trl", "allocated": 90 * 2**30}
    wrong = {**DONE, "tokens": 16384, "allocated": 30 * 2**30}
    assert train.off_plan([DONE, peer]) == []
    assert train.off_plan([DONE, peer, wrong]) == ["7b-lora at 16,384 tokens: planned 20.0 GiB, took 30.0"]


def test_the_table_puts_ours_first_and_shows_why_an_arm_is_missing() -> None:
    failed = {"case": "7b-lora", "tokens": 4096, "arm": "trl", "planned": 1, "error": "out of memory"}
    first, second = train.rows_of([failed, DONE])
    assert (first["arm"], first["planned / GiB"], first["MFU"]) == ("ours", "0.95", "40%")
    assert (second["arm"], second["tokens/s"], second["GiB planned"]) == ("trl", "out of memory", "")


def test_what_is_done_is_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.jsonl"
    had = [{"case": c, "tokens": t, "arm": a, "planned": 1} for c, t, a in train.wanted(dry=True)]
    results.write_text("".join(json.dumps(record) + "\n" for record in had[:-1]))
    train.go_on(results, budget_s=1, dry=True)
    assert "budget spent; 70b-qlora" in capsys.readouterr().out
    assert train.read(results) == had[:-1]


@pytest.mark.parametrize("case", ["1.5b-full", "7b-lora"])
def test_the_trainer_holds_what_the_plan_says(case: str, tmp_path: Path) -> None:
    asked = train.training(case, 512, dry=True)
    trainer = train.build("ours", train.model_of(asked, "cpu"), asked, tmp_path, dry=True)

    with Meter([*trainer.model.parameters(), *trainer.model.buffers()]) as meter:
        trainer.train()

    _, parts = memory.peak(asked)
    above = sum(parts.values()) - parts["weights"] - parts.get("adapter", 0)
    assert above == pytest.approx(meter.most, rel=train.TOLERANCE)


@pytest.mark.slow
def test_every_arm_trains_on_a_tiny_shape(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    train.go_on(results, budget_s=900, dry=True)
    records = train.read(results)
    assert [(r["case"], r["tokens"], r["arm"]) for r in records] == train.wanted(dry=True)
    assert [r for r in records if not r.get("tokens_s", 0) > 0] == []
