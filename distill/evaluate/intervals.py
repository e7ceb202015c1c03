"""What intervals are made of: Student's t without SciPy, Wilson's interval at an effective number of answers."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Coverage that every interval here is built for."""

NEARLY_NORMAL = 5000
"""Degrees of freedom from which Student's t is taken for the normal distribution; quantiles differ by under 0.001."""


@cache
def student_t(freedom: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t: |T| stays below it with probability `level`.

    `freedom` is at least 1 and need not be whole. With t = sqrt(freedom) tan(u) the density is cos(u)^(freedom - 1):
    integrated on a grid, and read backwards.
    """
    if freedom > NEARLY_NORMAL:
        return NormalDist().inv_cdf(0.5 + level / 2)
    angle = np.linspace(0, math.pi / 2, 8001)
    density = np.cos(angle) ** (max(freedom, 1.0) - 1)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(max(freedom, 1.0)) * math.tan(float(np.interp(level, mass / mass[-1], angle)))


def student_tails(t: float, freedom: float) -> float:
    """Probability of Student's t beyond -|t| or |t|: the two-sided p-value. The inverse of `student_t`."""
    freedom = max(freedom, 1.0)
    if t == 0:
        return 1.0
    if freedom > NEARLY_NORMAL:
        return math.erfc(abs(t) / math.sqrt(2))
    angle = np.linspace(math.atan(abs(t) / math.sqrt(freedom)), math.pi / 2, 8001)
    density = np.cos(angle) ** (freedom - 1)
    tail = float((density[1:] + density[:-1]).sum()) / 2 * float(angle[1] - angle[0])
    whole = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    return min(1.0, tail / whole)


def of_gap(difference_I: NDArray[np.float64], step: float) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences (2 or more), not narrower than if one of `step` stood out.

    `step` is what one answer changes a difference by; without it, models that agree everywhere would have an interval
    of no width.
    """
    items, mean = len(difference_I), float(difference_I.mean())
    variance = max(float(difference_I.var(ddof=1)), step**2 / items)
    half = student_t(items - 1) * math.sqrt(variance / items)
    return mean - half, mean + half


def wilson(value: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's score interval of a fraction `value` of `n` trials (which need not be whole), for a normal quantile."""
    z2 = quantile * quantile
    centre = (value + z2 / (2 * n)) / (1 + z2 / n)
    half = quantile / (1 + z2 / n) * math.sqrt(value * (1 - value) / n + z2 / (4 * n * n))
    return max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half))


def of_shares(
    share_I: NDArray[np.float64], weight_I: NDArray[np.float64], answers: float,
    error: float | None = None, quantile: float | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Interval of the weighted mean of one share (0 to 1) an item, where items are a sample of what could be asked.

    `answers` is how many independent answers all shares together are worth if items do not differ (it bounds the
    precision). Every share 0 or 1: Wilson's interval over items. Else Wilson's interval, with Student's t, at the
    effective number of answers that the variance between items implies (Franco et al. 2019, "Comparative study of
    confidence intervals for proportions in complex sample surveys"). `error` and `quantile` are for a standard error
    that holds more than the items' noise, and what it is to be multiplied by.

    Where few items have a share other than 0 (or than 1), that variance is hardly known: one item at 14/16 among 29
    full ones looks like 99.6% +- 0.4. The effective number is therefore drawn towards the number of items, on the log
    scale, with the weight of one such item. Without that the interval covers 86% at 30 items of strongly varied
    difficulty, 16 samples and a true rate of 95%, with it 92%.
    """
    items = len(share_I)
    value = float((share_I * weight_I).sum() / weight_I.sum())
    normal = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    if items == 1:
        return wilson(value, 1.0, normal)  # one item says nothing about other items
    if value in (0.0, 1.0) or (error is None and np.isin(share_I, (0.0, 1.0)).all()):
        return wilson(value, float(weight_I.sum() ** 2 / (weight_I**2).sum()), normal)
    if error is None:
        deviation_I = weight_I * (share_I - value) / weight_I.sum()
        error = math.sqrt(float((deviation_I**2).sum()) * items / (items - 1))
    effective = float(items)
    if error > 0:
        # half as much again: a bound at the answers themselves would only ever widen, and cover too much
        raw = min(1.5 * answers, value * (1 - value) / error**2)
        telling = min(int((share_I > 0).sum()), int((share_I < 1).sum()))
        effective = math.exp((telling * math.log(raw) + math.log(min(raw, items))) / (telling + 1))
    return wilson(value, effective, student_t(items - 1) if quantile is None else quantile)
