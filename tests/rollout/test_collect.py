"""The ledger first, the engine for the rest: nothing is drawn twice, nothing is lost, order is the caller's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from distill import rollout
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.plugins import Choice
from distill.core.records import Message, Problem, Sample, Sampling, problem_id, sample_key
from distill.core.stage import Workspace
from distill.rollout import purchase
from tests import stub_engine
from tests.stub_engine import ASKED, BUILT

SAMPLING = Sampling(max_tokens=10)


@pytest.fixture(autouse=True)
def _forget() -> None:
    ASKED.clear()
    BUILT.clear()


def problem(text: str) -> Problem:
    messages = (Message("user", text),)
    return Problem(problem_id(messages), messages, gold=str(len(text)), split="train")


PROBLEMS = [problem(text) for text in ("one", "three", "seven and more")]


def collect(tmp_path: Path, n: int = 2, sampling: Sampling = SAMPLING, **config: object) -> list[Sample]:
    choice = Choice("distill.engines", "engine", "tests.stub_engine", stub_engine.Config.model_validate(config))
    return rollout.collect(
        PROBLEMS, n, sampling, engine=choice, model="m", workspace=Workspace(tmp_path), label="sample"
    )


def test_answers_come_in_the_callers_order_with_thinking_apart(tmp_path: Path) -> None:
    samples = collect(tmp_path)

    assert [(s.problem_id, s.index) for s in samples] == [(p.id, i) for p in PROBLEMS for i in range(2)]
    assert samples[0].reasoning == "thinking of one"
    assert samples[0].answer == "\\boxed{3}"
    assert len({s.key for s in samples}) == 6


def test_a_second_time_nothing_is_drawn_and_no_model_is_built(tmp_path: Path) -> None:
    first = collect(tmp_path)
    ASKED.clear()
    BUILT.clear()

    second = collect(tmp_path)

    assert ASKED == BUILT == []
    assert second == first


def test_more_samples_buy_only_the_new_ones(tmp_path: Path) -> None:
    collect(tmp_path, n=2)
    ASKED.clear()
    assert len(collect(tmp_path, n=3)) == 9
    assert len(ASKED) == 3


def test_what_shapes_the_draw_is_in_the_key_and_what_does_not_is_not(tmp_path: Path) -> None:
    collect(tmp_path)
    for change in ({"seed": 1}, {"temperature": 0.7}, {"top_p": 0.9}, {"thinking": True}):
        ASKED.clear()
        collect(tmp_path, sampling=replace(SAMPLING, **change))
        assert len(ASKED) == 6, change


def test_a_raised_limit_buys_only_what_was_cut(tmp_path: Path) -> None:
    short = collect(tmp_path, sampling=replace(SAMPLING, max_tokens=4))
    assert {s.finish_reason for s in short} == {"length"}
    assert not any(s.closed for s in short)
    ASKED.clear()
    collect(tmp_path, sampling=replace(SAMPLING, max_tokens=6))
    assert len(ASKED) == 6
    ASKED.clear()
    collect(tmp_path, sampling=replace(SAMPLING, max_tokens=100))  # finished at 5: they serve any larger limit
    assert ASKED == []


def test_one_failed_answer_costs_none_of_its_siblings_and_is_owed(tmp_path: Path) -> None:
    samples = collect(tmp_path, fail_on="three")
    assert [s.finish_reason for s in samples] == ["stop", "stop", "error", "error", "stop", "stop"]
    assert samples[2].error == "the stub refuses"
    ASKED.clear()

    again = collect(tmp_path)

    assert len(ASKED) == 2
    assert {s.finish_reason for s in again} == {"stop"}


def test_when_all_fail_the_run_stops_with_the_engines_own_words(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="every answer failed.*the stub refuses"):
        collect(tmp_path, fail_on="e")


def test_what_another_process_is_drawing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purchase, "POLL_S", 0.05)
    held = sample_key(PROBLEMS[0].messages, "stub-m", SAMPLING, 0)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(Workspace(tmp_path).ledger), held], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "leased"

    def end() -> None:
        time.sleep(0.3)
        assert held not in ASKED
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()

    ending = threading.Thread(target=end)
    ending.start()
    samples = collect(tmp_path)
    ending.join()

    assert len(samples) == 6
    assert ASKED[-1] == held  # taken over when its holder died, last of all


_HOLDER = """
import sys, time
from pathlib import Path
from distill.core.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.lease([sys.argv[2]])
print("leased", flush=True)
time.sleep(60)
"""


def test_an_interruption_keeps_what_was_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stub_engine.StubEngine.generate

    def interrupted(self: stub_engine.StubEngine, requests: object) -> object:
        for place, completion in enumerate(whole(self, requests)):  # type: ignore[arg-type]  # what it was given
            if place == 3:
                raise KeyboardInterrupt
            yield completion

    monkeypatch.setattr(stub_engine.StubEngine, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path)
    monkeypatch.setattr(stub_engine.StubEngine, "generate", whole)
    ASKED.clear()

    assert len(collect(tmp_path)) == 6
    assert len(ASKED) == 3
    with Ledger(Workspace(tmp_path).ledger) as ledger:
        assert set(ledger.attempts()) == {"done", "failed"}
