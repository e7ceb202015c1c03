"""What a paired comparison can find, said before it is run: a 5% test, 80% power.

The model, per item: an answer of either model is correct with variance r (1 - r) for its rate r. Two answers of one
model to the same item correlate by `within`, answers of two models to the same item by `between` (at most `within`).
With m samples an item and side, the difference of the two means of an item has the variance

    (va + vb) (within + (1 - within) / m) - 2 between sqrt(va vb)        va = ra (1 - ra), vb = rb (1 - rb)

so that more samples help down to `within - between`, and beyond that only more items do. One sample an item and equal
rates: 2 r (1 - r) (1 - between), which is the share of items on which the two disagree.

Assumed, unless given: `within` 0.5 and `between` 0.3. Measured on this repository's embedded models: 0.47 between
students of different recipes, so that `between` is cautious, but 0.73 within the teacher, so that `within` is not where
a model answers alike each time.

What is not in it: training noise. It says what one pair of models can show about themselves, not what one recipe can
show about another; for that, seeds are needed, and the measured interval has their noise in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from distill.evaluate.intervals import LEVEL, student_t
from distill.evaluate.metrics import POWER

WITHIN, BETWEEN = 0.5, 0.3
"""Assumed correlation of two answers to the same item: by one model, by two models."""

SMALLEST = 2
"""Fewest items that have a variance."""


@dataclass(frozen=True)
class Plan:
    """What an evaluation of this size can show; fractions. `detectable` is None where no difference could be found."""

    items: int
    samples: int
    rate: float
    within: float
    between: float
    power: float
    level: float
    detectable: float | None

    def __str__(self) -> str:
        """The line that is printed before the run."""
        size = f"{self.items:,} problems x {self.samples:,} {'sample' if self.samples == 1 else 'samples'}"
        found = (
            "no difference between two models could be shown"
            if self.detectable is None
            else f"differences from {100 * self.detectable:.1f} points on are found"
        )
        return (
            f"{size}: {found} ({self.power:.0%} power, {self.level:.0%} level, paired; assumed: rate {self.rate:.0%}, "
            f"correlation of answers {self.within:g} within a model, {self.between:g} between models)"
        )


def plan(items: int, samples: int = 1, rate: float = 0.5, *, within: float = WITHIN, between: float = BETWEEN) -> Plan:
    """What to expect of a run: its minimal detectable difference with all that was assumed."""
    found = minimal_detectable(items, samples, rate, within=within, between=between) if items >= SMALLEST else None
    return Plan(items, samples, rate, within, between, POWER, round(1 - LEVEL, 9), found)


def power_of(
    difference: float, items: int, samples: int = 1, rate: float = 0.5,
    *, within: float = WITHIN, between: float = BETWEEN,
) -> float:  # fmt: skip
    """Chance that the paired test finds a true `difference` (fraction) between rates that lie evenly around `rate`.

    Raises ValueError for rates outside [0, 1], fewer than 2 items, or correlations out of order.
    """
    error = _error(difference, items, samples, rate, within, between)
    if error == 0:
        return 1.0 if difference else 0.0
    # noncentral t by its normal approximation (Johnson and Welch 1940); exact enough from some ten items on
    freedom, effect = items - 1, abs(difference) / error
    critical = student_t(freedom)
    spread = math.sqrt(1 + critical**2 / (2 * freedom))
    shrunk = effect * (1 - 1 / (4 * freedom))
    normal = NormalDist()
    return normal.cdf((shrunk - critical) / spread) + normal.cdf((-shrunk - critical) / spread)


def minimal_detectable(
    items: int, samples: int = 1, rate: float = 0.5, *, within: float = WITHIN, between: float = BETWEEN
) -> float | None:
    """Smallest true difference (fraction) that is found with 80% power at the 5% level; None where there is none.

    Raises ValueError as `power_of` does.
    """
    low, high = 0.0, 2 * min(rate, 1 - rate)
    if high == 0 or power_of(high, items, samples, rate, within=within, between=between) < POWER:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        if power_of(middle, items, samples, rate, within=within, between=between) < POWER:
            low = middle
        else:
            high = middle
    return high


def items_needed(
    difference: float, samples: int = 1, rate: float = 0.5, *, within: float = WITHIN, between: float = BETWEEN
) -> int:
    """Fewest items on which a true `difference` (fraction) is found with 80% power: `minimal_detectable` inverted.

    Raises ValueError as `power_of` does, and for a difference of 0, which no number of items finds.
    """
    if difference == 0:
        raise ValueError("a difference of 0 is found by no number of items")
    low, high = 1, SMALLEST
    while power_of(difference, high, samples, rate, within=within, between=between) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if power_of(difference, middle, samples, rate, within=within, between=between) < POWER:
            low = middle
        else:
            high = middle
    return high


def _error(difference: float, items: int, samples: int, rate: float, within: float, between: float) -> float:
    higher, lower = rate + abs(difference) / 2, rate - abs(difference) / 2
    if lower < -1e-12 or higher > 1 + 1e-12:
        raise ValueError(f"no two rates around {rate:g} differ by {abs(difference):g} and lie between 0 and 1")
    if items < SMALLEST or samples < 1:
        raise ValueError(f"{items} items and {samples} samples: at least {SMALLEST} items and 1 sample are needed")
    if not 0 <= between <= within <= 1:
        raise ValueError(f"correlations must be 0 <= between <= within <= 1, got {between:g} and {within:g}")
    a, b = max(0.0, higher * (1 - higher)), max(0.0, lower * (1 - lower))
    variance = (a + b) * (within + (1 - within) / samples) - 2 * between * math.sqrt(a * b)
    # no surer than the comparison itself, which takes one answer to one item for the least that can stand out
    return math.sqrt(max(variance, 1 / (items * samples**2)) / items)
