"""pass@k and maj@k against brute force over all subsets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core.records import VerdictValue
from distill.evaluate import at_k, metrics
from distill.evaluate.at_k import Vote
from tests.evaluate.simulated import line

BLANK: Vote = (at_k.NO_VOTE, "unparseable")

votes = st.lists(
    st.one_of(
        st.just(BLANK), st.tuples(st.integers(0, 4), st.sampled_from(("correct", "wrong")))
    ), min_size=1, max_size=8,
)  # fmt: skip


def over_subsets(cast: Sequence[Vote], k: int, won: Callable[[Sequence[Vote]], float]) -> float:
    subsets = list(combinations(cast, k))
    return sum(map(won, subsets)) / len(subsets)


def any_correct(subset: Sequence[Vote]) -> float:
    return float(any(value == "correct" for _, value in subset))


def majority(subset: Sequence[Vote]) -> float:
    """Share of correct answers in each of the largest groups, which win evenly. Nothing but blanks: wrong."""
    groups: dict[int, list[bool]] = {}
    for group, value in subset:
        if group != at_k.NO_VOTE:
            groups.setdefault(group, []).append(value == "correct")
    if not groups:
        return 0.0
    most = max(map(len, groups.values()))
    winners = [members for members in groups.values() if len(members) == most]
    return sum(sum(members) / len(members) for members in winners) / len(winners)


@given(st.lists(votes, min_size=1, max_size=4), st.data())
def test_both_equal_the_mean_over_all_subsets(items: list[list[Vote]], data: st.DataObject):
    cast = {str(place): item for place, item in enumerate(items)}
    verdicts = {name: [value for _, value in item] for name, item in cast.items()}
    k = data.draw(st.integers(1, min(map(len, items))))

    assert at_k.pass_at_k(verdicts, k).value == pytest.approx(
        sum(over_subsets(item, k, any_correct) for item in items) / len(items)
    )
    assert at_k.maj_at_k(cast, k).value == pytest.approx(
        sum(over_subsets(item, k, majority) for item in items) / len(items)
    )


@given(votes)
def test_one_sample_is_the_rate_by_either(cast: list[Vote]):
    verdicts = {"p": [value for _, value in cast]}

    rate = metrics.pass_rate(verdicts).value

    assert at_k.pass_at_k(verdicts, 1).value == pytest.approx(rate)
    assert at_k.maj_at_k({"p": cast}, 1).value == pytest.approx(rate)


def test_pass_at_1_has_the_interval_of_the_rate():
    verdicts = {str(item): at(item % 5, 4) for item in range(40)}
    rate, first = metrics.pass_rate(verdicts), at_k.pass_at_k(verdicts, 1)

    assert (first.value, first.low, first.high) == pytest.approx((rate.value, rate.low, rate.high))


def at(correct: int, samples: int) -> list[VerdictValue]:
    return ["correct"] * correct + ["wrong"] * (samples - correct)


def test_five_blanks_do_not_outvote_two_answers():
    assert at_k.maj_at_k({"p": [BLANK] * 5 + [(7, "correct")] * 2}, 7).value == 1.0
    assert at_k.maj_at_k({"p": [BLANK] * 7}, 7).value == 0.0


def test_ties_are_shared_evenly():
    tie: list[Vote] = [(0, "correct"), (0, "correct"), (1, "wrong"), (1, "wrong"), (2, "wrong"), (2, "wrong")]

    assert at_k.maj_at_k({"p": tie}, 6).value == pytest.approx(1 / 3)
    assert at_k.maj_at_k({"p": tie}, 2).value == pytest.approx(1 / 3)


def test_a_known_value_of_pass_at_k():
    assert at_k.pass_at_k({"p": at(3, 10)}, 2).value == pytest.approx(1 - (7 * 6) / (10 * 9))  # Chen et al. 2021


def test_more_samples_than_there_are_is_an_error_with_the_numbers():
    short = {"full": at(2, 4), "short": at(1, 3)}
    cast: dict[str, list[Vote]] = {name: [(0, value) for value in values] for name, values in short.items()}

    with pytest.raises(ValueError, match="k = 4, but problem short has 3 graded answers"):
        at_k.pass_at_k(short, 4)
    with pytest.raises(ValueError, match="k = 4, but problem short has 3 graded answers"):
        at_k.maj_at_k(cast, 4)
    with pytest.raises(ValueError, match="k = 0"):
        at_k.pass_at_k(short, 0)


def test_bad_golds_and_failed_requests_are_no_samples():
    verdicts = {"a": at(2, 4), "gold": ["ungradable"] * 4, "b": [*at(1, 3), "error"]}

    assert at_k.every_k(verdicts) == (1, 2, 3)
    assert at_k.pass_at_k(verdicts, 3).value == pytest.approx((1 + 1) / 2)
    with pytest.raises(ValueError, match="problem b has 3"):
        at_k.pass_at_k(verdicts, 4)
    assert at_k.maj_at_k({"a": [(0, "correct"), (1, "wrong"), (0, "error")]}, 2).value == pytest.approx(0.5)


def test_every_k_is_powers_of_two_and_n():
    assert at_k.every_k({"p": at(0, 64)}) == (1, 2, 4, 8, 16, 32, 64)
    assert at_k.every_k({"p": at(0, 6), "q": at(0, 5)}) == (1, 2, 4, 5)
    assert at_k.every_k({"p": at(0, 1)}) == (1,)
    assert at_k.every_k({"p": ["ungradable"]}) == ()


def test_nothing_graded_has_no_value():
    assert at_k.pass_at_k({"p": ["error"]}, 1).value is None
    assert at_k.maj_at_k({}, 1).value is None


def test_a_correct_answer_without_a_group_is_refused():
    with pytest.raises(ValueError, match="no group to vote with"):
        at_k.maj_at_k({"p": [(at_k.NO_VOTE, "correct")]}, 1)
    assert at_k.can_vote([line("p", 0, True, 9, group=0), line("p", 1, False, 9, group=at_k.NO_VOTE)])
    assert not at_k.can_vote([line("p", 0, True, 9, group=at_k.NO_VOTE)])


def test_large_numbers_neither_overflow_nor_lose_digits():
    assert at_k.wins(700, (100, 200), 1100, 550) == pytest.approx(1.0, abs=1e-9)  # C(1100, 550) has 330 digits
    # one of 200 groups of one answer: each wins as often as any other, and somebody always wins
    assert 200 * at_k.wins(1, (1,) * 199, 200, 100) == pytest.approx(1.0, rel=1e-9)


def test_dynamic_programme_agrees_with_sampling_at_64_answers():
    """One check at a size where subsets cannot be counted: 20 right, groups of 18, 10 and 6, 10 blanks, k = 32."""
    cast: list[Vote] = [
        *[(0, "correct")] * 20, *[(1, "wrong")] * 18, *[(2, "wrong")] * 10, *[(3, "wrong")] * 6, *[BLANK] * 10,
    ]  # fmt: skip
    import random

    drawn = random.Random(0)
    simulated = sum(majority(drawn.sample(cast, 32)) for _ in range(20_000)) / 20_000

    assert at_k.maj_at_k({"p": cast}, 32).value == pytest.approx(simulated, abs=0.01)  # standard error 0.3 points
