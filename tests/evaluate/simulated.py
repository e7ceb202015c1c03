"""What the stated intervals cover, by simulation: figures are drawn from models whose truth is known.

`python tests/evaluate/simulated.py [RUNS]` prints the table of docs/statistics.md. Rates are drawn from 50% to 95% for
every simulated evaluation, so that a coverage is an average over true rates: at one fixed rate and one sample an item
only a handful of outcomes are likely, and coverage jumps by points between neighbouring rates whatever the interval.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from distill.core.records import VerdictValue
from distill.evaluate import at_k, costs, curves, metrics
from distill.evaluate.scores import Score

Draw = Callable[[np.random.Generator, int], tuple[float | None, float | None, float]]
"""One simulated evaluation on a number of items: the interval's ends, and the truth."""

SPREADS = {"equal": None, "varied": 4.0, "split": 0.5}
"""How much items differ in difficulty: all alike, Beta with a + b = 4, and most items nearly always or never solved."""


def coverage(draw: Draw, items: int, runs: int, seed: int = 0) -> float:
    """Share of `runs` simulated evaluations whose interval holds the truth."""
    rng = np.random.default_rng([seed, items])
    held = 0
    for _ in range(runs):
        low, high, truth = draw(rng, items)
        held += low is not None and high is not None and low <= truth <= high
    return held / runs


def rate(spread: float | None, samples: int) -> Draw:
    """pass@1 of one model."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        truth = float(rng.uniform(0.5, 0.95))
        found = metrics.pass_rate(verdicts(rng.binomial(samples, hardness(rng, truth, spread, items)), samples))
        return found.low, found.high, truth

    return draw


def difference(spread: float | None, samples: int, gain: float = 0.05) -> Draw:
    """Paired difference of two models; three quarters of the items are as hard for one as for the other."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        found = metrics.paired_difference(*([side] for side in two_models(rng, items, spread, samples, gain)))
        return found.low, found.high, -gain

    return draw


def over_seeds(seeds: int, noise: float | None, *, one_sided: bool = False) -> Draw:
    """Difference of two recipes (or the rate of one) over seeds; each trained model is off by its own amount.

    `noise` is the standard deviation of those amounts; None draws it from 0 to 2 points.
    """

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        truth = float(rng.uniform(0.5, 0.85))
        spread = float(rng.uniform(0, 0.02)) if noise is None else noise
        hard_I = hardness(rng, truth, 4.0, items)
        sides = [
            [verdicts(rng.binomial(1, np.clip(hard_I + rng.normal(0, spread), 0, 1)), 1) for _ in range(seeds)]
            for _ in range(1 if one_sided else 2)
        ]
        if one_sided:
            mean = metrics.rate_over_seeds(sides[0])
            return mean.low, mean.high, truth
        found = metrics.paired_difference(*sides)
        return found.low, found.high, 0.0

    return draw


def ratio(samples: int) -> Draw:
    """A model that keeps four fifths of another's rate on every item."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        hard_I = hardness(rng, float(rng.uniform(0.5, 0.95)), 4.0, items)
        a, b = (verdicts(rng.binomial(samples, hard_I * share), samples) for share in (0.8, 1.0))
        found = metrics.paired_ratio(a, b)
        return found.low, found.high, 0.8

    return draw


def mean_length(spread: float, samples: int) -> Draw:
    """Mean of lengths whose logarithm has this standard deviation, half of its variance between items."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        found = metrics.mean_of(
            {str(item): row.tolist() for item, row in enumerate(lengths(rng, items, samples, spread))}
        )
        return found.low, found.high, 200 * math.exp(spread**2 / 2)

    return draw


def tokens_per_correct(spread: float, samples: int) -> Draw:
    """Lengths as above; whether an answer is correct depends on the item alone."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        truth = float(rng.uniform(0.5, 0.95))
        correct_I = rng.binomial(samples, hardness(rng, truth, 4.0, items))
        found = costs.tokens_per_correct(scores(lengths(rng, items, samples, spread), correct_I))
        return found.low, found.high, 200 * math.exp(spread**2 / 2) / truth

    return draw


def pass_at(k: int, samples: int, spread: float) -> Draw:
    """pass@k; the truth is 1 - E[(1 - p)^k] of the Beta distribution of items."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        mean = float(rng.uniform(0.3, 0.8))
        right_I = rng.binomial(samples, hardness(rng, mean, spread, items))
        found = at_k.pass_at_k(verdicts(right_I, samples), k)
        wrong = [(spread * (1 - mean) + i) / (spread + i) for i in range(k)]
        return found.low, found.high, 1 - math.prod(wrong)

    return draw


