"""The funnel: every filter in turn, on what the ones before it left. No files, no clock, no randomness.

Two steps, so that a million traces need neither one core nor one memory. `assess` reads a chunk of traces, in any
process, and keeps of each only a `Row`: the first screen that rejects it, and what the selections before that screen
noted. `settle` takes the rows of all chunks and lets the selections choose, in the order of the filters.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.protocols import Filter, Noted, Remarks, Screen
from distill.core.records import Decision, Trace

Named = Sequence[tuple[str, Filter]]
"""Filters in the order they run, each with its name in the YAML."""

EXAMPLES = 3
"""Rejected traces shown for each reason."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of one trace while the funnel runs."""

    key: str
    problem_id: str
    domain: str
    level: str
    source: str
    characters: int
    thinking: int
    """Characters of the reasoning alone."""
    tokens: int
    """What it would cost to train on: its completion ids, or a quarter of its characters where it has none."""
    stopped_at: int
    """Place of the first screen that rejects it; the number of filters where none does."""
    why: str
    notes: tuple[Any, ...]
    """One note for each selection that stands before `stopped_at`."""
    remarks: tuple[tuple[int, str], ...] = ()
    """What screens that let it pass had to say: (place of the screen, remark)."""


@dataclass(frozen=True)
class Lengths:
    """Characters of the traces at one point of the funnel, thinking included."""

    mean: float
    median: float
    longest: int
    doublings: tuple[int, ...] = ()
    """How many traces have less than 1, 2, 4, 8 ... characters and not less than the one before."""


@dataclass(frozen=True)
class Step:
    """The traces after one filter: what it rejected and why, and what the rest look like. The first is the start."""

    filter: str
    rejected: int
    reasons: dict[str, int]
    kept: int
    problems: int
    by_level: dict[str, int]
    by_domain: dict[str, int]
    lengths: Lengths | None
    by_source: dict[str, int] | None = None
    thinking: Lengths | None = None
    """Lengths of the reasoning alone."""
    examples: dict[str, list[str]] | None = None
    """Keys of a few traces that were rejected, by reason."""
    remarks: dict[str, int] | None = None
    """What the filter had to say of traces that it let pass, with how many they are."""


def assess(traces: Iterable[Trace], filters: Named) -> list[Row]:
    """Look at each trace with every filter up to the first screen that rejects it."""
    return [_look(trace, filters) for trace in traces]


def _look(trace: Trace, filters: Named) -> Row:
    notes = []
    remarks = []
    stopped_at, why = len(filters), ""
    for place, (_, chosen) in enumerate(filters):
        if not isinstance(chosen, Screen):
            notes.append(chosen.note(trace))
        elif why := chosen.fault(trace):
            stopped_at = place
            break
        elif isinstance(chosen, Remarks) and (remark := chosen.remark(trace)):
            remarks.append((place, sys.intern(remark)))
    thinking = len(trace.reasoning or "")
    return Row(
        key=trace.key,
        problem_id=sys.intern(trace.problem_id),
        domain=sys.intern(trace.domain),
        level=sys.intern(trace.level),
        source=sys.intern(trace.source),
        characters=thinking + len(trace.answer),
        thinking=thinking,
        tokens=len(trace.completion_ids) if trace.completion_ids else -(-(thinking + len(trace.answer)) // 4),
        stopped_at=stopped_at,
        why=sys.intern(why),
        notes=tuple(notes),
        remarks=tuple(remarks),
    )


def settle(rows: Sequence[Row], filters: Named) -> tuple[list[Decision], list[Step]]:
    """One decision per row, in order, and the funnel. Which traces are kept does not depend on their order.

    Raises ValueError if a key occurs twice.
    """
    if len({row.key for row in rows}) != len(rows):
        raise ValueError("two traces have the same key")
    decisions: list[Decision | None] = [None] * len(rows)
    left = list(range(len(rows)))
    funnel = [_step("", -1, {}, rows, left)]
    selections = 0
    for place, (name, chosen) in enumerate(filters):
        if isinstance(chosen, Screen):
            gone = {index: rows[index].why for index in left if rows[index].stopped_at == place}
        else:
            noted = [Noted(rows[i].key, rows[i].problem_id, rows[i].notes[selections]) for i in left]
            gone = {left[at]: why for at, why in chosen.reject(noted).items()}
            selections += 1
        for index, why in gone.items():
            decisions[index] = Decision(rows[index].key, False, name, why)
        left = [index for index in left if index not in gone]
        funnel.append(_step(name, place, gone, rows, left))
    return [decision or Decision(row.key, True) for decision, row in zip(decisions, rows, strict=True)], funnel


def apply(traces: Sequence[Trace], filters: Named) -> tuple[list[Decision], list[Step]]:
    """Both steps on traces that are all in memory."""
    return settle(assess(traces, filters), filters)


def _step(name: str, place: int, gone: dict[int, str], rows: Sequence[Row], left: Sequence[int]) -> Step:
    examples: dict[str, list[str]] = {}
    for why, key in sorted((why, rows[index].key) for index, why in gone.items()):
        if len(shown := examples.setdefault(why, [])) < EXAMPLES:
            shown.append(key)
    return Step(
        filter=name,
        rejected=len(gone),
        reasons=_by_number(gone.values()),
        kept=len(left),
        problems=len({rows[index].problem_id for index in left}),
        by_level=_counts(rows[index].level for index in left),
        by_domain=_counts(rows[index].domain for index in left),
        by_source=_counts(rows[index].source for index in left),
        lengths=_lengths([rows[index].characters for index in left]),
        thinking=_lengths([rows[index].thinking for index in left]),
        examples=examples,
        remarks=_by_number(remark for index in left for at, remark in rows[index].remarks if at == place),
    )


def _lengths(sizes: Sequence[int]) -> Lengths | None:
    if not sizes:
        return None
    doublings = Counter(size.bit_length() for size in sizes)
    return Lengths(
        mean=statistics.fmean(sizes),
        median=statistics.median(sizes),
        longest=max(sizes),
        doublings=tuple(doublings[bits] for bits in range(max(doublings) + 1)),
    )


def _by_number(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _counts(values: Iterable[str]) -> dict[str, int]:
    counted = Counter(values)
    return {value: counted[value] for value in sorted(counted) if value or len(counted) > 1}
