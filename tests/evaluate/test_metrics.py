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
from distill.evaluate import intervals, metrics
from distill.evaluate.metrics import NO_DIFFERENCE

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
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


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


def test_student_t_against_the_tables():
    for freedom, quantile in [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (29, 2.04523), (499, 1.96473)]:
        assert intervals.student_t(freedom) == pytest.approx(quantile, rel=1e-4)
        assert intervals.student_tails(quantile, freedom) == pytest.approx(0.05, rel=1e-4)
    assert intervals.student_t(29, 0.99) == pytest.approx(2.75639, rel=1e-4)
    assert intervals.student_t(3) < intervals.student_t(2.5) < intervals.student_t(2)
    assert intervals.student_t(1e9) == pytest.approx(1.959964, rel=1e-4)


def test_tails_of_student_t_far_out_and_in_the_middle():
    assert intervals.student_tails(0.0, 7) == 1.0
    assert intervals.student_tails(1e-9, 7) == pytest.approx(1.0)
    assert intervals.student_tails(-2.0, 10) == intervals.student_tails(2.0, 10) == pytest.approx(0.0733880, rel=1e-5)
    assert intervals.student_tails(10.0, 30) == pytest.approx(4.5e-11, rel=0.02)
    assert intervals.student_tails(1.959964, 1e9) == pytest.approx(0.05, rel=1e-5)
    assert intervals.student_tails(1.96, 4999) == pytest.approx(intervals.student_tails(1.96, 5001), rel=2e-3)


def test_mean_by_item():
    mean = metrics.mean_of({"a": [10.0, 20.0], "b": [30.0, 40.0]})

    assert (mean.value, mean.n, mean.items) == (25.0, 4, 2)
    # left out in turn: means of 35 and 15, whose logarithms are ln(35/15) / 2 from their middle
    factor = math.exp(12.7062 * math.log(35 / 15) / math.sqrt(2))
    assert (mean.low, mean.high) == pytest.approx((25 / factor, 25 * factor), rel=1e-3)
    below = metrics.mean_of({"a": [-10.0, 10.0], "b": [30.0, 40.0]})  # no logarithm: the plain interval
    assert below.high == pytest.approx(17.5 + 12.7062 * 17.5, rel=1e-4)
    assert metrics.mean_of({"a": [0.0], "b": [0.0]}).high == 0.0
    assert metrics.mean_of({"a": [5.0]}).low is None
    assert metrics.mean_of({}).value is None


def test_paired_difference_by_hand():
    a = one_each(["correct", "correct", "correct", "wrong"])
    b = one_each(["correct", "wrong", "wrong", "wrong"])

    difference = metrics.paired_difference([a], [b])

    assert difference.value == 0.5  # differences 0, 1, 1, 0: standard error sqrt(1/3) / 2
    assert difference.low == pytest.approx(0.5 - 3.18245 * math.sqrt(1 / 3) / 2, rel=1e-4)
    assert difference.verdict == NO_DIFFERENCE
    assert str(difference) == "+50.0 points [-41.9, +100.0]"  # never more than all against nothing


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


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40), st.integers(1, 3))
def test_the_p_value_says_what_the_interval_says(items: list[tuple[int, int]], seeds: int):
    a, b = ([{str(i): _answers(pair[side], 4) for i, pair in enumerate(items)}] * seeds for side in (0, 1))

    difference = metrics.paired_difference(a, b)

    assert difference.p is not None and difference.detectable is not None and difference.value is not None
    assert 0 <= difference.p <= 1
    assert (difference.verdict != NO_DIFFERENCE) == (difference.p < 0.05)
    assert metrics.paired_difference(b, a).p == pytest.approx(difference.p)


def test_detectable_is_2_8_standard_errors_of_a_large_comparison():
    a, b = (
        one_each(["correct"] * 600 + ["wrong"] * 400),
        one_each(["wrong"] * 300 + ["correct"] * 300 + ["wrong"] * 400),
    )

    difference = metrics.paired_difference([a], [b])

    error = math.sqrt(0.3 * 0.7 / 999)
    assert difference.detectable == pytest.approx((1.9623 + 0.8420) * error, rel=1e-3)


