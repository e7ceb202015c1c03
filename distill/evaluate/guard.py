"""Regression guard: what training took away. Base and student on a small suite beside what was trained for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.evaluate.metrics import Difference

FILE = "guard.parquet"
"""Scores of the guard's tasks, beside those of the others."""

MODELS = ("base", "student")

SHOWN, NOT_SHOWN = "forgetting shown", "no loss shown"


def judged(difference: Difference, points: float) -> dict[str, Any]:
    """What the difference student - base on one task says.

    `forgetting shown` where the whole interval is below 0; `missed` where all of it is below `-points`, so that the
    loss is shown to be more than that. `no loss shown` is no proof that there is none: the task's `power` says how
    small a loss could have been seen.
    """
    lost = difference.high is not None and difference.high < 0
    return {
        "verdict": SHOWN if lost else NOT_SHOWN,
        "missed": difference.high is not None and difference.high < -points / 100,
    }


def missed(guard: Mapping[str, Any] | None) -> str | None:
    """The tasks on which a loss of more than `guard_points` was shown; None if there is none."""
    bad = [
        f"{task['name']} {Difference(**task['difference'])}"
        for task in ([] if guard is None else guard["tasks"])
        if task["missed"]
    ]
    if guard is None or not bad:
        return None
    return f"evaluate: the student lost more than {guard['points']:g} points on {', '.join(bad)} (`evaluate.guard`)"


def summary(guard: Mapping[str, Any] | None) -> str:
    """Like `; guard: steps -1.2 points [-3.4, +1.0], no loss shown`; empty where there is no guard."""
    if guard is None:
        return ""
    said = [f"{task['name']} {Difference(**task['difference'])}, {task['verdict']}" for task in guard["tasks"]]
    return f"; guard: {'; '.join(said)}"
