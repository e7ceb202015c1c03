"""Keeps at most so many traces a problem, so that easy problems do not flood the training set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import PositiveInt

from distill.core.config import Settings, digest
from distill.core.protocols import Noted, Selection
from distill.core.records import Trace

PRIMARY = "k"


class Config(Settings):
    """Settings of the `at_most` filter: `{at_most: 2}` or `{at_most: {k: 2, prefer: shortest}}`."""

    k: PositiveInt
    """Traces a problem may have."""
    prefer: Literal["hash", "shortest"] = "hash"
    """Which stay. `hash`: a fixed draw without bias. `shortest`: the least text; students then learn to think less,
    which shows in the length table before and after this filter."""


def build(config: Config) -> Selection:
    """The filter."""
    return _AtMost(config)


class _AtMost:
    def __init__(self, config: Config) -> None:
        self.config = config

    def note(self, trace: Trace) -> int:
        """Its length, where that counts."""
        return len(trace.reasoning or "") + len(trace.answer) if self.config.prefer == "shortest" else 0

    def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
        """All but the first k of each problem."""
        by_problem: dict[str, list[int]] = defaultdict(list)
        for place, trace in enumerate(noted):
            by_problem[trace.problem_id].append(place)
        gone = (sorted(group, key=lambda at: _rank(noted[at]))[self.config.k :] for group in by_problem.values())
        return {place: "over the limit a problem" for group in gone for place in group}


def _rank(trace: Noted) -> tuple[int, str]:
    return trace.note, digest(["at_most", trace.key])
