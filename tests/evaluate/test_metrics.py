"""Rates against arithmetic by hand, intervals against simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distill.core.records import VerdictValue
from distill.evaluate import metrics
from distill.evaluate.metrics import NO_DIFFERENCE, Difference, Rate

VALUES: tuple[VerdictValue, ...] = ("correct", "wrong", "unparseable", "ungradable", "error")


def one_each(values: Sequence[VerdictValue]) -> dict[str, list[VerdictValue]]:
    return {f"p{number}": [value] for number, value in enumerate(values)}


def test_truncated_answers_count_against_the_model():
    rate = metrics.pass_rate(one_each(["correct"] * 50 + ["unparseable"] * 50))  # half truncated, the rest right

    assert (rate.k, rate.n, rate.value) == (50, 100, 0.5)


def test_ungradable_and_error_leave_the_denominator_and_are_shown():
    rate = metrics.pass_rate(one_each(["correct"] * 3 + ["wrong", "ungradable", "ungradable", "error"]))

    assert (rate.k, rate.n, rate.ungradable, rate.errors, rate.excluded) == (3, 4, 2, 1, 3)
    assert rate.value == 0.75
    assert rate.excluded_share == pytest.approx(3 / 7)


def test_errors_of_one_item_do_not_count_as_wrong():
    rate = metrics.pass_rate({"p": ["correct"] * 4 + ["error"] * 4})

    assert (rate.value, rate.n) == (1.0, 4)


def test_nothing_graded_has_no_rate():
    rate = metrics.pass_rate(one_each(["ungradable", "error"]))

    assert (rate.value, rate.low, rate.high) == (None, None, None)
    assert str(rate) == "nothing graded"


def test_one_sample_an_item_is_wilsons_interval():
    rate = metrics.pass_rate(one_each(["correct"] * 8 + ["wrong"] * 2))

    z2 = 1.959964**2  # the roots of (p - 0.8)^2 = z^2 p (1 - p) / 10
    a, b, c = 1 + z2 / 10, -(1.6 + z2 / 10), 0.64
    root = math.sqrt(b * b - 4 * a * c)
    assert rate.low == pytest.approx((-b - root) / (2 * a), abs=1e-6)
    assert rate.high == pytest.approx((-b + root) / (2 * a), abs=1e-6)
    assert str(rate) == "80.0% [49.0, 94.3]"


def test_copies_of_one_sample_add_no_certainty():
    once = metrics.pass_rate({f"p{i}": ["correct" if i % 3 else "wrong"] for i in range(60)})
    copied = metrics.pass_rate({f"p{i}": ["correct" if i % 3 else "wrong"] * 8 for i in range(60)})

    assert copied.n == 8 * once.n and copied.value == once.value
    assert _width(copied) == pytest.approx(_width(once), rel=0.05)  # Student's t makes it a little wider


@given(st.lists(st.lists(st.sampled_from(VALUES), min_size=1, max_size=5), min_size=1, max_size=12))
def test_a_rate_is_the_share_of_correct_among_graded(groups: list[list[VerdictValue]]):
    rate = metrics.pass_rate({str(place): group for place, group in enumerate(groups)})

    flat = [value for group in groups for value in group]
    graded = [value for value in flat if value in ("correct", "wrong", "unparseable")]
    assert rate.n + rate.ungradable + rate.errors == len(flat)
    if graded:
        assert rate.value == pytest.approx(graded.count("correct") / len(graded))
        assert rate.low is not None and rate.high is not None and rate.value is not None
        assert 0 <= rate.low <= rate.value <= rate.high <= 1


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("items", [30, 200, 500])
@pytest.mark.parametrize("spread", [(3.0, 1.0), (20.0, 1.0)], ids=str)
def test_interval_of_a_rate_covers_the_truth(items: int, samples: int, spread: tuple[float, float]):
    rng = np.random.default_rng(7)
    truth = spread[0] / sum(spread)
    runs, covered = 600, 0
    for _ in range(runs):
        correct_I = rng.binomial(samples, rng.beta(*spread, size=items))  # items differ in how hard they are
        rate = metrics.pass_rate({str(i): _answers(int(k), samples) for i, k in enumerate(correct_I)})
        assert rate.low is not None and rate.high is not None
        covered += rate.low <= truth <= rate.high
    assert covered / runs == pytest.approx(0.95, abs=0.035)  # 600 runs: standard error 0.9 points


def test_student_t_against_the_tables():
    for freedom, quantile in [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (29, 2.04523), (499, 1.96473)]:
        assert metrics.student_t(freedom) == pytest.approx(quantile, rel=1e-4)
    assert metrics.student_t(3) < metrics.student_t(2.5) < metrics.student_t(2)
    assert metrics.student_t(1e9) == pytest.approx(1.959964, rel=1e-4)


def test_mean_by_item():
    mean = metrics.mean_of({"a": [10.0, 20.0], "b": [30.0, 40.0]})

    assert (mean.value, mean.n, mean.items) == (25.0, 4, 2)
    assert mean.high == pytest.approx(25 + 12.7062 * 10, rel=1e-4)  # clusters at 15 and 35: standard error 10
    assert metrics.mean_of({"a": [5.0]}).low is None
    assert metrics.mean_of({}).value is None


def test_paired_difference_by_hand():
    a = one_each(["correct", "correct", "correct", "wrong"])
    b = one_each(["correct", "wrong", "wrong", "wrong"])

    difference = metrics.paired_difference([a], [b])

    assert difference.value == 0.5  # differences 0, 1, 1, 0: standard error sqrt(1/3) / 2
    assert difference.high == pytest.approx(0.5 + 3.18245 * math.sqrt(1 / 3) / 2, rel=1e-4)
    assert difference.verdict == NO_DIFFERENCE
    assert str(difference) == "+50.0 points [-41.9, +141.9]"


def test_a_clear_gain_is_called_higher_and_its_reverse_lower():
    a, b = one_each(["correct"] * 90 + ["wrong"] * 10), one_each(["correct"] * 60 + ["wrong"] * 40)

    assert metrics.paired_difference([a], [b]).verdict == "higher"
    assert metrics.paired_difference([b], [a]).verdict == "lower"
    assert metrics.paired_difference([a], [a]).verdict == NO_DIFFERENCE


def test_equal_sides_still_have_an_interval():
    wrong = one_each(["wrong"] * 50)

    difference = metrics.paired_difference([wrong], [wrong])

    assert (difference.value, difference.verdict) == (0.0, NO_DIFFERENCE)
    assert difference.high == pytest.approx(2.0096 / 50, rel=1e-3)  # as if one of 50 had differed
    assert (metrics.rate_over_seeds([wrong, wrong]).high or 0) > 0.07  # and Wilson's bound for 0 of 50


def test_items_without_a_grade_leave_both_sides():
    a, b = one_each(["correct", "error", "wrong", "correct"]), one_each(["wrong", "correct", "wrong", "correct"])

    difference = metrics.paired_difference([a], [b])

    assert (difference.items, difference.dropped) == (3, 1)
    assert difference.value == pytest.approx(1 / 3)


def test_unpaired_sides_are_refused():
    a = one_each(["correct", "wrong"])
    with pytest.raises(ValueError, match="different items"):
        metrics.paired_difference([a], [{"other": ["correct"]}])
    with pytest.raises(ValueError, match="2 seeds on one side and 1"):
        metrics.paired_difference([a, a], [a])


@pytest.mark.parametrize("training_noise", [0.0, 0.02])
def test_interval_of_a_difference_covers_a_null_with_and_without_training_noise(training_noise: float):
    rng = np.random.default_rng(3)
    covered = [
        _covers(metrics.paired_difference(*_two_arms(rng, 300, 3, 0.0, training_noise)), 0.0) for _ in range(400)
    ]

    assert np.mean(covered) == pytest.approx(0.95, abs=0.035)  # 400 runs: standard error 1.1 points


def test_items_alone_would_not_cover_training_noise():
    """Why an item bootstrap or a clustered error over items was not taken for arms with seeds."""
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(200):
        a, b = (_table(side) for side in _two_arms(rng, 300, 3, 0.0, 0.03))
        item_I = (a - b).mean(axis=0)
        covered.append(abs(item_I.mean()) <= 1.97 * item_I.std(ddof=1) / math.sqrt(len(item_I)))
    assert np.mean(covered) < 0.85


def test_a_planted_gain_is_found():
    rng = np.random.default_rng(5)
    found = [metrics.paired_difference(*_two_arms(rng, 500, 3, 0.10, 0.005)).verdict for _ in range(100)]

    assert found.count("higher") > 80
    assert "lower" not in found


def test_rate_over_seeds():
    seeds = [one_each(["correct", "wrong", "correct", "correct"]), one_each(["correct", "wrong", "wrong", "correct"])]

    assert metrics.rate_over_seeds(seeds).value == pytest.approx(0.625)
    assert metrics.rate_over_seeds(seeds[:1]).high == metrics.pass_rate(seeds[0]).high  # one seed: Wilson's


def test_ratio_covers_the_truth():
    rng = np.random.default_rng(11)
    covered, runs = 0, 500
    for _ in range(runs):
        hard_I = rng.beta(3, 1, 300)
        a, b = (_verdicts(rng.random(300) < hard_I * factor) for factor in (0.8, 1.0))
        ratio = metrics.paired_ratio(a, b)
        assert ratio.low is not None and ratio.high is not None
        covered += ratio.low <= 0.8 <= ratio.high
    assert covered / runs == pytest.approx(0.95, abs=0.03)


def test_ratio_at_the_edges():
    right, wrong = one_each(["correct"] * 20), one_each(["wrong"] * 20)

    assert metrics.paired_ratio(right, wrong).value is None
    assert metrics.paired_ratio(wrong, right).value == 0.0
    assert (metrics.paired_ratio(wrong, right).high or 0) > 0.1
    assert str(metrics.paired_ratio(right, right)) == "100% [100, 100]"


def _width(rate: Rate) -> float:
    assert rate.low is not None and rate.high is not None
    return rate.high - rate.low


def _answers(correct: int, samples: int) -> list[VerdictValue]:
    return ["correct"] * correct + ["wrong"] * (samples - correct)


def _verdicts(correct_I: NDArray[np.bool_]) -> dict[str, list[VerdictValue]]:
    return {str(place): ["correct" if right else "wrong"] for place, right in enumerate(correct_I)}


def _two_arms(
    rng: np.random.Generator, items: int, seeds: int, gain: float, training_noise: float
) -> tuple[list[dict[str, list[VerdictValue]]], list[dict[str, list[VerdictValue]]]]:
    """Two arms on items of varied difficulty; each trained model is off by its own amount."""
    hard_I = rng.beta(1.4, 0.9, items) * 0.85
    sides = []
    for mean in (gain, 0.0):
        shifts = rng.normal(mean, training_noise, seeds)
        sides.append([_verdicts(rng.random(items) < np.clip(hard_I + shift, 0, 1)) for shift in shifts])
    return sides[0], sides[1]


def _table(side: Sequence[dict[str, list[VerdictValue]]]) -> NDArray[np.float64]:
    return np.array([[values == ["correct"] for values in seed.values()] for seed in side], float)


def _covers(difference: Difference, truth: float) -> bool:
    assert difference.low is not None and difference.high is not None
    return difference.low <= truth <= difference.high
