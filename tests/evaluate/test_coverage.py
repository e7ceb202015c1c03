"""Every stated interval against simulation; what is drawn is in simulated.py, the whole table in docs/statistics.md."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distill.evaluate import intervals, metrics
from tests.evaluate import simulated

KINDS: dict[str, Callable[[str], bool]] = {
    "rate": lambda name: name.startswith("rate,"),
    "paired difference": lambda name: name.startswith("paired difference"),
    "over seeds": lambda name: "seeds" in name,
    "ratio": lambda name: name.startswith("ratio"),
    "mean length": lambda name: name.startswith("mean length"),
    "pass@k and maj@k": lambda name: "@" in name,
}
"""Figures whose intervals are built alike; the bootstrapped ones are slow."""


TOLERANCE = {"over seeds": 0.025}
"""What holds training noise too is cautious: 95.5% to 96.7% where that noise is from 0 to 2 points."""


@pytest.mark.parametrize("items", simulated.ITEMS)
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_within_2_points_of_95_percent(kind: str, items: int):
    """Averaged over the figures of a kind: a standard error of 0.7 points, 1 at 500 items."""
    chosen = {name: draw for name, draw in simulated.FIGURES.items() if KINDS[kind](name)}
    runs = (500 if items == 500 else 1000) // len(chosen) + 1

    covered = [simulated.coverage(draw, items, runs, seed=place) for place, draw in enumerate(chosen.values())]

    assert np.mean(covered) == pytest.approx(0.95, abs=TOLERANCE.get(kind, 0.02))


@pytest.mark.slow
@pytest.mark.parametrize("items", simulated.ITEMS)
@pytest.mark.parametrize("name", simulated.FIGURES)
def test_each_interval_covers_within_2_points_of_95_percent(name: str, items: int):
    """Each figure alone: standard error 0.5 points, 1 at equal tokens."""
    covered = simulated.coverage(simulated.FIGURES[name], items, simulated.runs_of(name))

    assert covered == pytest.approx(0.95, abs=0.02)


def test_the_simulation_sees_an_interval_that_is_too_narrow():
    """A rate whose answers are taken for independent, which they are not: it covers 75%."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float, float, float]:
        correct = rng.binomial(4, simulated.hardness(rng, 0.7, 0.5, items)).sum()
        return *intervals.wilson(correct / (4 * items), 4 * items, 1.96), 0.7

    assert simulated.coverage(draw, 200, 500) < 0.85


def test_without_the_draw_towards_items_a_rate_near_1_would_cover_too_little():
    """Why `of_shares` does not trust a variance that rests on an item or two: 30 items, 16 samples, rate 95%."""
    rng = np.random.default_rng(0)
    plain = drawn = 0
    for _ in range(1000):
        share_I = rng.binomial(16, simulated.hardness(rng, 0.95, 0.5, 30)) / 16
        value, error = share_I.mean(), share_I.std(ddof=1) / np.sqrt(30)
        raw = 30.0 if np.isin(share_I, (0, 1)).all() else min(480.0, value * (1 - value) / error**2)
        low, high = intervals.wilson(float(value), raw, intervals.student_t(29))
        plain += low <= 0.95 <= high
        low, high = intervals.of_shares(share_I, np.ones(30), 480)
        drawn += low <= 0.95 <= high
    assert plain / 1000 < 0.88
    assert drawn / 1000 > 0.90


def test_a_null_is_called_different_by_holm_in_5_percent_of_evaluations():
    """Five models that are the same, ten comparisons: without adjustment some pair differs in a quarter of them."""
    rng = np.random.default_rng(1)
    adjusted = raw = 0
    for _ in range(200):
        hard_I = simulated.hardness(rng, 0.6, 2.0, 100)
        found = metrics.pairs({name: simulated.verdicts(rng.binomial(1, hard_I), 1) for name in "abcde"})
        adjusted += any(pair.verdict != metrics.NO_DIFFERENCE for pair in found)
        raw += any(pair.difference.verdict != metrics.NO_DIFFERENCE for pair in found)
    assert adjusted / 200 < 0.07
    assert raw / 200 > 0.15
