"""What a correct answer costs: tokens and money spent on all answers, right or wrong, over the right ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.evaluate import bootstrap
from distill.evaluate.metrics import Estimate
from distill.evaluate.scores import Score


def tokens_per_correct(lines: Sequence[Score]) -> Estimate:
    """Completion tokens of one model's answers over its correct answers, with the item bootstrap's interval.

    No value where nothing is correct; no upper end where the figure cannot be bounded (a resample of problems without
    a correct answer is not rare then).
    """
    return _per_correct(lines, lambda line: line.completion_tokens)


def money_per_correct(lines: Sequence[Score]) -> Estimate | None:
    """As `tokens_per_correct`, in the currency of `cost`. None where the cost of some answer is not known."""
    if not lines or any(line.cost is None for line in lines):
        return None
    return _per_correct(lines, lambda line: line.cost or 0.0)


def _per_correct(lines: Sequence[Score], spent: Callable[[Score], float]) -> Estimate:
    items: dict[str, list[float]] = {}
    for line in lines:
        entry = items.setdefault(line.problem_id, [0.0, 0.0])
        entry[0] += spent(line)
        entry[1] += line.value == "correct"
    columns_IC = np.array(list(items.values()), float).reshape(-1, 2)
    if not columns_IC[:, 1].any():
        return Estimate(None)
    value = float(columns_IC[:, 0].sum() / columns_IC[:, 1].sum())
    ends = bootstrap.interval(columns_IC, _ratio)
    if ends is None:
        return Estimate(value)
    return Estimate(value, *(end if math.isfinite(end) else None for end in ends))


def _ratio(mean_BC: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean_BC[:, 1] > 0, mean_BC[:, 0] / mean_BC[:, 1], np.inf)
