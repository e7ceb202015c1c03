"""The item bootstrap: deterministic, and what it does at the edges. Its coverage is in test_coverage.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from distill.evaluate import bootstrap, costs
from tests.evaluate.simulated import line


def ratio(mean_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    return mean_BC[:, 0] / mean_BC[:, 1]


def mean(mean_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    return mean_BC[:, 0]


COLUMNS = np.random.default_rng(0).gamma(4.0, 25.0, (60, 2))


def test_the_same_seed_gives_the_same_digits_and_another_seed_others():
    first, again = bootstrap.interval(COLUMNS, ratio), bootstrap.interval(COLUMNS.copy(), ratio)
    other = bootstrap.interval(COLUMNS, ratio, seed=1)

    assert first == again
    assert first != other
    assert other == pytest.approx(first, rel=0.05)


def test_resamples_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch):
    whole = bootstrap.interval(COLUMNS, ratio, draws=500)
    monkeypatch.setattr(bootstrap, "BLOCK", 60 * 7)

    assert bootstrap.interval(COLUMNS, ratio, draws=500) == pytest.approx(whole, rel=1e-12)


def test_of_a_mean_it_is_about_the_interval_of_student():
    low, high = bootstrap.interval(COLUMNS, mean) or (0.0, 0.0)
    error = COLUMNS[:, 0].std(ddof=1) / np.sqrt(60)

    assert (high - low) == pytest.approx(2 * 2.001 * error, rel=0.1)
    assert high - COLUMNS[:, 0].mean() > COLUMNS[:, 0].mean() - low  # lengths are skewed to the right


def test_several_figures_share_their_resamples():
    both = bootstrap.intervals(COLUMNS, [mean, ratio])

    assert both == [bootstrap.interval(COLUMNS, mean), bootstrap.interval(COLUMNS, ratio)]


def test_one_item_and_a_figure_that_is_not_there_have_no_interval():
    assert bootstrap.interval(COLUMNS[:1], mean) is None
    assert bootstrap.interval(COLUMNS, lambda mean_BC: np.full(len(mean_BC), np.inf)) is None


def test_a_constant_has_an_interval_of_no_width():
    assert bootstrap.interval(np.ones((30, 1)), mean) == (1.0, 1.0)


def test_cost_of_a_correct_answer_counts_the_wrong_ones():
    lines = [line("a", 0, True, 100), line("a", 1, False, 300), line("b", 0, True, 200), line("b", 1, True, 200)]

    found = costs.tokens_per_correct(lines)

    assert found.value == pytest.approx(800 / 3)
    assert found.low is not None and found.high is not None and found.low < 800 / 3 < found.high


def test_nothing_correct_has_no_cost_and_a_rare_success_no_upper_end():
    wrong = [line(str(item), 0, False, 100) for item in range(30)]

    assert costs.tokens_per_correct(wrong).value is None
    once = costs.tokens_per_correct([*wrong, line("x", 0, True, 100)])
    assert once.value == pytest.approx(3100)
    assert once.low is not None and once.high is None


def test_money_needs_the_price_of_every_answer():
    from dataclasses import replace

    priced = [replace(line(str(item), 0, item % 2 == 0, 100), cost=0.25) for item in range(20)]

    found = costs.money_per_correct(priced)
    assert found is not None and found.value == pytest.approx(0.5)
    assert costs.money_per_correct([*priced, line("x", 0, True, 100)]) is None
