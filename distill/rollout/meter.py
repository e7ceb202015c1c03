"""What answers cost, and what they may.

Worst cases are set aside before every try and settled on usage, so that spending never passes a budget. What is
counted is tries: those that failed, and those whose reply was lost, cost as well.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace

from distill.core.errors import DistillError
from distill.core.ledger import Usage

MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """What a million tokens cost, in the currency of the price list."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Price of these tokens."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / MILLION


@dataclass(frozen=True)
class Budget:
    """The most that the answers one call of `fill` is asked for may cost, whenever they were bought.

    Failed tries count. `tokens` are those read and those written; `cost` needs a price. A stage that asks in rounds
    hands every round all that it has asked for so far: what is there costs nothing again, and is counted.
    """

    tokens: int | None = None
    cost: float | None = None


class Account:
    """The meter of one call of `fill`; see `distill.core.protocols.Meter`. Thread-safe."""

    def __init__(self, budget: Budget | None, prices: Prices | None) -> None:
        self.budget, self.prices = budget or Budget(), prices
        if self.budget.cost is not None and prices is None:
            raise DistillError(
                "a budget in money needs the teacher's price, which is unknown: set `teacher.price` to "
                "`{input: ..., output: ...}` per million tokens, or limit tokens instead"
            )
        self.failures: Counter[str] = Counter()
        """Failed tries by kind."""
        self._lock = threading.Lock()
        self._before = self._settled = self._usage(0, 0, 0)
        self._reserved: dict[str, list[tuple[int, int]]] = {}
        self._reserved_prompt = self._reserved_completion = self._reserved_tries = 0
        self._by_key: dict[str, Usage] = {}

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self.budget != Budget()

    def count_before(self, known: Usage, unknown: Usage, *, more: bool = False) -> None:
        """Set (or, with `more`, add) what others spent on these answers: `Ledger.usage`. Today's prices fill gaps."""
        others = known + self._usage(unknown.prompt_tokens, unknown.completion_tokens, unknown.tries)
        if self.prices is None:
            others = replace(others, cost=None)  # what some of it cost says nothing
        with self._lock:
            self._before = self._before + others if more else others

    # the protocol

    def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> bool:
        """Set the worst case of one try aside. False: it does not fit now."""
        with self._lock:
            worst = self._usage(self._reserved_prompt + prompt_tokens, self._reserved_completion + completion_tokens, 0)
            after = self._before + self._settled + worst
            if self.budget.tokens is not None and after.tokens > self.budget.tokens:
                return False
            if self.budget.cost is not None and (after.cost or 0.0) > self.budget.cost:
                return False
            self._reserved.setdefault(key, []).append((prompt_tokens, completion_tokens))
            self._set_aside(prompt_tokens, completion_tokens, 1)
            return True

    def settle(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        """What a try for `key` cost; what was set aside for it is free again."""
        with self._lock:
            if tries := self._reserved.get(key):
                worst_prompt, worst_completion = tries.pop()
                self._set_aside(-worst_prompt, -worst_completion, -1)
                if not tries:
                    del self._reserved[key]
            got = self._usage(prompt_tokens, completion_tokens, 1)
            self._settled += got
            self._by_key[key] = self._by_key[key] + got if key in self._by_key else got

    def failed(self, kind: str) -> None:
        """Count a try that failed, whether or not it is tried again."""
        with self._lock:
            self.failures[kind] += 1

    # what came of it

    def ended(self, key: str) -> Usage:
        """What all tries for an answer cost, now that there will be no more."""
        with self._lock:
            return self._by_key.pop(key, None) or self._usage(0, 0, 0)

    @property
    def spent(self) -> Usage:
        """What the answers cost so far, whenever they were bought."""
        with self._lock:
            return self._before + self._settled

    @property
    def bought(self) -> Usage:
        """What this call spent."""
        with self._lock:
            return self._settled

    @property
    def in_flight(self) -> int:
        """Tries that are under way."""
        return self._reserved_tries

    def _usage(self, prompt_tokens: int, completion_tokens: int, tries: int) -> Usage:
        cost = None if self.prices is None else self.prices.of(prompt_tokens, completion_tokens)
        return Usage(tries, prompt_tokens, completion_tokens, cost)

    def _set_aside(self, prompt_tokens: int, completion_tokens: int, tries: int) -> None:
        self._reserved_prompt += prompt_tokens
        self._reserved_completion += completion_tokens
        self._reserved_tries += tries
