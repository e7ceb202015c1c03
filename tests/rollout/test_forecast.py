"""What a sampling would cost, said before anything is paid."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from distill import rollout
from distill.core.stage import Workspace
from distill.rollout import Estimate, Prices, forecast
from tests.rollout.world import SAMPLING, asks, paid, teacher

PRICES = Prices(1000.0, 3000.0)


def estimate(folder: Path, problems: int, samples: int, **changes: int) -> Estimate:
    sampling = replace(SAMPLING, **changes)  # type: ignore[arg-type]  # integer fields
    return rollout.estimate(asks(problems, samples), sampling, teacher(folder, PRICES), Workspace(folder))


def test_with_nothing_to_go_by_only_the_worst_case_is_known(tmp_path: Path) -> None:
    got = estimate(tmp_path, 10, 4)
    assert (got.wanted, got.had, got.missing, got.basis) == (40, 0, 40, 0)
    assert got.worst_tokens >= 40 * (7 + 50)
    assert got.worst_cost is not None
    assert got.worst_cost >= 40 * PRICES.of(7, 50)
    assert got.expected_tokens is got.low_cost is None
    assert paid(tmp_path) == []


def test_stored_answers_say_what_to_expect_and_the_interval_holds_the_truth(tmp_path: Path) -> None:
    where = Workspace(tmp_path)
    first = rollout.fill(asks(30, 4), SAMPLING, teacher(tmp_path), where, label="sample")
    got = estimate(tmp_path, 60, 4)
    assert (got.had, got.missing, got.basis) == (120, 120, 30)
    assert got.expected_tokens == pytest.approx(first.tokens)
    spent = rollout.fill(asks(60, 4), SAMPLING, teacher(tmp_path, PRICES), where, label="sample").tokens - first.tokens
    assert got.low_tokens is not None and got.high_tokens is not None
    assert got.low_tokens < spent < got.high_tokens < got.worst_tokens
    assert got.low_cost is not None and got.expected_cost is not None and got.high_cost is not None
    assert got.low_cost < got.expected_cost < got.high_cost
    done = estimate(tmp_path, 60, 4)
    assert (done.missing, done.worst_tokens, done.expected_tokens, done.high_cost) == (0, 0, 0.0, 0.0)


def test_other_settings_are_no_basis_and_a_lower_limit_cuts_what_is_known(tmp_path: Path) -> None:
    rollout.fill(asks(10, 4), SAMPLING, teacher(tmp_path), Workspace(tmp_path), label="sample")
    assert estimate(tmp_path, 10, 4, seed=1).basis == 0
    lower = estimate(tmp_path, 20, 4, max_tokens=5)
    assert lower.basis == 10
    assert lower.expected_tokens is not None
    assert lower.expected_tokens <= lower.missing * (7 + 5)


def test_the_interval_covers_its_share() -> None:
    rng, hits = random.Random(0), 0
    for _ in range(400):
        means = [rng.lognormvariate(5, 0.5) for _ in range(25)]
        truth = sum(rng.lognormvariate(5, 0.5) for _ in range(50))
        _, low, high = forecast._total(means, 50, 50, 1e9)
        assert low is not None and high is not None
        hits += low <= truth <= high
    assert 0.91 <= hits / 400 <= 0.98


def test_one_problem_gives_no_interval() -> None:
    assert forecast._total([100.0], 4, 1, 1e9) == (400.0, None, None)
