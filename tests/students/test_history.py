"""What a step measured: sums over passes, means over tokens, and the lines that a person sees."""

from __future__ import annotations

import pytest
import torch

from distill.core.progress import Progress
from students.history import History, mean, peak_memory_gib, shown


def sums(loss: float, kd: float, tokens: int, kd_tokens: int) -> list[torch.Tensor]:
    return [torch.tensor(value) for value in (loss, loss / 2, kd, 0.9 * kd_tokens, tokens, kd_tokens)]


def test_a_step_is_the_sum_of_its_passes_over_all_processes() -> None:
    progress = Progress("train", 10, "steps")
    history = History(progress)
    history.add(*sums(6.0, 2.0, 3, 2))
    history.add(*sums(2.0, 0.0, 1, 0))
    got = history.read(torch.tensor(0.25), lambda values: values * 2)  # a second process with the same
    assert (got["loss"], got["tokens"], got["grad_norm"]) == (16, 8, 0.25)
    record = history.step(1, 0.5, 1e-3)
    assert record == {
        "step": 1, "epoch": 0.5, "lr": 1e-3, "grad_norm": 0.25, "loss": 2.0, "ce": 1.0, "kd": 1.0,
        "covered": pytest.approx(0.9), "tokens": 8, "kd_tokens": 4,
    }  # fmt: skip
    assert shown(record) == ["loss 2.000", "CE 1.000", "KL 1.000", "covered 90.0%"]
    assert (progress.done, progress.amounts) == (1, {"tokens": 8})


def test_without_a_teacher_there_is_no_divergence_to_show_and_without_tokens_no_division() -> None:
    history = History(Progress("train", 10, "steps"))
    history.add(*sums(0.0, 0.0, 0, 0))
    history.read(0.0, lambda values: values)
    record = history.step(1, 1.0, 1e-3)
    assert (record["loss"], record["kd"], record["covered"]) == (0.0, None, None)
    assert shown(record) == ["loss 0.000", "CE 0.000"]


def test_a_resumed_history_goes_on_and_its_steps_are_in_no_rate() -> None:
    progress = Progress("train", 10, "steps")
    history = History(progress)
    history.restore([{"step": n} for n in (1, 2, 3)])
    assert [record["step"] for record in history.records] == [1, 2, 3]
    assert (progress.done, progress.amounts) == (3, {})


def test_means_are_over_tokens() -> None:
    records = [{"kd": 1.0, "kd_tokens": 3}, {"kd": None, "kd_tokens": 0}, {"kd": 5.0, "kd_tokens": 1}]
    assert mean(records, "kd", "kd_tokens") == 2.0
    assert mean(records[1:2], "kd", "kd_tokens") is None


def test_memory_is_that_of_this_process() -> None:
    assert 0.01 < peak_memory_gib() < 1000
