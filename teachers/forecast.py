"""`distill sample --dry-run`: what the sampling would buy, and what that may cost. Buys nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill import rollout
from distill.core.records import Problem
from distill.core.stage import Workspace
from distill.rollout import Estimate
from teachers.policy import Policy
from teachers.rounds import Manner, Wanted


@dataclass(frozen=True)
class Forecast:
    """Answers and tokens (read and written) of one case. `expected`, `low` and `high` (95%) are None without a basis.

    The worst case has every answer as long as its limits allow, escalation included. Money is None without a price.
    """

    answers: int
    missing: int
    basis: int
    expected: float | None
    low: float | None
    high: float | None
    worst: int
    expected_cost: float | None
    low_cost: float | None
    high_cost: float | None
    worst_cost: float | None


def forecast(
    policy: Policy, problems: Sequence[Problem], manners: Mapping[bool | None, Manner], workspace: Workspace
) -> tuple[Forecast, Forecast]:
    """The fewest and the most that the policy may ask for; the same twice where it asks a fixed number."""
    bounds = policy.bounds()
    cases = []
    for case in (0, 1):
        found: list[tuple[Estimate, list[Estimate]]] = []
        for thinking, manner in manners.items():
            group = [problem for problem in problems if problem.thinking == thinking]
            for line, range_ in bounds.items():
                asks = [Wanted(problem, line, range(range_[case])).ask(manner) for problem in group]
                tried = [rollout.estimate(asks, manner.at(limit), manner.teacher, workspace) for limit in manner.limits]
                found.append((tried[0], tried))
        cases.append(_sum(found))
    return cases[0], cases[1]


def _sum(found: Sequence[tuple[Estimate, list[Estimate]]]) -> Forecast:
    firsts = [first for first, _ in found if first.missing]
    every = [one for _, tried in found for one in tried]
    return Forecast(
        answers=sum(first.wanted for first, _ in found),
        missing=sum(first.missing for first in firsts),
        basis=min((first.basis for first in firsts), default=0),
        expected=_total(first.expected_tokens for first in firsts),
        low=_total(first.low_tokens for first in firsts),
        high=_total(first.high_tokens for first in firsts),
        worst=sum(one.worst_tokens for one in every),
        expected_cost=_total(first.expected_cost for first in firsts),
        low_cost=_total(first.low_cost for first in firsts),
        high_cost=_total(first.high_cost for first in firsts),
        worst_cost=_total(one.worst_cost for one in every),
    )


def _total(amounts: Iterable[float | None]) -> float | None:
    """Their sum, or None if one of them is unknown."""
    total = 0.0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def row(name: str, case: Forecast) -> dict[str, Any]:
    """One case as a row of the table."""
    shown: dict[str, Any] = {
        "policy asks": name,
        "answers": case.answers,
        "to buy": case.missing,
        "tokens expected": _amount(case.expected, case.low, case.high, "{:,.0f}"),
        "at most": f"{case.worst:,}",
    }
    if case.worst_cost is not None:
        shown["cost expected"] = _amount(case.expected_cost, case.low_cost, case.high_cost, "{:,.2f}")
        shown["cost at most"] = f"{case.worst_cost:,.2f}"
    return shown


def _amount(expected: float | None, low: float | None, high: float | None, form: str) -> str:
    if expected is None:
        return "unknown"
    return form.format(expected) + (
        "" if low is None or high is None else f" ({form.format(low)} to {form.format(high)})"
    )