def maj_at(k: int, samples: int) -> Draw:
    """maj@k with three wrong answers of unequal weight and some blanks; the truth is from 300,000 items."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        mean = float(rng.choice([0.4, 0.55, 0.7]))
        answers_IM = ballots(rng, items, samples, mean)
        votes = {
            str(item): [(group - 1, "correct" if group == 1 else "wrong") for group in row]
            for item, row in enumerate(answers_IM.tolist())
        }
        found = at_k.maj_at_k(votes, k)
        return found.low, found.high, majority_truth(k, mean)

    return draw


def equal_tokens(samples: int, budget: int) -> Draw:
    """Two models of which b needs a fifth more tokens for the same: b with what a spends at a budget."""

    def draw(rng: np.random.Generator, items: int) -> tuple[float | None, float | None, float]:
        a, b = priced(rng, items, samples)
        point = next(each for each in curves.at_equal_tokens(a, b) if (each.anchor, each.place) == ("a", budget))
        return point.difference.low, point.difference.high, equal_tokens_truth(budget)

    return draw


def hardness(rng: np.random.Generator, mean: float, spread: float | None, items: int) -> NDArray[np.float64]:
    """Chance of a correct answer of each item."""
    if spread is None:
        return np.full(items, mean)
    return rng.beta(mean * spread, (1 - mean) * spread, items)


def two_models(
    rng: np.random.Generator, items: int, spread: float | None, samples: int, gain: float
) -> tuple[dict[str, list[VerdictValue]], dict[str, list[VerdictValue]]]:
    """Two models, the second better by `gain` in the mean over all items that could be asked."""
    mean = float(rng.uniform(0.5, 0.95))
    hard_I, other_I = hardness(rng, mean, spread, items), hardness(rng, mean, spread, items)
    shared_I = rng.random(items) < 0.75
    a = rng.binomial(samples, hard_I * (1 - gain / mean))
    b = rng.binomial(samples, np.where(shared_I, hard_I, other_I))
    return verdicts(a, samples), verdicts(b, samples)


def verdicts(correct_I: NDArray[np.int64], samples: int) -> dict[str, list[VerdictValue]]:
    """So many correct answers of each item."""
    return {str(item): _answers(correct, samples) for item, correct in enumerate(correct_I.tolist())}


@cache
def _answers(correct: int, samples: int) -> list[VerdictValue]:
    return ["correct"] * correct + ["wrong"] * (samples - correct)


def lengths(rng: np.random.Generator, items: int, samples: int, spread: float) -> NDArray[np.float64]:
    """Lengths (I, M) around 200 tokens."""
    part = spread / math.sqrt(2)
    return np.asarray(
        200 * np.exp(part * rng.standard_normal((items, 1)) + part * rng.standard_normal((items, samples)))
    )


def scores(length_IM: NDArray[np.float64], correct_I: NDArray[np.int64]) -> list[Score]:
    """Score lines with these lengths; the first answers of an item are the correct ones."""
    return [
        line(str(item), index, index < correct_I[item], round(length))
        for item, row in enumerate(length_IM.tolist())
        for index, length in enumerate(row)
    ]


def line(problem: str, index: int, right: bool, tokens: int, group: int = 0) -> Score:
    """One score."""
    value: VerdictValue = "correct" if right else "wrong"
    return Score(
        "m", problem, index, f"{problem}/{index}", value, value, "stop", tokens - 1, tokens, "", "", group=group
    )


def ballots(rng: np.random.Generator, items: int, samples: int, mean: float) -> NDArray[np.int64]:
    """Answers (I, M): 1 is the correct one, 2 to 4 are wrong ones, 0 is a blank."""
    hard_I = hardness(rng, mean, 4.0, items)
    wrong = np.array([0.6, 0.2, 0.1, 0.1])  # 2, 3, 4, blank
    chance_IG = np.concatenate([hard_I[:, None], (1 - hard_I[:, None]) * wrong], axis=1)
    drawn_IM = (rng.random((items, samples, 1)) > np.cumsum(chance_IG, axis=1)[:, None, :]).sum(axis=2)
    return np.array([1, 2, 3, 4, 0])[np.minimum(drawn_IM, 4)]


@cache
def majority_truth(k: int, mean: float) -> float:
    """Chance that k answers vote for the correct one."""
    answers_IK = ballots(np.random.default_rng(99), 300_000, k, mean)
    counts_IG = np.stack([(answers_IK == group).sum(axis=1) for group in (1, 2, 3, 4)], axis=1)
    most_I = counts_IG.max(axis=1)
    winners_IG = (counts_IG == most_I[:, None]) & (most_I[:, None] > 0)
    return float((winners_IG[:, 0] / np.maximum(winners_IG.sum(axis=1), 1)).mean())


def priced(rng: np.random.Generator, items: int, samples: int) -> tuple[list[Score], list[Score]]:
    """Two models on the same items: harder items have longer answers, and the second model's are longer by a fifth."""
    hard_I = hardness(rng, 0.7, 4.0, items)
    longer_I1 = np.exp(0.8 * (0.7 - hard_I))[:, None]
    return (
        scores(longer_I1 * lengths(rng, items, samples, 0.5), rng.binomial(samples, hard_I)),
        scores(1.2 * longer_I1 * lengths(rng, items, samples, 0.5), rng.binomial(samples, hard_I)),
    )


