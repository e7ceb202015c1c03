"""pass@k and maj@k: what k samples of a problem would give, as the exact mean over all k-subsets of the n drawn.

Both are the same estimator (averages over subsets, so unbiased for any k up to n), with the problem as the unit. A k
above the number of stored samples does not exist; it is an error, not a smaller denominator.

`wrong` and `unparseable` answers are samples like any other; only `ungradable` and `error` ones leave, as they do from
the rate. A problem of which nothing is graded is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from distill.core.records import GRADED, VerdictValue
from distill.evaluate.intervals import of_shares
from distill.evaluate.metrics import Estimate, Verdicts
from distill.evaluate.scores import NO_VOTE, Score

Vote = tuple[int, VerdictValue]
"""Group of equal answers that a sample belongs to (`NO_VOTE`: a blank), and its verdict."""


def every_k(verdicts: Verdicts) -> tuple[int, ...]:
    """Powers of two up to n, and n itself: the fewest graded answers of any problem that has any."""
    counts = [graded for graded in (_graded(values) for values in verdicts.values()) if graded]
    if not counts:
        return ()
    n = min(counts)
    powers = [2**power for power in range(n.bit_length()) if 2**power <= n]
    return (*powers, n) if powers[-1] != n else tuple(powers)


def pass_at_k(verdicts: Verdicts, k: int) -> Estimate:
    """Chance that at least one of k samples is correct: mean over problems of 1 - C(n-c, k) / C(n, k).

    n graded answers of a problem, c of them correct (Chen et al. 2021, "Evaluating large language models trained on
    code", section 2.1). Raises ValueError if k is below 1 or above some problem's n.
    """
    shares, answers = [], []
    for item, values in verdicts.items():
        n, c = _graded(values), sum(value == "correct" for value in values)
        if n:
            _refuse(item, n, k)
            shares.append(1 - comb(n - c, k) / comb(n, k))
            answers.append(n)
    return _mean(shares, answers, k)


def maj_at_k(votes: Mapping[str, Sequence[Vote]], k: int) -> Estimate:
    """Chance that a majority vote among k samples is correct (self-consistency; Wang et al. 2022), mean over problems.

    The largest group of equal answers in the k-subset wins; t groups of that size win 1/t each; blanks never win, and
    a subset of blanks alone is wrong. The voted answer is a random one of the winning group, so a group whose answers
    got different verdicts counts with its share of correct ones.

    Raises ValueError if k is below 1 or above some problem's n, or if a correct answer has no group: the groups were
    not made then, and every vote would be lost in silence.
    """
    shares, answers = [], []
    for item, cast in votes.items():
        graded = [(group, value) for group, value in cast if value in GRADED]
        if graded:
            _refuse(item, len(graded), k)
            shares.append(_vote(item, graded, k))
            answers.append(len(graded))
    return _mean(shares, answers, k)


def votes_by_item(lines: Iterable[Score]) -> dict[str, list[Vote]]:
    """Votes of each problem, in the order met."""
    items: dict[str, list[Vote]] = {}
    for line in lines:
        items.setdefault(line.problem_id, []).append((line.group, line.value))
    return items


def can_vote(lines: Iterable[Score]) -> bool:
    """Whether every correct answer has a group to vote with. False for scores of a verifier that knows no equality."""
    return all(line.group != NO_VOTE for line in lines if line.value == "correct")


def _graded(values: Iterable[VerdictValue]) -> int:
    return sum(value in GRADED for value in values)


def _refuse(item: str, n: int, k: int) -> None:
    if k < 1 or k > n:
        raise ValueError(f"k = {k}, but problem {item} has {n} graded answers; choose k from 1 to {n}")


def _mean(shares: Sequence[float], answers: Sequence[int], k: int) -> Estimate:
    if not shares:
        return Estimate(None)
    share_I = np.array(shares)
    low, high = of_shares(share_I, np.ones(len(shares)), sum(answers) / k)
    return Estimate(float(share_I.mean()), low, high)


def _vote(item: str, graded: Sequence[Vote], k: int) -> float:
    """Chance that the vote among k of these answers is correct."""
    sizes: dict[int, int] = {}
    right: dict[int, int] = {}
    for group, value in graded:
        if group != NO_VOTE:
            sizes[group] = sizes.get(group, 0) + 1
            right[group] = right.get(group, 0) + (value == "correct")
        elif value == "correct":
            raise ValueError(f"problem {item}: a correct answer has no group to vote with")
    chance = 0.0
    for group, correct in right.items():
        if correct:
            others = tuple(sorted(size for other, size in sizes.items() if other != group))
            chance += correct / sizes[group] * wins(sizes[group], others, len(graded), k)
    return min(1.0, chance)


@lru_cache(maxsize=100_000)
def wins(own: int, others: tuple[int, ...], n: int, k: int) -> float:
    """Chance that a group of `own` answers wins the vote of a random k-subset of n; ties are shared evenly.

    `others` are the sizes of the other groups, in ascending order; what is left of n are blanks. Let every answer be
    kept with probability k/n: given that k were kept, they are a random k-subset. Kept answers of each group are then
    independent, and

        chance = sum over j of P(own = j) * E[1 / (1 + groups at j); no group above j; k - j kept elsewhere] / P(k kept)

    With 1 / (1 + t) the integral of x^t over [0, 1], each other group is a polynomial P(< j) + x P(j) in x, so a plain
    product over groups remains for each node of a Gauss-Legendre rule that is exact for that degree. Every term is
    positive: nothing cancels.
    """
    if k == n:  # every answer is kept
        if own < max(others, default=0):
            return 0.0
        return 1 / (1 + sum(size == own for size in others))
    keep = k / n
    most = min(own, k)
    # one row for each pair of j (own votes) and node x
    rows = [
        (j, x, weight)
        for j in range(1, most + 1)
        for x, weight in zip(*_nodes(min(sum(size >= j for size in others), k // j)), strict=True)
    ]
    j_R = np.array([j for j, _, _ in rows])
    x_R = np.array([x for _, x, _ in rows])
    total_RK = np.zeros((len(rows), k + 1))  # column: answers kept elsewhere so far
    blanks = n - own - sum(others)
    total_RK[:, : blanks + 1] = _binomial(blanks, keep)[: k + 1]
    for size in others:
        mass = _binomial(size, keep)
        new_RK = total_RK * mass[0]
        for i in range(1, min(size, most, k) + 1):
            factor_R = mass[i] * np.where(j_R > i, 1.0, np.where(j_R == i, x_R, 0.0))
            new_RK[:, i:] += factor_R[:, None] * total_RK[:, :-i]
        total_RK = new_RK
    own_R = _binomial(own, keep)[j_R] * np.array([weight for _, _, weight in rows])
    return float((own_R * total_RK[np.arange(len(rows)), k - j_R]).sum() / _binomial(n, keep)[k])


@lru_cache(maxsize=1000)
def _nodes(degree: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weights on [0, 1] that integrate polynomials up to `degree` exactly."""
    points, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    return (points + 1) / 2, weights / 2


@lru_cache(maxsize=100_000)
def _binomial(n: int, p: float) -> NDArray[np.float64]:
    """Probabilities of 0 to n successes; 0 < p < 1."""
    i = np.arange(n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(n - i[:-1]) - np.log(i[1:]))]) if n else np.zeros(1)
    return np.asarray(np.exp(logs + i * np.log(p) + (n - i) * np.log1p(-p)))
