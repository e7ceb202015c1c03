"""What the kept traces are like: habits of their thinking, its length by difficulty, what follows the first answer."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from distill.core.records import Trace
from distill.text.habits import NAMES, after_the_answer, habits


class Statistics:
    """Gathers while traces pass by: `for trace in statistics.watch(traces): ...`; keeps a few numbers of each."""

    def __init__(self) -> None:
        self.traces = 0
        self._having: Counter[str] = Counter()
        self._times: Counter[str] = Counter()
        self._characters = 0
        self._by_level: dict[str, list[int]] = defaultdict(list)
        self._after: list[float] = []

    def watch(self, traces: Iterable[Trace]) -> Iterator[Trace]:
        """The same traces, counted on their way."""
        for trace in traces:
            self._count(trace)
            yield trace

    def _count(self, trace: Trace) -> None:
        thinking = trace.reasoning or ""
        self.traces += 1
        self._characters += len(thinking)
        self._by_level[trace.level].append(len(thinking))
        found = habits(thinking)
        for name in NAMES:
            times = getattr(found, name)
            self._having[name] += times > 0
            self._times[name] += times
        after = after_the_answer(thinking, trace.gold)
        if after is not None:
            self._after.append(after)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: for each habit the share of traces that show it and how often in 1,000 characters of thinking;
        thinking lengths in characters by level; the share of thinking after the gold answer first stands there.
        """
        thousands = self._characters / 1000
        return {
            "traces": self.traces,
            "habits": {
                name: {
                    "share": self._having[name] / self.traces if self.traces else 0.0,
                    "per_1000_characters": self._times[name] / thousands if thousands else 0.0,
                }
                for name in NAMES
            },
            "thinking_by_level": {
                level: {"traces": len(sizes), "mean": statistics.fmean(sizes), "median": statistics.median(sizes)}
                for level, sizes in sorted(self._by_level.items())
            },
            "after_the_answer": {
                "traces": len(self._after),
                "mean_share": statistics.fmean(self._after) if self._after else None,
                "over_half": sum(share > 0.5 for share in self._after) / len(self._after) if self._after else None,
            },
        }
