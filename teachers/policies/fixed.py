"""The same number of samples for every problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import PositiveInt

from distill.core.config import Settings
from teachers.policy import BARE, Asked, Drawn, Line, Policy, Stopped, Tally


class Config(Settings):
    """Settings of `fixed`."""

    n: PositiveInt = 4
    """Samples a problem."""


@dataclass(frozen=True)
class Fixed:
    """Asks once, for n each."""

    n: int
    needs_verdicts: bool = False

    def next_round(self, tallies: Mapping[str, Tally]) -> Mapping[str, Asked]:
        """What each problem still lacks of its n."""
        asked = {problem: tally.get(BARE, Drawn()).asked for problem, tally in tallies.items()}
        return {problem: {BARE: self.n - had} for problem, had in asked.items() if had < self.n}

    def stopped(self, tally: Tally) -> Stopped:
        """Always at n."""
        del tally
        return Stopped("n")

    def bounds(self) -> Mapping[Line, tuple[int, int]]:
        """Exactly n."""
        return {BARE: (self.n, self.n)}


def build(config: Config) -> Policy:
    """The policy for these settings."""
    return Fixed(config.n)
