"""Answers from a model: the ledger first, the engine for the rest. Everything that generates goes through here.

fill      buys what the ledger lacks, within a budget; keeps none of it in memory
read      streams the stored answers, in order
collect   both, as a list: for a few thousand answers
estimate  what `fill` would buy, and what that would cost; buys nothing
"""

from distill.rollout.asks import Ask, Teacher, identify
from distill.rollout.display import Display
from distill.rollout.forecast import Estimate, estimate
from distill.rollout.meter import Account, Budget, Prices
from distill.rollout.purchase import Filled, fill
from distill.rollout.stored import collect, read

__all__ = [
    "Account",
    "Ask",
    "Budget",
    "Display",
    "Estimate",
    "Filled",
    "Prices",
    "Teacher",
    "collect",
    "estimate",
    "fill",
    "identify",
    "read",
]
