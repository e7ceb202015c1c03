"""Item bootstrap, for figures that are functions of item means and have no closed form: seeded, vectorised, the same
digits every time.

BCa (bias-corrected and accelerated; Efron 1987) with Hesterberg's expanded percentiles (Hesterberg 2015, "What
teachers should know about the bootstrap"), which do for small samples what Student's t does. Plain BCa
covers 92% at 30 items where 95% is stated, the expanded one 94%. Percentile-t covers as well or up to 1 point better
for ratios, but it needs a standard error inside every resample, which an interpolated curve does not have, and its
intervals are up to twice as wide where lengths have heavy tails. Clusters are items: answers to one problem are drawn
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from distill.evaluate.intervals import student_t

DRAWS = 2000
"""Resamples; the ends of an interval then move by about a twentieth of its width with the seed."""

BLOCK = 4_000_000
"""Most entries of a block of weights, so that memory does not grow with the number of items."""

Figure = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From means of the columns (B, C) to the figure (B,); inf where it does not exist (nothing correct: no cost each)."""


def interval(
    columns_IC: NDArray[np.float64], figure: Figure, *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float] | None:
    """95% interval of `figure(means of the columns over items)`; items (rows) are drawn with replacement.

    None for fewer than 2 items, or where the figure itself is not finite. An end can be infinite: more than 2.5% of
    resamples had nothing to divide by.
    """
    return intervals(columns_IC, [figure], seed=seed, draws=draws)[0]


def intervals(
    columns_IC: NDArray[np.float64], figures: Sequence[Figure], *, seed: int = 0, draws: int = DRAWS
) -> list[tuple[float, float] | None]:
    """As `interval`, for several figures of the same columns and resamples."""
    items = len(columns_IC)
    if items < 2:
        return [None] * len(figures)
    mean_1C = columns_IC.mean(axis=0)[None]
    drawn_BC = _resampled_means(columns_IC, seed, draws)
    left_out_IC = (columns_IC.sum(axis=0) - columns_IC) / (items - 1)
    return [_bca(float(figure(mean_1C)[0]), np.sort(figure(drawn_BC)), figure(left_out_IC)) for figure in figures]


def _bca(value: float, drawn_B: NDArray[np.float64], left_out_I: NDArray[np.float64]) -> tuple[float, float] | None:
    """The interval from the figure, its resamples in ascending order, and its values with each item left out."""
    if not math.isfinite(value):
        return None
    items, draws = len(left_out_I), len(drawn_B)
    below = ((drawn_B < value).sum() + (drawn_B == value).sum() / 2) / draws
    bias = NormalDist().inv_cdf(min(max(float(below), 0.5 / draws), 1 - 0.5 / draws))
    influence_I = left_out_I.mean() - left_out_I if np.isfinite(left_out_I).all() else np.zeros(items)
    squares = float((influence_I**2).sum())
    acceleration = float((influence_I**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0
    reach = student_t(items - 1) * math.sqrt(items / (items - 1))
    return (
        _quantile(drawn_B, _percentile(bias, acceleration, -reach)),
        _quantile(drawn_B, _percentile(bias, acceleration, reach)),
    )


def _resampled_means(columns_IC: NDArray[np.float64], seed: int, draws: int) -> NDArray[np.float64]:
    items = len(columns_IC)
    rows = max(1, BLOCK // items)
    blocks = [_weights(items, seed, first, min(first + rows, draws)) @ columns_IC for first in range(0, draws, rows)]
    return np.concatenate(blocks) / items


@lru_cache(maxsize=4)
def _weights(items: int, seed: int, first: int, last: int) -> NDArray[np.float64]:
    """How often each item is in resamples `first` to `last`, (B, I). Each resample has a stream of its own."""
    weight_BI = np.empty((last - first, items))
    for row, draw in enumerate(range(first, last)):
        # uniform numbers, not `choice` or `multinomial`, whose streams NumPy may change between versions
        uniform = np.random.Generator(np.random.PCG64([seed, draw])).random(items)
        weight_BI[row] = np.bincount((uniform * items).astype(np.int64), minlength=items)
    return weight_BI


def _percentile(bias: float, acceleration: float, reach: float) -> float:
    z = bias + reach
    if acceleration * z >= 1:  # beyond the pole of the correction: the end of what was drawn
        return 1.0 if reach > 0 else 0.0
    return NormalDist().cdf(bias + z / (1 - acceleration * z))


def _quantile(sorted_B: NDArray[np.float64], share: float) -> float:
    place = share * (len(sorted_B) - 1)
    low, high = float(sorted_B[math.floor(place)]), float(sorted_B[math.ceil(place)])
    return low if low == high else low + (high - low) * (place - math.floor(place))
