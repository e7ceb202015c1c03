"""n answers to every problem; where there is no gold answer, the majority of them becomes the label.

Answers vote in groups of equal meaning, by the verifier's own comparison: 1/2, 0.5 and \\frac12 are one answer. One
that was cut, never ended or is empty has no vote, but counts among the answers. A label is no gold answer: it is kept
in a file of its own, its verdicts and traces are marked `majority` with its support, and nothing else is graded by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, PositiveInt

from distill.core.config import Settings
from teachers.policies.fixed import Fixed
from teachers.policy import Policy


class Config(Settings):
    """Settings of `self_consistency`."""

    n: PositiveInt = 8
    """Answers a problem."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Share of a problem's answers that must agree; a label with less is flagged, and nothing is graded by it."""


@dataclass(frozen=True)
class SelfConsistency(Fixed):
    """As `fixed`; implements `teachers.policy.Labelling`."""

    threshold: float = 0.5


def build(config: Config) -> Policy:
    """The policy for these settings."""
    return SelfConsistency(config.n, threshold=config.threshold)
