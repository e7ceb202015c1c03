"""When policies stop, what they ask next, and what the way they stopped says of the teacher."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

import pytest
from pydantic import ValidationError

from distill.core.records import VerdictValue
from teachers.policies import adaptive, fixed, self_consistency, star
from teachers.policy import BARE, Drawn, Labelling, Line, Policy, Stopped, pass_rate

Draws = Sequence[bool]


def verdicts(draws: Draws) -> tuple[VerdictValue, ...]:
    return tuple("correct" if right else "wrong" for right in draws)


def play(policy: Policy, draws: Draws, hinted: Draws = ()) -> tuple[Stopped, dict[Line, int], list[int]]:
    """One problem whose answers are these, in order: how it stopped, what was asked, and the sizes of the rounds."""
    tally: dict[Line, Drawn] = {}
    sizes = []
    while asked := policy.next_round({"p": tally}):
        for line, more in asked["p"].items():
            total = tally.get(line, Drawn()).asked + more
            tally[line] = Drawn(total, verdicts((draws if line == BARE else hinted)[:total]))
            sizes.append(more)
    return policy.stopped(tally), {line: drawn.asked for line, drawn in tally.items()}, sizes


def build(**settings: object) -> Policy:
    return adaptive.build(adaptive.Config.model_validate(settings))


# adaptive


@pytest.mark.parametrize(
    ("settings", "draws", "rule", "asked"),
    [
        ({}, "1111", "k correct", 4),
        ({}, "1101" + "1", "k correct", 5),
        ({}, "0" * 16, "hopeless", 8),
        ({"hopeless_after": None}, "0" * 16, "max_n", 16),
        ({}, "1" + "0" * 15, "max_n", 16),
        ({"hopeless_after": 6}, "0" * 16, "hopeless", 6),  # not a multiple of the rounds
        ({"trivial_after": 2}, "11", "trivial", 2),
        ({"trivial_after": 2}, "10111", "k correct", 5),
        ({"trivial_after": 1, "hopeless_after": 1}, "1", "trivial", 1),
        ({"trivial_after": 1, "hopeless_after": 1}, "0", "hopeless", 1),
        ({"k": 1, "max_n": 1}, "0", "max_n", 1),
        ({"round": 4}, "1110" + "1111", "k correct", 8),
        ({"round": 8, "max_n": 10}, "0" * 7 + "111", "max_n", 10),
        ({"round": 3, "hopeless_after": 4}, "0" * 4, "hopeless", 4),
    ],
)
def test_adaptive_stops_at_the_first_rule_that_holds(settings: dict[str, object], draws: str, rule: str, asked: int):
    stopped, totals, _ = play(build(**settings), [draw == "1" for draw in draws])

    assert (stopped.rule, totals[BARE]) == (rule, asked)


def test_a_round_asks_for_what_is_missing_to_k():
    assert play(build(), [True, False, True, True, False, True])[2] == [4, 1, 1]
    assert play(build(round=2), [True, False, True, True, False, True])[2] == [2, 2, 2]
    assert play(build(round=5, max_n=7), [False] * 6 + [True], ())[2] == [5, 2]


def test_nothing_is_drawn_beyond_the_kth_success_unless_rounds_are_larger():
    rng = random.Random(0)
    for _ in range(200):
        draws = [rng.random() < 0.6 for _ in range(16)]
        stopped, totals, _ = play(build(), draws)
        if stopped.rule == "k correct":
            assert stopped.n == totals[BARE]


def test_faults_of_ours_are_drawn_again_and_count_for_nothing():
    policy = build(k=2, max_n=6)
    drawn = Drawn(4, ("error", "correct", "ungradable", "wrong"))

    assert policy.next_round({"p": {BARE: drawn}}) == {"p": {BARE: 1}}
    assert policy.stopped({BARE: Drawn(5, (*drawn.verdicts, "correct"))}) == Stopped("k correct", 3, 0.5)


def test_k_beyond_max_n_is_refused():
    with pytest.raises(ValidationError, match="k is 9, more than max_n, which is 8"):
        adaptive.Config(k=9, max_n=8)


# the pass rate


def outcomes(policy: Policy, length: int) -> Iterator[tuple[Stopped, list[bool]]]:
    """How the policy stops on every sequence of draws there is."""
    for draws in itertools.product([False, True], repeat=length):
        yield play(policy, draws)[0], list(draws)


def expected(policy: Policy, length: int, rates: Sequence[float]) -> list[float]:
    """The mean of the pass rate over all sequences, each with its probability, for each true rate: exact."""
    totals = [0.0] * len(rates)
    for stopped, draws in outcomes(policy, length):
        assert stopped.pass_rate is not None
        for place, rate in enumerate(rates):
            totals[place] += stopped.pass_rate * rate ** sum(draws) * (1 - rate) ** (length - sum(draws))
    return totals


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("size", [None, 1, 3, 4])
def test_the_pass_rate_is_unbiased_whatever_the_rounds(k: int, size: int | None):
    policy, rates = build(k=k, max_n=8, hopeless_after=None, round=size), [0.05, 0.3, 0.5, 0.9]

    assert expected(policy, 8, rates) == pytest.approx(rates, abs=1e-12)


def test_the_obvious_estimates_would_be_biased():
    """The test above can fail: k/n is too high, and counting what a round drew beyond the k-th success is off, too."""
    policy, rate = build(k=3, max_n=9, hopeless_after=None, round=4), 0.5
    chances = [rate ** sum(draws) * (1 - rate) ** (9 - sum(draws)) for _, draws in outcomes(policy, 9)]
    plain = [
        3 / stopped.n if stopped.rule == "k correct" and stopped.n else stopped.pass_rate or 0.0
        for stopped, _ in outcomes(policy, 9)
    ]
    rounded = []
    for draws in itertools.product([False, True], repeat=9):
        stopped, totals, _ = play(policy, draws)
        asked = totals[BARE]
        rounded.append(2 / (asked - 1) if stopped.rule == "k correct" else sum(draws) / 9)

    assert sum(c * x for c, x in zip(chances, plain, strict=True)) > rate + 0.05
    assert abs(sum(c * x for c, x in zip(chances, rounded, strict=True)) - rate) > 0.05


def test_giving_up_hopeless_problems_makes_the_mean_low_and_never_high():
    """A problem that is given up counts as 0: the documented price of not paying for the rest."""
    policy = build(k=3, max_n=9, hopeless_after=4)

    rates = (0.05, 0.3, 0.7)
    for rate, mean in zip(rates, expected(policy, 9, rates), strict=True):
        assert rate - rate * (1 - rate) ** 4 - 0.02 < mean < rate


def test_long_runs_agree_with_the_teachers_rate():
    rng = random.Random(7)
    rates = [play(build(k=4, max_n=40, round=6, hopeless_after=None), draw(rng, 0.35, 40))[0] for _ in range(4000)]

    mean = sum(stopped.pass_rate or 0.0 for stopped in rates) / len(rates)

    assert mean == pytest.approx(0.35, abs=0.01)  # three standard errors


def draw(rng: random.Random, rate: float, n: int) -> list[bool]:
    return [rng.random() < rate for _ in range(n)]


def test_nothing_graded_is_no_rate():
    assert pass_rate(Drawn(3, ("error", "ungradable", "error")), k=2) == (None, None)
    assert pass_rate(Drawn(2, ("error", "unparseable")), k=2) == (1, 0.0)


# the others


def test_fixed_asks_once():
    stopped, totals, sizes = play(fixed.build(fixed.Config(n=3)), [True] * 3)

    assert (stopped, totals, sizes) == (Stopped("n"), {BARE: 3}, [3])


def test_self_consistency_is_fixed_with_a_threshold():
    policy = self_consistency.build(self_consistency.Config(n=5, threshold=0.6))

    assert isinstance(policy, Labelling)
    assert policy.threshold == 0.6
    assert play(policy, [True] * 5)[1] == {BARE: 5}
    assert not isinstance(fixed.build(fixed.Config()), Labelling)


@pytest.mark.parametrize(
    ("draws", "hinted", "rule", "asked"),
    [
        ("010", "", "n", 0),
        ("000", "1", "hint", 1),
        ("000", "01", "hint", 2),
        ("000", "00", "hint in vain", 2),
    ],
)
def test_star_hints_only_where_all_failed_until_one_is_right(draws: str, hinted: str, rule: str, asked: int):
    policy = star.build(star.Config(n=3, tries=2))

    stopped, totals, _ = play(policy, [d == "1" for d in draws], [d == "1" for d in hinted])

    assert stopped.rule == rule
    assert stopped.pass_rate == pytest.approx(draws.count("1") / 3), "hinted answers say nothing of the pass rate"
    assert totals == {BARE: 3} | ({Line(star.Config().hint): asked} if asked else {})


def test_star_gives_no_hint_where_nothing_could_be_graded():
    policy = star.build(star.Config(n=2))

    assert policy.next_round({"p": {BARE: Drawn(2, ("error", "error"))}}) == {}


def test_a_hint_without_a_place_for_the_gold_answer_is_refused():
    with pytest.raises(ValidationError, match="no `{gold}`"):
        star.Config(hint="try harder")
