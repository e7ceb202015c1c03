"""n answers to every problem; where all failed, tries again with the gold answer as a hint (STaR).

A trace that came with the hint is stored without it: the messages of the bare problem, no ids of the hinted prompt, no
log-probabilities, and marked `rationalised` (Zelikman et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import PositiveInt, field_validator

from distill.core.config import Settings
from teachers.policy import BARE, Asked, Drawn, Line, Policy, Stopped, Tally, pass_rate


class Config(Settings):
    """Settings of `star`."""

    n: PositiveInt = 4
    """Answers a problem without a hint."""
    tries: PositiveInt = 2
    """At most so many answers with the hint, one a round, until one is correct."""
    hint: str = "(Hint: the answer is {gold}.)"
    """What is put after the question, with `{gold}` for the gold answer."""

    @field_validator("hint")
    @classmethod
    def _has_a_place(cls, hint: str) -> str:
        if "{gold}" not in hint:
            raise ValueError("has no `{gold}`, the place where the gold answer goes")
        return hint


@dataclass(frozen=True)
class Star:
    """Asks the bare problem n times, and with the hint only where none of those was correct."""

    config: Config
    needs_verdicts: bool = True

    @property
    def hinted(self) -> Line:
        """The line with the hint."""
        return Line(self.config.hint)

    def next_round(self, tallies: Mapping[str, Tally]) -> Mapping[str, Asked]:
        """The bare answers first; then one hinted answer at a time."""
        rounds: dict[str, Asked] = {}
        for problem, tally in tallies.items():
            bare, hinted = tally.get(BARE, Drawn()), tally.get(self.hinted, Drawn())
            if bare.asked < self.config.n:
                rounds[problem] = {BARE: self.config.n - bare.asked}
            elif bare.graded and not bare.correct and not hinted.correct and hinted.asked < self.config.tries:
                rounds[problem] = {self.hinted: 1}
        return rounds

    def stopped(self, tally: Tally) -> Stopped:
        """At n, or after the hint; the pass rate is that of the bare answers."""
        bare, hinted = tally.get(BARE, Drawn()), tally.get(self.hinted, Drawn())
        rule = "n" if not hinted.asked else "hint" if hinted.correct else "hint in vain"
        return Stopped(rule, *pass_rate(bare))

    def bounds(self) -> Mapping[Line, tuple[int, int]]:
        """n, and none to `tries` with the hint."""
        return {BARE: (self.config.n, self.config.n), self.hinted: (0, self.config.tries)}


def build(config: Config) -> Policy:
    """The policy for these settings."""
    return Star(config)
