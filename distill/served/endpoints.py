"""Several servers of the same model: the least loaded is asked, one that fails is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LONGEST_COOLING_S = 60.0
"""How long a failing endpoint is left alone at most, unless it asked for more itself."""


@dataclass
class Endpoint:
    """One server. `url` has no slash at its end."""

    url: str
    position: int = 0
    in_flight: int = 0
    failures: int = 0
    """Tries in a row that failed in a way that another endpoint might not."""
    rests_until_s: float = 0.0

    @property
    def root(self) -> str:
        """The server's address without the API's version, where servers keep what is their own."""
        return self.url.removesuffix("/v1")


class Endpoints:
    """Which server to ask next, and how long until one may be asked."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.all = [Endpoint(url.rstrip("/"), position) for position, url in enumerate(urls)]
        self._clock = clock

    def wait_s(self) -> float:
        """Seconds until one of them may be asked; 0: now."""
        return max(0.0, min(endpoint.rests_until_s for endpoint in self.all) - self._clock())

    def pick(self) -> Endpoint:
        """The one with the fewest tries in flight of those that may be asked now."""
        now_s = self._clock()
        ready = [endpoint for endpoint in self.all if endpoint.rests_until_s <= now_s]
        return min(ready, key=lambda endpoint: endpoint.in_flight)

    def succeeded(self, endpoint: Endpoint) -> None:
        """It answered."""
        endpoint.failures = 0

    def failed(self, endpoint: Endpoint) -> None:
        """It did not answer as it should. Where there are others, they are asked instead for a while."""
        endpoint.failures += 1
        if len(self.all) > 1:
            self.rest(endpoint, min(LONGEST_COOLING_S, 2.0 ** min(endpoint.failures - 1, 10)))

    def rest(self, endpoint: Endpoint, seconds: float) -> None:
        """Ask it nothing for so long."""
        endpoint.rests_until_s = max(endpoint.rests_until_s, self._clock() + seconds)
