"""Rates, means, differences and their tests; each interval is a 95% one that was checked by simulation.

Samples of one problem resemble each other, so the problem ("item") is the unit everywhere: four answers to each of 100
problems are not 400 independent answers. Lists in, numbers out, no randomness: the same verdicts give the same interval
to the last digit. What each interval covers is in docs/statistics.md.

Shapes: S seeds, I items.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from distill.core.records import GRADED, VerdictValue
from distill.evaluate.intervals import LEVEL, of_shares, student_t, student_tails

Verdicts = Mapping[str, Collection[VerdictValue]]
"""Verdicts of one model by item."""

POWER = 0.80
"""Chance with which a detectable difference is found."""

NO_DIFFERENCE = "no difference shown"
"""What a comparison says whose interval includes 0."""


@dataclass(frozen=True)
class Estimate:
    """Any figure with its interval; all None where there is nothing to say, `low` and `high` where no interval is."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def percent(self) -> str:
        """A fraction like `83.2% [79.7, 86.2]`."""
        return self._text(100, 1, "%")

    @property
    def points(self) -> str:
        """A difference of fractions like `+4.1 points [-0.3, +8.5]`."""
        return str(Difference(self.value, self.low, self.high, 0, 0))

    @property
    def plain(self) -> str:
        """A number like `1,204 [1,130, 1,290]`."""
        return self._text(1, 0 if self.value is None or abs(self.value) >= 100 else 1, "")

    def _text(self, scale: float, digits: int, unit: str) -> str:
        if self.value is None:
            return "-"
        text = f"{scale * self.value:,.{digits}f}{unit}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{scale * self.low:,.{digits}f}, {scale * self.high:,.{digits}f}]"


@dataclass(frozen=True)
class Rate:
    """k correct of n graded answers. `value`, `low`, `high` are fractions, None where nothing was graded.

    `ungradable` (bad gold) and `errors` (infrastructure) are outside n, and always shown.
    """

    k: int
    n: int
    value: float | None
    low: float | None
    high: float | None
    items: int
    ungradable: int = 0
    errors: int = 0

    @property
    def excluded(self) -> int:
        """Answers that left the denominator."""
        return self.ungradable + self.errors

    def __str__(self) -> str:
        """Like `83.2% [79.7, 86.2]`."""
        if self.value is None or self.low is None or self.high is None:
            return "nothing graded"
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def excluded_share(self) -> float:
        """Share of all answers that left the denominator."""
        total = self.n + self.excluded
        return self.excluded / total if total else 0.0


@dataclass(frozen=True)
class Mean:
    """A mean over `n` answers to `items` problems; all None where there was nothing to average."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    items: int

    def __str__(self) -> str:
        """Like `93.4 [90.8, 96.0]`."""
        if self.value is None:
            return "-"
        return f"{self.value:.1f}" if self.low is None else f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Difference:
    """Mean difference a - b in rate on the same items, and the interval around it.

    `dropped` items had no graded answer on one side and left both. With one seed the interval holds the noise of items
    and answers only, not that of training: `seeds` says how many there were. `p` is two-sided and of the same
    statistic as the interval: it is below 0.05 where the interval leaves out 0. `detectable` is the true difference
    that would be found with 80% power on as many such items (5% level), from the spread that was measured.
    """

    value: float | None
    low: float | None
    high: float | None
    items: int
    seeds: int
    dropped: int = 0
    p: float | None = None
    detectable: float | None = None

    def __str__(self) -> str:
        """Like `+4.1 points [-0.3, +8.5]`."""
        if self.value is None:
            return "-"
        text = f"{100 * self.value:+.1f} points"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    @property
    def verdict(self) -> str:
        """`higher`, `lower` or `no difference shown`."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return NO_DIFFERENCE
        return "higher" if self.low > 0 else "lower"


