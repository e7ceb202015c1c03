"""Keeps traces of problems that the teacher gets right within a band: neither hopeless nor trivial."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from distill.core.config import Settings
from distill.core.protocols import Noted, Selection
from distill.core.records import GRADED, Trace

BEFORE = ("verdict", "at_most")
"""Filters that must come later: after them the wrong answers, or some of all, are gone."""


class Config(Settings):
    """Settings of the `pass_rate` filter. The band is inclusive at both ends."""

    low: float = Field(default=0.0, ge=0, le=1)
    """Least share of correct answers among those graded (correct, wrong or unparseable)."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest share."""
    at_least: PositiveInt = 4
    """Graded answers that a rate needs."""
    insufficient: Literal["keep", "reject"] = "keep"
    """What becomes of problems with fewer."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.low > self.high:
            raise ValueError(f"low {self.low:g} is more than high {self.high:g}")
        return self


def build(config: Config) -> Selection:
    """The filter."""
    return _PassRate(config)


class _PassRate:
    def __init__(self, config: Config) -> None:
        self.config = config

    def note(self, trace: Trace) -> str | None:
        """Its verdict."""
        return trace.verdict

    def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
        """All traces of problems outside the band; bad golds and failures of ours are no answers."""
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for trace in noted:
            counts[trace.problem_id][trace.note] += 1
        why = {problem: self._fault(counted) for problem, counted in counts.items()}
        return {place: why[trace.problem_id] for place, trace in enumerate(noted) if why[trace.problem_id]}

    def _fault(self, counted: Counter[str]) -> str:
        graded = sum(counted[value] for value in GRADED)
        if graded < self.config.at_least:
            few = f"fewer than {self.config.at_least} graded answers"
            return few if self.config.insufficient == "reject" else ""
        rate = counted["correct"] / graded
        if rate < self.config.low:
            return f"pass rate under {self.config.low:g}"
        return f"pass rate over {self.config.high:g}" if rate > self.config.high else ""
