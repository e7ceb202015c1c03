"""Curves of test-time compute from stored samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill.evaluate import at_k, curves, metrics
from distill.evaluate.scores import Score, verdicts_by_item
from tests.evaluate.simulated import line, priced

LINES = [
    line("a", 0, True, 40, group=0), line("a", 1, False, 80, group=1),
    line("b", 0, False, 20, group=0), line("b", 1, True, 100, group=1),
]  # fmt: skip


def test_samples_cost_their_number_times_the_mean_answer():
    first, second = curves.by_samples(LINES)

    assert (first.samples, second.samples) == (1, 2)
    assert first.tokens.value == 60 and second.tokens.value == 120
    assert (first.pass_at.value, second.pass_at.value) == (0.5, 1.0)
    assert first.maj_at is not None and second.maj_at is not None
    assert (first.maj_at.value, second.maj_at.value) == (0.5, 0.5)  # two different answers are a tie


def test_answers_that_cannot_vote_have_no_majority():
    assert [point.maj_at for point in curves.by_samples([replace(each, group=at_k.NO_VOTE) for each in LINES])] == [
        None, None,
    ]  # fmt: skip


def test_an_answer_counts_only_if_all_of_it_fits_into_the_budget():
    points = curves.by_budget(LINES, (30, 40, 99, 100))

    assert [point.rate.value for point in points] == [0.0, 0.25, 0.25, 0.5]
    assert [point.tokens.value for point in points] == [27.5, 35.0, 59.75, 60.0]  # what is cut has spent the budget
    assert [point.finished for point in points] == [0.25, 0.5, 0.75, 1.0]


def test_without_a_limit_a_budget_gives_the_rate_itself():
    last = curves.by_budget(LINES, curves.budgets(LINES))[-1]
    rate = metrics.pass_rate(verdicts_by_item(LINES))

    assert (last.rate.value, last.rate.low, last.rate.high) == (rate.value, rate.low, rate.high)


def test_truncated_answers_are_wrong_at_any_budget_and_failed_requests_nowhere():
    cut = replace(line("c", 0, False, 100), value="unparseable", finish_reason="length")
    failed = [replace(line(item, 2, False, 0), value="error", finish_reason="error") for item in "ab"]
    points = curves.by_budget([*LINES, cut, *failed], (100, 200))

    assert [point.rate.value for point in points] == [0.4, 0.4]
    assert [point.finished for point in points] == [0.8, 0.8]
    assert curves.by_samples([*LINES, *failed])[0].tokens.value == 60


def test_budgets_lie_around_the_lengths_of_all_models():
    assert curves.budgets(LINES) == (16, 24, 32, 48, 64, 96, 128)
    assert curves.budgets([line("a", 0, True, 33), line("a", 1, True, 48)]) == (32, 48)
    assert curves.budgets([line("a", 0, True, 5)]) == (16,)
    assert curves.budgets([]) == ()


def test_a_budget_below_one_token_is_an_error():
    with pytest.raises(ValueError, match="budget 0"):
        curves.by_budget(LINES, (0,))


def flat(tokens: int, right: int, items: int = 40, samples: int = 1) -> list[Score]:
    """Answers of one length; the first `right` items are solved."""
    return [line(f"{item:03}", index, item < right, tokens) for item in range(items) for index in range(samples)]


def test_at_equal_tokens_a_model_of_half_the_length_gets_two_samples():
    # a: one answer of 100 tokens, 20 of 40 right. b: four of 50; one solves 10 items always, the others never
    short = flat(50, 10, samples=4)
    points = curves.at_equal_tokens(flat(100, 20), short, along="pass")

    (point,) = points
    assert (point.anchor, point.place, point.tokens) == ("a", 1, 100.0)
    assert (point.a.value, point.b.value, point.difference.value) == (0.5, 0.25, 0.25)


def test_between_points_accuracy_is_the_mixture_of_both():
    # b: samples of 60 tokens, each problem solved by one of its two; at 90 tokens half of the problems get two
    b = [line(f"{item:03}", index, index == 0, 60) for item in range(40) for index in range(2)]
    (point,) = curves.at_equal_tokens(flat(90, 40), b, along="pass")

    assert point.b.value == pytest.approx(0.5 * 0.5 + 0.5 * 1.0)
    assert point.difference.value == pytest.approx(0.25)


def test_nothing_is_extrapolated_and_only_common_problems_count():
    assert curves.at_equal_tokens(flat(100, 20), flat(20, 20, samples=2), along="pass") == []
    fewer = flat(100, 20)[:-10]
    (point,) = curves.at_equal_tokens(flat(100, 20), fewer, along="pass")
    assert point.a.value == pytest.approx(20 / 30)
    with pytest.raises(ValueError, match="no graded problem in common"):
        curves.at_equal_tokens(flat(100, 20)[:5], flat(100, 20)[5:])


def test_models_that_agree_everywhere_still_have_an_interval():
    (point,) = curves.at_equal_tokens(flat(100, 40), flat(100, 40), along="maj")

    assert point.difference.value == 0.0
    assert point.difference.low is not None and point.difference.low < 0 < (point.difference.high or 0)
    assert point.a.low is not None and point.a.low < 0.95


def test_answers_without_groups_cannot_be_compared_by_majority():
    blank = [replace(each, group=at_k.NO_VOTE) for each in flat(100, 20)]
    with pytest.raises(ValueError, match="cannot vote"):
        curves.at_equal_tokens(blank, flat(100, 20), along="maj")


def test_the_same_scores_give_the_same_digits():
    a, b = priced(np.random.default_rng(0), 50, 2)

    points = curves.at_equal_tokens(a, b)

    assert points == curves.at_equal_tokens(list(reversed(a)), b)
    assert len(points) > 5
    assert points[-1].difference.value is not None and points[-1].difference.value > 0  # b needs a fifth more


@pytest.mark.parametrize("along", ["pass", "budget"])
def test_points_of_a_curve_are_those_of_the_model_alone(along: curves.Along):
    a, b = priced(np.random.default_rng(1), 60, 4)
    alone = {point.samples: point.pass_at for point in curves.by_samples(a)}
    if along == "budget":
        alone = {point.budget: point.rate for point in curves.by_budget(a, curves.budgets([*a, *b]))}

    for point in curves.at_equal_tokens(a, b, along=along):
        if point.anchor == "a":
            assert point.a.value == pytest.approx(alone[point.place].value)