@cache
def equal_tokens_truth(budget: int) -> float:
    """The same difference between the mean curves of 100,000 items."""
    sides = priced(np.random.default_rng(5), 100_000, 2)
    shared = curves.budgets(line for side in sides for line in side)
    a, b = (curves.by_budget(side, shared) for side in sides)
    here = next(point for point in a if point.budget == budget)
    costs, rates = ([getattr(point, name).value for point in b] for name in ("tokens", "rate"))
    return (here.rate.value or 0.0) - float(np.interp(here.tokens.value or 0.0, costs, rates))


FIGURES: dict[str, Draw] = {
    **{
        f"rate, {samples} sample{'s' * (samples > 1)} an item, {name} items": rate(spread, samples)
        for samples in (1, 4)
        for name, spread in SPREADS.items()
    },
    **{
        f"paired difference, {samples} sample{'s' * (samples > 1)}, {name} items": difference(spread, samples)
        for samples in (1, 4)
        for name, spread in SPREADS.items()
    },
    "difference over 3 seeds": over_seeds(3, None),
    "difference over 5 seeds": over_seeds(5, None),
    "rate over 3 seeds": over_seeds(3, None, one_sided=True),
    "rate over 5 seeds": over_seeds(5, None, one_sided=True),
    "ratio of rates, 1 sample": ratio(1),
    "ratio of rates, 4 samples": ratio(4),
    "mean length, log lengths +- 0.4": mean_length(0.4, 4),
    "mean length, log lengths +- 0.8": mean_length(0.8, 4),
    "tokens per correct, log lengths +- 0.4": tokens_per_correct(0.4, 4),
    "tokens per correct, log lengths +- 0.8": tokens_per_correct(0.8, 4),
    "pass@4 of 8 samples": pass_at(4, 8, 4.0),
    "pass@8 of 8 samples": pass_at(8, 8, 4.0),
    "maj@4 of 8 samples": maj_at(4, 8),
    "difference at equal tokens, budget 192": equal_tokens(2, 192),
    "difference at equal tokens, budget 256": equal_tokens(2, 256),
}
"""Every interval that is stated somewhere, by what it is of."""

EXTREMES: dict[str, Draw] = {
    **{
        f"difference over {seeds} seeds, training noise {100 * noise:.0f} points": over_seeds(seeds, noise)
        for seeds in (2, 3, 5)
        for noise in (0.0, 0.02, 0.04)
    },
    "rate, 16 samples, split items": rate(0.5, 16),
    "mean length, log lengths +- 1.1": mean_length(1.1, 4),
    "tokens per correct, log lengths +- 1.1": tokens_per_correct(1.1, 4),
}
"""Where less is promised; said in docs/statistics.md, not tested."""

ITEMS = (30, 200, 500)


def runs_of(name: str, runs: int = 2000) -> int:
    """Simulated evaluations of a figure: a quarter as many at equal tokens, where each takes up to a second."""
    return runs // 4 if "equal tokens" in name else runs


def main(arguments: Sequence[str]) -> None:
    """Print the coverage of every figure as a Markdown table."""
    runs = int(arguments[0]) if arguments else 2000
    print(f"| figure ({runs:,} runs) | " + " | ".join(f"{items} items" for items in ITEMS) + " |")
    print("| --- |" + " ---: |" * len(ITEMS))
    for name, draw in {**FIGURES, **EXTREMES}.items():
        cells = [f"{100 * coverage(draw, items, runs_of(name, runs)):.1f}" for items in ITEMS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
