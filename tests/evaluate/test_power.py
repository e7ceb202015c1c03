"""The printed power against simulated evaluations."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.evaluate import metrics, power
from tests.evaluate.simulated import verdicts


def shown(items: int, samples: int, gain: float, runs: int, seed: int) -> dict[str, float]:
    """How often the paired test shows `higher` and `lower` where b has the rate 60% - gain/2 and a 60% + gain/2.

    An item's difficulty is Beta with the correlation `WITHIN` between answers of one model; a share
    BETWEEN / WITHIN of items is as hard for one model as for the other, which makes that correlation `BETWEEN`.
    """
    rng = np.random.default_rng(seed)
    spread = 1 / power.WITHIN - 1  # a + b of the Beta distribution: correlation 1 / (a + b + 1)
    found = {"higher": 0, "lower": 0, metrics.NO_DIFFERENCE: 0}
    for _ in range(runs):
        place_I = rng.random(items)
        shared_I = rng.random(items) < power.BETWEEN / power.WITHIN
        sides = []
        for rate, own_I in (
            (0.6 + gain / 2, place_I),
            (0.6 - gain / 2, np.where(shared_I, place_I, rng.random(items))),
        ):
            # the same quantile of each model's own Beta: harder items are harder for both
            hard_I = quantiles(rate * spread, (1 - rate) * spread)[(own_I * 1_000_000).astype(int)]
            sides.append(verdicts(rng.binomial(samples, hard_I), samples))
        found[metrics.paired_difference([sides[0]], [sides[1]]).verdict] += 1
    return {name: count / runs for name, count in found.items()}


@cache
def quantiles(a: float, b: float) -> NDArray[np.float64]:
    """A million quantiles of a Beta distribution; their mean is within 0.1 points of its own."""
    return np.sort(np.random.default_rng(0).beta(a, b, 1_000_000))


@pytest.mark.parametrize("samples", [1, 4])
def test_a_planted_gain_of_5_points_is_found_at_the_printed_power(samples: int):
    items = power.items_needed(0.05, samples, 0.6)

    found = shown(items, samples, 0.05, runs=400, seed=samples)

    assert power.power_of(0.05, items, samples, 0.6) == pytest.approx(0.8, abs=0.001)
    assert found["higher"] == pytest.approx(0.8, abs=0.04)  # 400 runs: standard error 2 points
    assert found["lower"] < 0.01


@pytest.mark.parametrize("samples", [1, 4])
def test_a_planted_null_is_shown_as_a_difference_no_more_often_than_printed(samples: int):
    found = shown(300, samples, 0.0, runs=800, seed=10 + samples)

    assert found["higher"] + found["lower"] == pytest.approx(power.plan(300).level, abs=0.02)  # standard error 0.8


def test_power_at_another_size_than_80_percent():
    found = shown(400, 1, 0.05, runs=600, seed=3)

    assert found["higher"] == pytest.approx(power.power_of(0.05, 400, 1, 0.6), abs=0.045)
    assert power.power_of(0.05, 400, 1, 0.6) < 0.5


def test_by_hand():
    error = math.sqrt(2 * 0.25 * 0.7 / 10_000)  # one sample, equal rates of 50%: they disagree on 35%

    assert power.minimal_detectable(10_000) == pytest.approx((1.96 + 0.8416) * error, rel=0.002)


def test_more_samples_help_down_to_what_items_allow():
    found = [power.minimal_detectable(500, samples) or 0.0 for samples in (1, 4, 64, 100_000)]

    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(found[0] * math.sqrt((0.5 - 0.3) / (1 - 0.3)), rel=0.02)
    assert found[2] == pytest.approx(found[3], rel=0.05)  # beyond 64 samples only items help


@pytest.mark.parametrize("difference", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("samples", [1, 16])
def test_items_needed_inverts_the_detectable_difference(difference: float, samples: int):
    items = power.items_needed(difference, samples, 0.7)

    assert (power.minimal_detectable(items, samples, 0.7) or 1.0) <= difference
    assert (power.minimal_detectable(items - 1, samples, 0.7) or 1.0) > difference


def test_few_items_may_find_nothing():
    plan = power.plan(3, 1, 0.9)

    assert plan.detectable is None
    assert "3 problems x 1 sample: no difference between two models could be shown" in str(plan)
    assert power.plan(1).detectable is None


def test_the_line_before_a_run_says_what_was_assumed():
    line = str(power.plan(500, 4, 0.6))

    assert line.startswith("500 problems x 4 samples: differences from 5.0 points on are found (80% power, 5% level")
    assert "rate 60%" in line and "0.5 within a model, 0.3 between models" in line


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="no two rates around 0.95 differ by 0.2"):
        power.power_of(0.2, 100, 1, 0.95)
    with pytest.raises(ValueError, match="0 <= between <= within <= 1"):
        power.power_of(0.1, 100, within=0.2, between=0.4)
    with pytest.raises(ValueError, match="1 items"):
        power.power_of(0.1, 1)
    with pytest.raises(ValueError, match="found by no number of items"):
        power.items_needed(0.0)
