"""Rounds until enough answers are correct; gives up early on problems that are hopeless, or too easy to need more.

A problem is done at `k` correct answers, at none of `hopeless_after`, at all of `trivial_after`, or at `max_n`.
Unless `round` sets a size, a round asks for as many answers as are missing to `k`; none is then drawn beyond the k-th
success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import PositiveInt, model_validator

from distill.core.config import Settings
from teachers.policy import BARE, Asked, Drawn, Line, Policy, Stopped, Tally, pass_rate

PRIMARY = "k"


class Config(Settings):
    """Settings of `adaptive`."""

    k: PositiveInt = 4
    """Correct answers after which a problem is done."""
    max_n: PositiveInt = 16
    """At most so many answers a problem."""
    hopeless_after: PositiveInt | None = 8
    """A problem is given up when none of so many answers was correct; None never does."""
    trivial_after: PositiveInt | None = None
    """Fewer answers are enough when so many were all correct; None goes on to `k`."""
    round: PositiveInt | None = None
    """Answers asked of a problem at a time. None: as many as are missing to `k`. A larger round means fewer of them,
    and answers beyond the k-th success."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> Config:
        if self.k > self.max_n:
            raise ValueError(f"k is {self.k}, more than max_n, which is {self.max_n}")
        return self


@dataclass(frozen=True)
class Adaptive:
    """Asks more of the problems whose answers are still too often wrong."""

    config: Config
    needs_verdicts: bool = True

    def next_round(self, tallies: Mapping[str, Tally]) -> Mapping[str, Asked]:
        """A further round for every problem that no rule has stopped."""
        return {
            problem: {BARE: self._size(tally.get(BARE, Drawn()))}
            for problem, tally in tallies.items()
            if self._rule(tally.get(BARE, Drawn())) is None
        }

    def stopped(self, tally: Tally) -> Stopped:
        """The first rule that held."""
        drawn = tally.get(BARE, Drawn())
        return Stopped(self._rule(drawn) or "unfinished", *pass_rate(drawn, self.config.k))

    def bounds(self) -> Mapping[Line, tuple[int, int]]:
        """From what the quickest rule leaves to `max_n`."""
        marks = (self.config.k, self.config.max_n, self.config.hopeless_after, self.config.trivial_after)
        first = self._size(Drawn())
        fewest = min(mark for mark in marks if mark is not None)
        return {BARE: (max(first, fewest), self.config.max_n)}

    def _rule(self, drawn: Drawn) -> str | None:
        """The rule by which a problem is done, or None."""
        graded, correct = len(drawn.graded), drawn.correct
        if correct >= self.config.k:
            return "k correct"
        if self.config.trivial_after is not None and correct == graded >= self.config.trivial_after:
            return "trivial"
        if self.config.hopeless_after is not None and correct == 0 and graded >= self.config.hopeless_after:
            return "hopeless"
        return "max_n" if drawn.asked >= self.config.max_n else None

    def _size(self, drawn: Drawn) -> int:
        """Answers of the next round: no more than the nearest rule could use."""
        graded, correct = len(drawn.graded), drawn.correct
        sizes = [self.config.round or self.config.k - correct, self.config.max_n - drawn.asked]
        if self.config.trivial_after is not None and correct == graded:
            sizes.append(self.config.trivial_after - graded)
        if self.config.hopeless_after is not None and correct == 0:
            sizes.append(self.config.hopeless_after - graded)
        return min(sizes)


def build(config: Config) -> Policy:
    """The policy for these settings."""
    return Adaptive(config)