@dataclass(frozen=True)
class Ratio:
    """A rate divided by another on the same items, and the interval around it."""

    value: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Like `93% [89, 97]`."""
        if self.value is None:
            return "-"
        text = f"{100 * self.value:.0f}%"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{100 * self.low:.0f}, {100 * self.high:.0f}]"


@dataclass(frozen=True)
class Pair:
    """One comparison among several: a - b on their common items.

    `p_holm` is `difference.p` adjusted over all comparisons made together (Holm 1979): where no model differs from
    another, the chance that any of them is called different is 5%. `verdict` rests on it, so it can be
    `no difference shown` where the interval, which is of this pair alone, just leaves out 0. `exact_p` is McNemar's
    exact conditional test, given where each side has one seed and one graded answer an item.
    """

    a: str
    b: str
    difference: Difference
    p_holm: float | None = None
    exact_p: float | None = None
    verdict: str = NO_DIFFERENCE


def pass_rate(verdicts: Mapping[str, Collection[VerdictValue]]) -> Rate:
    """pass@1 averaged over samples: correct / (correct + wrong + unparseable), from all verdicts of each item.

    One graded answer an item: Wilson's score interval. More: the same at the effective number of answers that the
    clustered (by item) variance implies, see `intervals.of_shares`. A bootstrap was not taken: at 0 or all correct it
    gives an interval of no width, and near them it covers too little.
    """
    counts = [_counts(values) for values in verdicts.values()]
    flat = [value for values in verdicts.values() for value in values]
    excluded = {"ungradable": flat.count("ungradable"), "errors": flat.count("error")}
    graded = np.array([(k, m) for k, m in counts if m], float).reshape(-1, 2)
    k, n = int(graded[:, 0].sum()), int(graded[:, 1].sum())
    if n == 0:
        return Rate(0, 0, None, None, None, items=0, **excluded)
    low, high = of_shares(graded[:, 0] / graded[:, 1], graded[:, 1], n)
    return Rate(k, n, k / n, low, high, items=len(graded), **excluded)


def mean_of(values: Mapping[str, Sequence[float]]) -> Mean:
    """Mean over all answers, by item; clustered standard error and Student's t. One item gives no interval.

    The interval of a positive mean is taken on the log scale, with the error of its logarithm from the means with each
    item left out (jackknife): lengths have long right tails, and at 30 items whose log lengths have a standard
    deviation of 0.8 the plain interval covers 91% and misses on one side, this one 94%.
    """
    clusters = [list(group) for group in values.values() if group]
    n, items = sum(map(len, clusters)), len(clusters)
    if n == 0:
        return Mean(None, None, None, 0, 0)
    sum_I, size_I = np.array([sum(group) for group in clusters], float), np.array([len(group) for group in clusters])
    mean = float(sum_I.sum() / n)
    if items == 1:
        return Mean(mean, None, None, n, 1)
    left_out_I = (sum_I.sum() - sum_I) / (n - size_I)
    if min(map(min, clusters)) < 0 or left_out_I.min() <= 0:
        error = math.sqrt(float(((sum_I - mean * size_I) ** 2).sum()) * items / (items - 1)) / n
        half = student_t(items - 1) * error
        return Mean(mean, mean - half, mean + half, n, items)
    # the sum of squares is not shrunk by (n - 1) / n: at 30 items that covers half a point more
    logs_I = np.log(left_out_I)
    factor = math.exp(student_t(items - 1) * math.sqrt(float(((logs_I - logs_I.mean()) ** 2).sum())))
    return Mean(mean, mean / factor, mean * factor, n, items)


def paired_difference(a: Sequence[Verdicts], b: Sequence[Verdicts]) -> Difference:
    """Difference in rate a - b, paired over items and, where training was repeated, over seeds.

    `a` and `b` list one mapping (item: its verdicts) a seed, in the same order of seeds. An item counts with the share
    of its graded answers that are correct, the same weight each. The variance of the mean is that of a two-way layout
    with random items and random seeds (the seed's part not below 0), with Student's t at Satterthwaite's degrees of
    freedom. An item bootstrap was not taken: it knows nothing of training noise, and where seeds differ by 2 points it
    covers 81% instead of 95% at 500 items and 3 seeds; this interval stays between 93% and 98% for 3 or more seeds
    (with 2 seeds it covers too little where training noise outweighs all else: run 3).

    The variance is at no time taken for less than if one answer to one item stood out: two models that agree
    everywhere have an interval of some width, and a p-value of 1.

    Raises ValueError if the two sides do not have the same seeds and items: they are not paired then.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"{len(a)} seeds on one side and {len(b)} on the other: not paired")
    items = list(a[0])
    if any(side.keys() != a[0].keys() for side in (*a, *b)):
        raise ValueError("the sides or seeds were evaluated on different items: not paired")
    counts_a, counts_b = _counts_of(a, items), _counts_of(b, items)
    table_SI = _shares(counts_a) - _shares(counts_b)
    there_I = ~np.isnan(table_SI).any(axis=0)
    table_SI = table_SI[:, there_I]
    seeds, used = table_SI.shape
    dropped = len(items) - used
    if used == 0:
        return Difference(None, None, None, 0, seeds, dropped)
    mean = float(table_SI.mean())
    if used == 1:
        return Difference(mean, None, None, 1, seeds, dropped)
    error, freedom = _two_way_error(table_SI, 1 / max(counts_a[..., 1].max(), counts_b[..., 1].max()))
    half = student_t(freedom) * error
    return Difference(
        mean, max(-1.0, mean - half), min(1.0, mean + half), used, seeds, dropped,
        p=student_tails(mean / error, freedom),
        detectable=(student_t(freedom) + student_t(freedom, 2 * POWER - 1)) * error,
    )  # fmt: skip