def test_the_least_variance_is_that_of_one_answer():
    same = {str(item): _answers(4, 4) for item in range(50)}

    difference = metrics.paired_difference([same], [same])

    assert difference.high == pytest.approx(2.0096 / 4 / 50, rel=1e-3)  # one answer of 200
    assert difference.p == 1.0


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.9, 0.5]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def test_pairs_are_the_later_minus_the_earlier_and_adjusted_together():
    base, student = one_each(["wrong"] * 60 + ["correct"] * 40), one_each(["wrong"] * 40 + ["correct"] * 60)
    teacher = one_each(["wrong"] * 34 + ["correct"] * 66)

    found = metrics.pairs({"base": base, "student": student, "teacher": teacher})

    assert [(pair.a, pair.b) for pair in found] == [("student", "base"), ("teacher", "base"), ("teacher", "student")]
    assert found[0].difference.value == pytest.approx(0.2)
    assert [pair.verdict for pair in found] == ["higher"] * 3
    raw, adjusted = found[2].difference.p or 0.0, found[2].p_holm or 0.0
    assert raw == adjusted < 0.05  # the largest of three is not adjusted


def test_a_verdict_is_holms_where_the_interval_alone_would_show_a_difference():
    a, b = one_each(["correct"] * 12 + ["wrong"] * 88), one_each(["correct"] * 5 + ["wrong"] * 7 + ["wrong"] * 88)
    alone = metrics.pair("a", "b", [a], [b])
    same = metrics.pair("c", "b", [b], [b])

    together = metrics.adjusted([alone, same, same, same])

    assert alone.verdict == together[0].difference.verdict == "higher"
    assert together[0].p_holm == pytest.approx(4 * (alone.difference.p or 0.0)) and together[0].p_holm > 0.02
    assert metrics.adjusted([alone] + [same] * 9)[0].verdict == NO_DIFFERENCE


def test_exact_mcnemar_is_a_doubled_binomial_tail():
    a, b = one_each(["correct"] * 9 + ["wrong"] * 11), one_each(["wrong"] * 8 + ["correct"] * 3 + ["wrong"] * 9)

    # 8 items for a, 2 for b: 2 (1 + 10 + 45) / 1024
    assert metrics.exact_mcnemar(a, b) == pytest.approx(112 / 1024)
    assert metrics.exact_mcnemar(b, a) == pytest.approx(112 / 1024)
    assert metrics.exact_mcnemar(a, a) == 1.0
    assert metrics.exact_mcnemar(a, {**b, "p0": ["wrong", "wrong"]}) is None  # more than one sample an item
    assert metrics.exact_mcnemar({"p": ["error"]}, {"p": ["correct"]}) is None


def test_a_pair_is_made_on_common_items():
    a, b = one_each(["correct"] * 4), {"p0": ["wrong"], "p1": ["correct"], "elsewhere": ["correct"]}

    assert metrics.pair("a", "b", [a], [b]).difference.items == 2
    assert metrics.pair("a", "b", [a], [{"elsewhere": ["correct"]}]).difference.value is None


def test_estimates_as_they_are_shown():
    assert metrics.Estimate(0.8321, 0.797, 0.862).percent == "83.2% [79.7, 86.2]"
    assert metrics.Estimate(1204.4, 1130.2, 1290.0).plain == "1,204 [1,130, 1,290]"
    assert metrics.Estimate(67.71, 64.3, None).plain == "67.7"
    assert metrics.Estimate(0.041, -0.003, 0.085).points == "+4.1 points [-0.3, +8.5]"
    assert metrics.Estimate(None).percent == "-"


def test_unpaired_sides_are_refused():
    a = one_each(["correct", "wrong"])
    with pytest.raises(ValueError, match="different items"):
        metrics.paired_difference([a], [{"other": ["correct"]}])
    with pytest.raises(ValueError, match="2 seeds on one side and 1"):
        metrics.paired_difference([a, a], [a])


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
    found = [metrics.paired_difference(*_two_arms(rng, 500, 3, 0.10, 0.005)).verdict for _ in range(50)]

    assert found.count("higher") > 40
    assert "lower" not in found


def test_rate_over_seeds():
    seeds = [one_each(["correct", "wrong", "correct", "correct"]), one_each(["correct", "wrong", "wrong", "correct"])]

    assert metrics.rate_over_seeds(seeds).value == pytest.approx(0.625)
    assert metrics.rate_over_seeds(seeds[:1]).high == metrics.pass_rate(seeds[0]).high  # one seed: Wilson's


def test_ratio_at_the_edges():
    right, wrong = one_each(["correct"] * 20), one_each(["wrong"] * 20)

    assert metrics.paired_ratio(right, wrong).value is None
    assert metrics.paired_ratio(wrong, right).value == 0.0
    assert (metrics.paired_ratio(wrong, right).high or 0) > 0.1
    assert str(metrics.paired_ratio(right, right)) == "100% [100, 100]"


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
