"""What a sampling policy is: it asks for answers in rounds, and sees what became of the earlier ones.

A problem may be asked along several *lines*: as it stands, or with a hint. The samples of a line are numbered from 0,
and a round asks for the next so many of them. A policy decides from the tallies alone, never from the order in which
answers arrive, so that a run that was stopped and taken up asks the same questions and gets the same samples. A search
policy would tell its lines apart by the prefix that they continue, beside the hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from distill.core.records import GRADED, VerdictValue


@dataclass(frozen=True)
class Line:
    """One way of asking a problem. `hint` is put after the question; `{gold}` in it stands for the gold answer."""

    hint: str = ""


BARE = Line()
"""The problem as it stands."""


@dataclass(frozen=True)
class Drawn:
    """What is known of one line of one problem: how many samples were asked for, and their verdicts by index.

    `verdicts` is empty where the policy needs none.
    """

    asked: int = 0
    verdicts: tuple[VerdictValue, ...] = ()

    @property
    def graded(self) -> tuple[VerdictValue, ...]:
        """The verdicts that count: a bad gold answer and a fault of ours say nothing about the teacher."""
        return tuple(verdict for verdict in self.verdicts if verdict in GRADED)

    @property
    def correct(self) -> int:
        """How many were correct."""
        return self.verdicts.count("correct")


Tally = Mapping[Line, Drawn]
"""What a policy sees of one problem; a line that was never asked is not there."""

Asked = Mapping[Line, int]
"""How many more samples to ask for, along each line of one problem."""


@dataclass(frozen=True)
class Stopped:
    """Why a policy asked no more of a problem, and what that says of the teacher's chance of solving it.

    `n` is how many graded samples of the bare line count for the estimate `pass_rate`; None where nothing was graded.
    """

    rule: str
    n: int | None = None
    pass_rate: float | None = None


class Policy(Protocol):
    """Decides in rounds. Holds no state: what it needs to know is in the tallies."""

    @property
    def needs_verdicts(self) -> bool:
        """Whether tallies must carry verdicts; problems without a gradable gold answer are then not asked at all."""

    def next_round(self, tallies: Mapping[str, Tally]) -> Mapping[str, Asked]:
        """What to ask next, by problem id. Nothing for any of them ends the sampling."""

    def stopped(self, tally: Tally) -> Stopped:
        """Why it asks no more of this problem."""

    def bounds(self) -> Mapping[Line, tuple[int, int]]:
        """The fewest and the most samples of each line that it may ask of a problem; for the dry run."""


@runtime_checkable
class Labelling(Protocol):
    """A policy whose samples give a label to problems that have no gradable gold answer."""

    @property
    def threshold(self) -> float:
        """Share of a problem's answers that must agree on its label."""


def pass_rate(drawn: Drawn, k: int | None = None) -> tuple[int | None, float | None]:
    """How many graded samples count, and the estimate of the pass rate that fits how the sampling stopped.

    A line that was drawn until its k-th success (k given, and reached) counts up to that success, in order of index,
    whatever a larger round drew beyond it: then (k - 1) / (n - 1) is unbiased, where k / n would be too high (Haldane
    1945). It stays so beside lines that reached a fixed number of samples first, which give correct / n (Girshick,
    Mosteller and Savage 1946).

    >>> pass_rate(Drawn(4, ("wrong", "correct", "correct", "correct")), k=2)
    (3, 0.5)
    """
    graded = drawn.graded
    if not graded:
        return None, None
    if k is None or drawn.correct < k:
        return len(graded), drawn.correct / len(graded)
    successes = [place for place, verdict in enumerate(graded, start=1) if verdict == "correct"]
    n = successes[k - 1]
    return n, 1.0 if n == 1 else (k - 1) / (n - 1)