def pairs(sides: Mapping[str, Verdicts]) -> list[Pair]:
    """Every two models of a task on their common items, in the order given: the later minus the earlier, with Holm."""
    found = [pair(b, a, [sides[b]], [sides[a]]) for a, b in combinations(sides, 2)]
    return adjusted(found)


def pair(name_a: str, name_b: str, a: Sequence[Verdicts], b: Sequence[Verdicts]) -> Pair:
    """Compare `a` with `b` (one mapping a seed) on the items that all of them have; not adjusted for any other pair."""
    common = set.intersection(*(set(side) for side in (*a, *b)))
    a, b = ([{item: side[item] for item in side if item in common} for side in sides] for sides in (a, b))
    if not common:
        return Pair(name_a, name_b, Difference(None, None, None, 0, len(a)))
    difference = paired_difference(a, b)
    exact = exact_mcnemar(a[0], b[0]) if len(a) == 1 else None
    return Pair(name_a, name_b, difference, difference.p, exact, difference.verdict)


def adjusted(found: Sequence[Pair]) -> list[Pair]:
    """The same comparisons, with `p_holm` and `verdict` adjusted for their number."""
    ps = iter(holm([pair.difference.p for pair in found if pair.difference.p is not None]))
    result = []
    for each in found:
        p = None if each.difference.p is None else next(ps)
        shown = p is not None and p < 1 - LEVEL
        result.append(replace(each, p_holm=p, verdict=each.difference.verdict if shown else NO_DIFFERENCE))
    return result


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted by Holm's step-down method (Holm 1979, "A simple sequentially rejective test procedure")."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    result, so_far = [0.0] * len(ps), 0.0
    for rank, place in enumerate(order):
        so_far = max(so_far, min(1.0, (len(ps) - rank) * ps[place]))
        result[place] = so_far
    return result


def exact_mcnemar(a: Verdicts, b: Verdicts) -> float | None:
    """McNemar's exact conditional p-value (two-sided), or None unless every item has one graded answer on each side.

    Of the items on which the two differ, each side wins half under the null: a binomial tail, doubled. It keeps its
    level for certain but is conservative (Fagerland et al. 2013, "The McNemar test for binary matched-pairs data: mid-p
    and asymptotic are better than exact conditional"), so it stands beside the p-value of the interval and does not
    replace it.
    """
    counts = [(_counts(a[item]), _counts(b[item])) for item in a]
    counts = [(of_a, of_b) for of_a, of_b in counts if of_a[1] and of_b[1]]
    if not counts or any(of_a[1] != 1 or of_b[1] != 1 for of_a, of_b in counts):
        return None
    wins = sum(of_a[0] > of_b[0] for of_a, of_b in counts)
    losses = sum(of_a[0] < of_b[0] for of_a, of_b in counts)
    ways, tail = 1, 0
    for won in range(min(wins, losses) + 1):
        tail += ways
        ways = ways * (wins + losses - won) // (won + 1)
    return min(1.0, float(2 * tail / 2 ** (wins + losses)))


