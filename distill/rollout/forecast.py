"""What a sampling would cost, before anything is paid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distill.core.ledger import Ledger
from distill.core.protocols import Request
from distill.core.records import Sampling
from distill.core.stage import Workspace
from distill.rollout.asks import Ask, Plan, Teacher, chunks
from distill.rollout.purchase import LOOK_UP, longest_prompt

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """What is missing and what it would cost. Tokens are those read and those written, of all that is missing.

    The worst case has every answer as long as its limit allows; tries that fail come on top. What is expected, and its
    95% interval, rests on stored answers of the same model and settings: `basis` says how many problems they are
    answers to. None where there are none (two are needed for an interval). Costs are None where the price is unknown.
    """

    wanted: int
    had: int
    worst_tokens: int
    worst_cost: float | None
    basis: int = 0
    expected_tokens: float | None = None
    low_tokens: float | None = None
    high_tokens: float | None = None
    expected_cost: float | None = None
    low_cost: float | None = None
    high_cost: float | None = None

    @property
    def missing(self) -> int:
        """Answers to buy."""
        return self.wanted - self.had


def estimate(asks: Iterable[Ask], sampling: Sampling, teacher: Teacher, workspace: Workspace) -> Estimate:
    """What `fill` would buy, and at what price. Nothing is built or bought; the ledger is only read."""
    plan, prices = Plan(asks, sampling, teacher.identity), teacher.prices
    had = prompt_tokens = 0
    problems: set[int] = set()
    with Ledger(workspace.ledger) as ledger:
        for chunk in chunks(plan.in_order(), LOOK_UP):
            there: set[str] = set()
            for top_logprobs, part in plan.by_logprobs(chunk):
                there |= ledger.served([wanted.key for wanted in part], sampling.max_tokens, top_logprobs)
            had += sum(wanted.key in there for wanted in chunk)
            for wanted in chunk:
                if wanted.key not in there:
                    problems.add(wanted.place)
                    messages = plan.asks[wanted.place].problem.messages
                    prompt_tokens += longest_prompt(Request(wanted.key, messages, sampling))
        lengths = ledger.lengths(plan.identity.id, sampling)
    missing = plan.total - had
    completion_tokens = missing * sampling.max_tokens
    worst_tokens = prompt_tokens + completion_tokens
    worst_cost = None if prices is None else prices.of(prompt_tokens, completion_tokens)
    tokens = _total([sum(pair) for pair in lengths], missing, len(problems), worst_tokens)
    means = [] if prices is None else [prices.of(*pair) for pair in lengths]
    cost = _total(means, missing, len(problems), worst_cost or 0.0)
    return Estimate(plan.total, had, worst_tokens, worst_cost, len(lengths), *tokens, *cost)


def _total(
    means: Sequence[float], answers: int, problems: int, worst: float
) -> tuple[float | None, float | None, float | None]:
    """Sum over `answers` to `problems` new problems, with its interval, from the means of stored problems.

    Problems vary more than answers to one of them, so problems are what is drawn; Student's t by its expansion.
    """
    if not means:
        return None, None, None
    if not answers:
        return 0.0, 0.0, 0.0
    expected = answers * statistics.fmean(means)
    if len(means) < 2:
        return expected, None, None
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    t = z + (z**3 + z) / (4 * (len(means) - 1))
    error = answers * statistics.stdev(means) * math.sqrt(1 / len(means) + 1 / problems)
    return expected, max(0.0, expected - t * error), min(worst, expected + t * error)
