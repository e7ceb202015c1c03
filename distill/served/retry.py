"""When to try again: what the server asked for, and jittered exponential backoff where it asked for nothing."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Backoff:
    """Full jitter: before try n + 1 a wait drawn evenly from 0 to the smaller of `cap_s` and `first_s` times 2^(n-1).

    Spread over the whole range, clients that failed together do not come back together (AWS's "Exponential Backoff
    And Jitter", 2015).
    """

    first_s: float = 1.0
    cap_s: float = 60.0
    draw: random.Random = field(default_factory=random.Random, compare=False)

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after this many failures (1 or more)."""
        return self.draw.uniform(0.0, min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 30)))


def retry_after_s(headers: Mapping[str, str], now_s: float | None = None) -> float | None:
    """Seconds that the server asks to wait, None where it does not say. `headers` in lower case.

    Understands `retry-after-ms`, and `retry-after` in seconds or as an HTTP date (RFC 9110, 10.2.3). A date that has
    passed is 0; nonsense is None. `now_s` is the time since the epoch; None: now.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        asked = _number(headers.get(name))
        if asked is not None:
            return asked * unit_s
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError):
        return None
    if date.tzinfo is None:  # "-0000": the date is in UTC and says nothing of its zone
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - (time.time() if now_s is None else now_s))


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < float("inf") else None