def rate_over_seeds(sides: Sequence[Verdicts]) -> Mean:
    """Mean rate of a training that was repeated with several seeds, each measured on the same items.

    The interval holds the noise of items and of training: Wilson's at the effective number of answers that the
    two-way layout of `paired_difference` implies. One seed: the interval of `pass_rate`, which knows nothing of
    training. Items that some seed has no graded answer to are left out.
    """
    if len(sides) == 1:
        rate = pass_rate(sides[0])
        return Mean(rate.value, rate.low, rate.high, rate.n, rate.items)
    counts_SI2 = _counts_of(sides, list(sides[0]))
    table_SI = _shares(counts_SI2)
    there_I = ~np.isnan(table_SI).any(axis=0)
    table_SI, answers = table_SI[:, there_I], float(counts_SI2[:, there_I, 1].sum())
    items = table_SI.shape[1]
    if items < 2:
        return Mean(float(table_SI.mean()) if table_SI.size else None, None, None, table_SI.size, items)
    error, freedom = _two_way_error(table_SI, 1 / counts_SI2[..., 1].max())
    # Student's t for the few seeds alone: for the items too, on top of Wilson's caution, it covers 97.7% at 30 items
    quantile = student_t(freedom) * NormalDist().inv_cdf(0.5 + LEVEL / 2) / student_t(items - 1)
    low, high = of_shares(table_SI.mean(axis=0), np.ones(items), answers, error, quantile)
    return Mean(float(table_SI.mean()), low, high, table_SI.size, items)


def paired_ratio(a: Verdicts, b: Verdicts) -> Ratio:
    """Rate of a / rate of b on the same items: delta method on the logarithm, by item, with Student's t.

    At 0 correct in `a` the logarithm does not exist: the upper end is then a's Wilson bound over b's lower one.
    None where b has nothing correct.
    """
    items = [item for item in a if item in b]
    rate_a, rate_b = pass_rate({i: a[i] for i in items}), pass_rate({i: b[i] for i in items})
    if not rate_a.n or not rate_b.k:
        return Ratio(None, None, None)
    assert rate_a.value is not None and rate_b.value is not None and rate_a.high is not None and rate_b.low is not None
    if rate_a.k == 0:
        return Ratio(0.0, 0.0, rate_a.high / rate_b.low)
    value = rate_a.value / rate_b.value
    if len(items) < 2:
        return Ratio(value, None, None)
    terms = []
    for item in items:
        (k_a, m_a), (k_b, m_b) = _counts(a[item]), _counts(b[item])
        terms.append((k_a - rate_a.value * m_a) / rate_a.k - (k_b - rate_b.value * m_b) / rate_b.k)
    deviation = math.sqrt(sum(term * term for term in terms) * len(items) / (len(items) - 1))
    factor = math.exp(student_t(len(items) - 1) * deviation)
    return Ratio(value, value / factor, value * factor)


def _two_way_error(table_SI: NDArray[np.float64], step: float) -> tuple[float, float]:
    """Standard error of the table's mean and its degrees of freedom. `step` is what one answer changes an entry by."""
    seeds, items = table_SI.shape
    mean = table_SI.mean()
    item_I, seed_S = table_SI.mean(axis=0), table_SI.mean(axis=1)
    by_item = seeds * float(((item_I - mean) ** 2).sum()) / (items - 1)
    by_item = max(by_item, step**2 / (seeds * items))  # as if one answer to one item stood out
    if seeds == 1:
        return math.sqrt(by_item / items), items - 1
    by_seed = items * float(((seed_S - mean) ** 2).sum()) / (seeds - 1)
    rest_SI = table_SI - item_I - seed_S[:, None] + mean
    rest = float((rest_SI**2).sum()) / ((items - 1) * (seeds - 1))
    of_seeds = max(by_seed - rest, 0.0)
    doubt = by_item**2 / (items - 1)
    if of_seeds > 0:
        doubt += by_seed**2 / (seeds - 1) + rest**2 / ((items - 1) * (seeds - 1))
    freedom = (by_item + of_seeds) ** 2 / doubt
    return math.sqrt((by_item + of_seeds) / (items * seeds)), freedom


def _counts(values: Collection[VerdictValue]) -> tuple[int, int]:
    """How many are correct, and how many graded."""
    correct = graded = 0
    for value in values:
        correct += value == "correct"
        graded += value in GRADED
    return correct, graded


def _counts_of(sides: Sequence[Verdicts], items: Sequence[str]) -> NDArray[np.float64]:
    """Correct and graded answers, (S, I, 2)."""
    return np.array([[_counts(side[item]) for item in items] for side in sides], float)


def _shares(counts_SI2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of graded answers that are correct; NaN where none is graded."""
    with np.errstate(invalid="ignore"):
        return np.asarray(counts_SI2[..., 0] / counts_SI2[..., 1])
