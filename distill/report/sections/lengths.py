"""Lengths of the traces before and after filtering."""

from __future__ import annotations

from collections.abc import Sequence

from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.stages.funnel import Lengths


def section(data: RunData) -> Section | None:
    """Distribution of characters, thinking included, in bins that double; and thinking by level."""
    steps = data.taught.funnel
    before, after = (steps[0].lengths, steps[-1].lengths) if steps else (None, None)
    if before is None or not before.doublings or after is None:
        return None
    figures = [_figure("lengths", "Whole answers", before, after)]
    if (thinking := steps[0].thinking) and thinking.longest and (left := steps[-1].thinking):
        figures.append(_figure("lengths-thinking", "Thinking alone", thinking, left))
    by_level = data.taught.statistics.get("thinking_by_level", {})
    rows: list[Row] = [
        {
            "level": level or "-", "traces": about["traces"], "mean characters": round(about["mean"]),
            "median": round(about["median"]),
        }
        for level, about in by_level.items()
    ]  # fmt: skip
    tables = [Table(rows, "Thinking of the kept traces by level", folded=True)] if len(rows) > 1 else []
    lead = "Characters of all answers and of the kept traces, in bins that double from one to the next."
    return Section("lengths", "Lengths", lead, figures, tables)


def _figure(name: str, title: str, before: Lengths, after: Lengths) -> Figure:
    bins = max(len(before.doublings), len(after.doublings))
    drawn = [_shares(length.doublings, bins) for length in (before, after)]
    start = next((place for place in range(bins) if drawn[0][place] or drawn[1][place]), 0)
    edges = [0 if place == 0 else 2 ** (place - 1) for place in range(start, bins + 1)]
    series = [("all answers", drawn[0][start:], 1), ("kept", drawn[1][start:], 0)]
    svg = plots.outlines(name, f"{title}: characters before and after filtering", edges, series, "characters")
    rows: list[Row] = [
        {
            "characters": f"{_from(place)} to {2**place - 1:,}",
            "all answers": _count(before, place), "%": f"{drawn[0][place]:.1f}",
            "kept": _count(after, place), "% of kept": f"{drawn[1][place]:.1f}",
        }
        for place in range(start, bins)
    ]  # fmt: skip
    rows.append({
        "characters": "median", "all answers": round(before.median), "%": "", "kept": round(after.median),
        "% of kept": "",
    })  # fmt: skip
    return Figure(title, svg, Table(rows, "Numbers", folded=True))


def _from(place: int) -> str:
    return f"{0 if place == 0 else 2 ** (place - 1):,}"


def _count(lengths: Lengths, place: int) -> int:
    return lengths.doublings[place] if place < len(lengths.doublings) else 0


def _shares(doublings: Sequence[int], bins: int) -> list[float]:
    total = sum(doublings) or 1
    return [100 * count / total for count in (*doublings, *[0] * (bins - len(doublings)))]
