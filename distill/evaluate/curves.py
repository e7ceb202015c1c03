"""Test-time compute from stored samples: accuracy against the number of samples, and against a budget of tokens.

Every point says what it costs: completion tokens spent per problem, thinking included. So base, student and teacher can
be compared at equal cost rather than at equal settings. Nothing is drawn anew: a budget takes an answer as it was
drawn and asks whether it was finished within b tokens. (What a model says when it is *forced* to answer at b is another
measurement, which costs new tokens: `distill.evaluate.forcing`.)

"Lines" are the scores of one model in one task. Failed requests spend nothing and count nowhere; answers to problems
with a bad gold answer do not count either.

Shapes: I items, P points of a curve, B resamples, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill.core.records import GRADED
from distill.evaluate import at_k, bootstrap, intervals, metrics
from distill.evaluate.metrics import Estimate
from distill.evaluate.scores import Score, verdicts_by_item

Along = Literal["pass", "maj", "budget"]
"""What is raised along a curve: samples with any of them right, samples with a vote, tokens per answer."""

Anchor = Literal["a", "b"]

SMALLEST_BUDGET = 16
"""Least budget of a curve: below it, no answer with any thinking is finished."""


@dataclass(frozen=True)
class SamplesPoint:
    """k samples a problem. `tokens` are spent per problem; `maj_at` is None where answers cannot vote."""

    samples: int
    tokens: Estimate
    pass_at: Estimate
    maj_at: Estimate | None


@dataclass(frozen=True)
class BudgetPoint:
    """At most `budget` completion tokens an answer. `tokens` are spent per answer: what was cut has spent the budget.

    `rate`: correct within the budget. `finished`: share of answers that ended within it, right or wrong.
    """

    budget: int
    tokens: Estimate
    rate: Estimate
    finished: float


@dataclass(frozen=True)
class EqualTokens:
    """Accuracy of two models that spend the same tokens per problem, and the difference a - b, by item.

    One of them, `anchor`, stands at a point of its curve (`place` is the number of samples or the budget) and spends
    `tokens` there in the mean; the other one's curve is read at that cost.
    """

    anchor: Anchor
    place: int
    tokens: float
    a: Estimate
    b: Estimate
    difference: Estimate


def by_samples(lines: Sequence[Score]) -> list[SamplesPoint]:
    """pass@k and maj@k for k = 1, 2, 4 ... n, with the tokens that k samples of a problem cost in the mean."""
    lines = _graded(lines)
    verdicts, votes = verdicts_by_item(lines), at_k.votes_by_item(lines)
    voting = at_k.can_vote(lines)
    mean = metrics.mean_of({item: length.tolist() for item, length in _lengths(lines).items()})
    return [
        SamplesPoint(
            samples=k,
            tokens=_times(mean, k),
            pass_at=at_k.pass_at_k(verdicts, k),
            maj_at=at_k.maj_at_k(votes, k) if voting else None,
        )
        for k in at_k.every_k(verdicts)
    ]


def budgets(lines: Iterable[Score]) -> tuple[int, ...]:
    """Budgets that show all of these answers, of whatever models: 16, 24, 32, 48, 64, 96 ... around their lengths."""
    lengths = [line.completion_tokens for line in lines if line.value in GRADED and line.completion_tokens > 0]
    if not lengths:
        return ()
    steps = [SMALLEST_BUDGET]
    while steps[-1] < max(lengths):
        power = 1 << (steps[-1].bit_length() - 1)
        steps.append(power * 2 if steps[-1] > power else power * 3 // 2)
    first = max((place for place, step in enumerate(steps) if step <= min(lengths)), default=0)
    return tuple(steps[first:])


def by_budget(lines: Sequence[Score], budgets: Sequence[int]) -> list[BudgetPoint]:
    """Accuracy when thinking and answer must fit into each budget; an answer that does not fit is wrong.

    Nothing is said above the limit that the answers were drawn with: one that was cut there is not known to fit. Such
    an answer is `unparseable` and so counts as wrong at any budget.
    """
    lines = _graded(lines)
    if not lines:
        return []
    lengths = _lengths(lines)
    points = []
    for budget in budgets:
        if budget < 1:
            raise ValueError(f"budget {budget}: at least 1 token is needed")
        cut = [replace(line, value="wrong") if line.completion_tokens > budget else line for line in lines]
        rate = metrics.pass_rate(verdicts_by_item(cut))
        spent = metrics.mean_of({item: np.minimum(length, budget).tolist() for item, length in lengths.items()})
        ended = sum(line.finish_reason == "stop" and line.completion_tokens <= budget for line in lines)
        tokens = Estimate(spent.value, spent.low, spent.high)
        points.append(BudgetPoint(budget, tokens, Estimate(rate.value, rate.low, rate.high), ended / len(lines)))
    return points


def at_equal_tokens(
    lines_a: Sequence[Score], lines_b: Sequence[Score], along: Along = "budget", *, seed: int = 0
) -> list[EqualTokens]:
    """Two models at equal mean tokens per problem, on their common problems, paired, wherever both curves reach.

    Each point of either curve within the other's reach is compared with the other model at that point's cost. Between
    two points accuracy is interpolated linearly in tokens. That is a policy one can follow, not a smoothing: spend k
    samples (or budget b) on a random share of the problems and the next step on the others, and both tokens and
    accuracy are the mixture of the two. Nothing is extrapolated; curves that do not overlap give an empty list.

    Intervals: item bootstrap with seed `seed`, in which the cost is as uncertain as the accuracy. They are at no end
    narrower than the closed ones at a fixed place of the curve, which have some width where all answers agree.

    Raises ValueError where the models have no problem in common, or `along` is `maj` and answers cannot vote.
    """
    sides = [_graded(lines_a), _graded(lines_b)]
    items = sorted(set.intersection(*({line.problem_id for line in lines} for lines in sides)))
    if not items:
        raise ValueError("the two models have no graded problem in common")
    sides = [[line for line in lines if line.problem_id in set(items)] for lines in sides]
    shared = budgets([*sides[0], *sides[1]])
    a, b = (_curve(lines, items, along, shared) for lines in sides)
    low, high = max(a.costs[0], b.costs[0]), min(a.costs[-1], b.costs[-1])
    anchors: list[tuple[float, Anchor, int]] = [(cost, "a", place) for place, cost in enumerate(a.costs)]
    anchors += [
        (cost, "b", place)
        for place, cost in enumerate(b.costs)
        if all(abs(cost - other) > 0.01 * other for other in a.costs)  # points often lie side by side
    ]
    anchors = sorted(anchor for anchor in anchors if low <= anchor[0] <= high)
    figures = [figure for _, side, place in anchors for figure in _figures(a, b, side, place)]
    drawn = bootstrap.intervals(
        np.concatenate([a.tokens_IP, a.rates_IP, b.tokens_IP, b.rates_IP], axis=1), figures, seed=seed
    )
    points = []
    for number, (cost, side, place) in enumerate(anchors):
        share_a, share_b = a.shares_at(cost), b.shares_at(cost)
        closed = (
            intervals.of_shares(share_a, np.ones(len(items)), a.answers),
            intervals.of_shares(share_b, np.ones(len(items)), b.answers),
            intervals.of_gap(share_a - share_b, len(items) / max(a.answers, b.answers)),
        )
        values = (share_a.mean(), share_b.mean(), (share_a - share_b).mean())
        estimates = map(_wider, values, drawn[3 * number : 3 * number + 3], closed)
        points.append(EqualTokens(side, (a if side == "a" else b).places[place], cost, *estimates))
    return points


@dataclass(frozen=True)
class _Curve:
    """A model's curve item by item: tokens spent and accuracy, (I, P) each, at places (samples or budgets)."""

    places: Sequence[int]
    tokens_IP: NDArray[np.float64]
    rates_IP: NDArray[np.float64]
    answers: int

    @property
    def costs(self) -> list[float]:
        """Mean tokens per problem at each place; they ascend."""
        means: list[float] = self.tokens_IP.mean(axis=0).tolist()
        return means

    def shares_at(self, cost: float) -> NDArray[np.float64]:
        """Accuracy of each item at the place of the mean curve that costs `cost`; their mean is the curve there."""
        cost_IP = np.broadcast_to(np.array(self.costs), self.rates_IP.shape)
        return _read(cost_IP, self.rates_IP, np.full(len(self.rates_IP), cost))


