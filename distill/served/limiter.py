"""How fast tries may be sent: requests and tokens a minute, never more in any minute. All tries share it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from distill.core.errors import DistillError

WINDOW_S = 61.0
"""A minute and what tries may take to arrive: sent a minute apart, two may reach the server closer than that."""

LATE_S = 0.05
"""How late a timer may be without slowing the run: so much may be sent at once."""


@dataclass
class Ticket:
    """One try that was let through at `at_s`, and the tokens it counts as until it is settled."""

    at_s: float
    tokens: int


class Limiter:
    """What may be sent when. Thread-safe; knows nothing of waiting, only how long it would take.

    Requests are spread evenly (a bucket that holds no more than what a late timer missed): servers with a limit a
    minute often count it by the second. Tokens are summed over a sliding minute, as the worst case of a try when it is
    sent, and as its usage once that is known.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._clock, self._lock = clock, threading.Lock()
        self._sent: deque[Ticket] = deque()
        self._tokens = 0
        self._burst = max(1.0, (requests_per_minute or 0) / WINDOW_S * LATE_S)
        self._filled, self._filled_s = self._burst, clock()

    @property
    def unlimited(self) -> bool:
        """Whether it ever makes anybody wait."""
        return self.requests_per_minute is None and self.tokens_per_minute is None

    def wait_s(self, tokens: int) -> float:
        """Seconds until a try of so many tokens may be sent; 0: now.

        Raises DistillError if it can never be sent, because alone it is above the limit.
        """
        if self.unlimited:
            return 0.0
        if self.tokens_per_minute is not None and tokens > self.tokens_per_minute:
            raise DistillError(
                f"tokens_per_minute is {self.tokens_per_minute:,}, but one answer may take {tokens:,} tokens (prompt "
                "and max_tokens); raise it or lower max_tokens"
            )
        with self._lock:
            return self._wait_s(self._now(), tokens)

    def take(self, tokens: int) -> Ticket | None:
        """Let one try through, if it may be sent now."""
        if self.unlimited:
            return Ticket(0.0, 0)
        with self._lock:
            now_s = self._now()
            if self._wait_s(now_s, tokens) > 0:
                return None
            ticket = Ticket(now_s, tokens)
            if self.tokens_per_minute is not None:
                self._sent.append(ticket)
                self._tokens += tokens
            self._filled -= 1.0
            return ticket

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The try took so many tokens."""
        if self.tokens_per_minute is None:
            return
        with self._lock:
            if self._sent and ticket.at_s >= self._sent[0].at_s:  # else it has left the window already
                self._tokens += tokens - ticket.tokens
            ticket.tokens = tokens

    def _now(self) -> float:
        """The time; what is older than the window is forgotten."""
        now_s = self._clock()
        while self._sent and self._sent[0].at_s + WINDOW_S <= now_s:
            self._tokens -= self._sent.popleft().tokens
        if self.requests_per_minute is not None:
            refilled = self._filled + (now_s - self._filled_s) * self.requests_per_minute / WINDOW_S
            self._filled, self._filled_s = min(self._burst, refilled), now_s
        return now_s

    def _wait_s(self, now_s: float, tokens: int) -> float:
        until_s = now_s
        if self.requests_per_minute is not None:
            missing = max(0.0, 1.0 - self._filled)
            until_s += missing * WINDOW_S / self.requests_per_minute
        if self.tokens_per_minute is not None and self._tokens + tokens > self.tokens_per_minute:
            over = self._tokens + tokens - self.tokens_per_minute
            for ticket in self._sent:
                over -= ticket.tokens
                until_s = max(until_s, ticket.at_s + WINDOW_S)
                if over <= 0:
                    break
        return max(0.0, until_s - now_s)
