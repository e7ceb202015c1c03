"""Answers from a model: the ledger first, the engine for the rest. Everything that generates goes through here.

fill      buys what the ledger lacks, within a budget; keeps none of it in memory
read      streams the stored answers, in order
gather    both, as a list: for a few thousand answers
collect   the same for some answers to each of some problems
estimate  what `fill` would buy, and what that would cost; buys nothing
"""

from distill.rollout.asks import Ask, Prefix, Teacher, as_asked, identify
from distill.rollout.display import Display
from distill.rollout.forecast import Estimate, estimate
from distill.rollout.meter import Account, Budget, Prices
from distill.rollout.purchase import Filled, fill
from distill.rollout.stored import collect, gather, read

__all__ = [
    "Account",
    "Ask",
    "Budget",
    "Display",
    "Estimate",
    "Filled",
    "Prefix",
    "Prices",
    "Teacher",
    "as_asked",
    "collect",
    "estimate",
    "fill",
    "gather",
    "identify",
    "read",
]