def _figures(a: _Curve, b: _Curve, side: Anchor, place: int) -> tuple[bootstrap.Figure, ...]:
    """Accuracy of a, of b, and their difference, as functions of the mean columns of both, at a point of `side`."""
    ends = np.cumsum([len(a.places), len(a.places), len(b.places)])

    def both(mean_BC: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        tokens_a, rates_a, tokens_b, rates_b = np.split(mean_BC, ends, axis=1)
        cost_B = (tokens_a if side == "a" else tokens_b)[:, place]
        return _read(tokens_a, rates_a, cost_B), _read(tokens_b, rates_b, cost_B)

    return (
        lambda mean_BC: both(mean_BC)[0],
        lambda mean_BC: both(mean_BC)[1],
        lambda mean_BC: np.subtract(*both(mean_BC)),
    )


def _curve(lines: Sequence[Score], items: Sequence[str], along: Along, budgets: Sequence[int]) -> _Curve:
    lengths = _lengths(lines)
    if along == "budget":
        right_at = _needed(lines)
        tokens = [[float(np.minimum(lengths[item], budget).mean()) for budget in budgets] for item in items]
        rates = [[float((right_at[item] <= budget).mean()) for budget in budgets] for item in items]
        return _Curve(budgets, np.array(tokens), np.array(rates), len(lines))
    verdicts, votes = verdicts_by_item(lines), at_k.votes_by_item(lines)
    if along == "maj" and not at_k.can_vote(lines):
        raise ValueError("these answers have no groups of equal answers, so they cannot vote")
    every = at_k.every_k(verdicts)
    tokens = [[k * float(np.mean(lengths[item])) for k in every] for item in items]
    if along == "pass":
        rates = [[at_k.pass_at_k({item: verdicts[item]}, k).value or 0.0 for k in every] for item in items]
    else:
        rates = [[at_k.maj_at_k({item: votes[item]}, k).value or 0.0 for k in every] for item in items]
    return _Curve(every, np.array(tokens), np.array(rates), len(lines))


def _read(
    tokens_BP: NDArray[np.float64], rates_BP: NDArray[np.float64], cost_B: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Accuracy at a cost on each of B piecewise linear curves; tokens ascend along a curve. Beyond an end, the end."""
    points = tokens_BP.shape[1]
    if points == 1:
        return rates_BP[:, 0]
    right_B = np.clip((tokens_BP < cost_B[:, None]).sum(axis=1), 1, points - 1)
    rows = np.arange(len(tokens_BP))
    t0, t1 = tokens_BP[rows, right_B - 1], tokens_BP[rows, right_B]
    r0, r1 = rates_BP[rows, right_B - 1], rates_BP[rows, right_B]
    share_B = np.clip((cost_B - t0) / np.where(t1 > t0, t1 - t0, 1.0), 0.0, 1.0)
    return np.asarray(r0 + (r1 - r0) * share_B)


def _wider(value: float, drawn: tuple[float, float] | None, closed: tuple[float, float]) -> Estimate:
    if drawn is None:
        return Estimate(float(value))
    return Estimate(float(value), min(drawn[0], closed[0]), max(drawn[1], closed[1]))


def _graded(lines: Iterable[Score]) -> list[Score]:
    return [line for line in lines if line.value in GRADED]


def _lengths(lines: Iterable[Score]) -> dict[str, NDArray[np.float64]]:
    """Completion tokens of each problem's answers."""
    items: dict[str, list[float]] = {}
    for line in lines:
        items.setdefault(line.problem_id, []).append(float(line.completion_tokens))
    return {item: np.array(lengths) for item, lengths in items.items()}


def _needed(lines: Iterable[Score]) -> dict[str, NDArray[np.float64]]:
    """Budget from which on each answer counts as correct; inf where it is not."""
    items: dict[str, list[float]] = {}
    for line in lines:
        items.setdefault(line.problem_id, []).append(line.completion_tokens if line.value == "correct" else np.inf)
    return {item: np.array(needed) for item, needed in items.items()}


def _times(mean: metrics.Mean, k: int) -> Estimate:
    if mean.value is None or mean.low is None or mean.high is None:
        return Estimate(None if mean.value is None else k * mean.value)
    return Estimate(k * mean.value, k * mean.low, k * mean.high)
