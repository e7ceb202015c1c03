"""The kinds of plot in a report, drawn by matplotlib. Series differ in shape and dash as well as in colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill.report.svg import GRID, INK, MUTED, PAPER, colour_of, dash_of, drawing, marker_of, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKED = 24
"""A line of at most so many points has a marker at each."""


@dataclass(frozen=True)
class Point:
    """A value with its interval (None where there is none). `series` picks colour and shape."""

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    series: int = 0


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to `value`, with `text` at its end; `series` picks its colour."""

    label: str
    value: float
    text: str
    series: int = 0


@dataclass(frozen=True)
class Box:
    """Quantiles of a distribution: 5, 25, 50, 75 and 95%."""

    label: str
    quantiles: tuple[float, float, float, float, float]
    series: int = 0


@dataclass(frozen=True)
class Line:
    """A curve, with an interval at each point where there are any; lines of one label share colour and dash and are
    named once.
    """

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    series: int = 0
    lows: tuple[float, ...] = ()
    highs: tuple[float, ...] = ()


def dots(
    name: str,
    alt: str,
    points: Sequence[Point],
    xlabel: str,
    *,
    limits: tuple[float, float],
    reference: float | None = None,
) -> str:
    """One line a point: marker, interval, and its value in words at the right edge; an upright line at `reference`."""

    def draw(axes: Axes) -> None:
        for place, point in enumerate(points):
            _mark(axes, point, place)
        if reference is not None:
            axes.axvline(reference, color=MUTED, linewidth=1)
        _rows(axes, [point.label for point in points], [point.text for point in points])
        axes.set_xlim(limits)
        axes.set_xlabel(short(xlabel, 48))

    return drawing(name, alt, 46 + 25 * len(points), draw)


def groups(
    name: str,
    alt: str,
    rows: Sequence[tuple[str, Sequence[Point]]],
    xlabel: str,
    *,
    limits: tuple[float, float],
) -> str:
    """Several points a row, one under the other; a point's label names its series in the legend above."""
    most = max(len(points) for _, points in rows)
    named = {point.label: point.series for _, points in rows for point in points}

    def draw(axes: Axes) -> None:
        step = 0.72 / most
        for place, (_, points) in enumerate(rows):
            for at, point in enumerate(points):
                _mark(axes, point, place + (at - (len(points) - 1) / 2) * step, small=True)
            if place:
                axes.axhline(place - 0.5, color=GRID, linewidth=0.8)
        _rows(axes, [label for label, _ in rows], [])
        axes.set_xlim(limits)
        axes.set_xlabel(short(xlabel, 48))
        _legend(axes, [(label, marker_of(series), "none", series) for label, series in named.items()])

    return drawing(name, alt, 50 + (8 + 12 * most) * len(rows) + _legend_height(named), draw)


def bars(name: str, alt: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars with their values at the right edge; no axis, the numbers say it."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            axes.barh(place, row.value, height=0.62, color=colour_of(row.series))
        _rows(axes, [row.label for row in rows], [row.text for row in rows])
        axes.set_xlim(0, max((row.value for row in rows), default=1) or 1)
        axes.grid(False)
        axes.set_xticks([])

    return drawing(name, alt, 14 + 24 * len(rows), draw)


def boxes(name: str, alt: str, rows: Sequence[Box], xlabel: str) -> str:
    """Box plots on their side: the middle half as a box, the middle 90% as a line, the median marked."""

    def draw(axes: Axes) -> None:
        longest = max(row.quantiles[-1] for row in rows)
        for place, row in enumerate(rows):
            colour = colour_of(row.series)
            q05, q25, q50, q75, q95 = row.quantiles
            axes.hlines(place, q05, q95, color=colour, linewidth=1.4)
            axes.barh(
                place, q75 - q25, left=q25, height=0.5, color=colour, edgecolor=colour, linewidth=1.4, clip_on=False
            )
            if q75 - q25 > 0.03 * longest:  # in a narrower box the mark would cover all there is
                axes.vlines(q50, place - 0.25, place + 0.25, color=PAPER, linewidth=2.2)
        _rows(axes, [row.label for row in rows], [f"{row.quantiles[2]:,.0f}" for row in rows])
        axes.set_xlim(left=0)
        axes.set_xlabel(short(xlabel, 48))

    return drawing(name, alt, 46 + 25 * len(rows), draw)


def lines(
    name: str,
    alt: str,
    series: Sequence[Line],
    xlabel: str,
    ylabel: str,
    *,
    log_x: bool = False,
    highest: float | None = None,
) -> str:
    """Curves over a common x, named in a legend above where there are several names. Where no value is below 0 the axis
    is not either, and `highest` is the largest value that there can be. `log_x`: doublings are equally far apart.
    """
    named = {line.label: line.series for line in series}
    few = all(len(line.xs) <= MARKED for line in series)

    def draw(axes: Axes) -> None:
        for line in series:
            colour, style = colour_of(line.series), dash_of(line.series)
            marker: dict[str, Any] = {"marker": marker_of(line.series), "markersize": 5} if few else {}
            axes.plot(
                line.xs,
                line.ys,
                color=colour_of(line.series),
                linestyle=style,
                linewidth=1.7,
                clip_on=not few,
                **marker,
            )
            if line.lows:
                axes.fill_between(line.xs, line.lows, line.highs, color=colour, alpha=0.16, linewidth=0)
        axes.grid(axis="x", visible=False)
        axes.grid(axis="y", visible=True)
        axes.set_xlabel(short(xlabel, 48))
        axes.set_ylabel(ylabel)
        axes.margins(x=0.03 if few else 0.01)
        if log_x:
            _doublings(axes, sorted({x for line in series for x in line.xs}))
        else:
            axes.locator_params(axis="x", integer=True)
        lowest, top = axes.get_ylim()
        if all(y >= 0 for line in series for y in (*line.ys, *line.lows)):
            axes.set_ylim(bottom=max(lowest, 0.0))
        if highest is not None:
            axes.set_ylim(top=min(top, highest))
        if len(named) > 1:
            entries = [(label, marker_of(n) if few else "", dash_of(n), n) for label, n in named.items()]
            _legend(axes, entries)

    return drawing(name, alt, 200 + (_legend_height(named) if len(named) > 1 else 0), draw)


def outlines(
    name: str, alt: str, edges: Sequence[float], series: Sequence[tuple[str, Sequence[float], int]], xlabel: str
) -> str:
    """Histograms over common bins, which double from one to the next, drawn as outlines on top of each other.

    `edges` has one more entry than each series has shares (in %).
    """
    named = {label: place for label, _, place in series}

    def draw(axes: Axes) -> None:
        for _, shares, place in series:
            colour = colour_of(place)
            axes.stairs(shares, range(len(edges)), color=colour, linestyle=dash_of(place), linewidth=1.8, fill=False)
            axes.stairs(shares, range(len(edges)), color=colour, alpha=0.12, fill=True)
        axes.grid(axis="x", visible=False)
        axes.grid(axis="y", visible=True)
        axes.set_xticks(range(len(edges)), [_thousands(edge) for edge in edges])
        axes.set_xlim(0, len(edges) - 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(short(xlabel, 48))
        axes.set_ylabel("share, %")
        _legend(axes, [(label, "", dash_of(place), place) for label, place in named.items()])

    return drawing(name, alt, 190 + _legend_height(named), draw)


def around_zero(marks: Sequence[Point]) -> tuple[float, float]:
    """Limits that hold 0 and every interval, with a margin."""
    ends = [0.0, *(end for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None)]
    margin = 0.05 * (max(ends) - min(ends) or 1.0)
    return min(ends) - margin, max(ends) + margin


def _mark(axes: Axes, point: Point, place: float, *, small: bool = False) -> None:
    colour = colour_of(point.series)
    if point.low is not None and point.high is not None:
        axes.hlines(place, point.low, point.high, color=colour, linewidth=1.8 if small else 2.2)
    size = 5 if small else 6.5
    axes.plot([point.value], [place], marker_of(point.series), color=colour, markersize=size, clip_on=False)


def _rows(axes: Axes, labels: Sequence[str], texts: Sequence[str]) -> None:
    """One row a label, first on top; values stand at the right edge, outside the axes."""
    axes.set_yticks(range(len(labels)), [short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    if texts:
        twin = axes.secondary_yaxis("right")
        twin.set_yticks(range(len(texts)), [short(text) for text in texts])
        twin.tick_params(length=0, labelcolor=INK)
        twin.spines["right"].set_visible(False)


def _doublings(axes: Axes, xs: Sequence[float]) -> None:
    """A logarithmic axis. Where all values are powers of two they are the ticks, else round numbers."""
    axes.set_xscale("log", base=2)
    ticks = list(xs)
    if any(x < 1 or not math.log2(x).is_integer() for x in xs):
        for factors in ((1, 2, 5), (1, 2, 3, 5, 7)):
            steps = [factor * 10.0**power for power in range(-1, 9) for factor in factors]
            ticks = [x for x in steps if xs[0] <= x <= xs[-1]]
            if len(ticks) > 2:
                break
        ticks = ticks or [xs[0], xs[-1]]
    every = -(-len(ticks) // 9)
    axes.set_xticks(ticks[::every], [_thousands(x) for x in ticks[::every]])
    axes.minorticks_off()


def _thousands(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:,.0f}"


_LEGEND_ROW = 17


def _legend(axes: Axes, entries: Sequence[tuple[str, str, Any, int]]) -> None:
    """Names above the plot, in so many columns as fit: (label, marker, dash, series)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour_of(series), marker=marker, markersize=5, linestyle=dash, label=short(label))
        for label, marker, dash, series in entries
    ]
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=_legend_columns([e[0] for e in entries]),
        frameon=False, borderaxespad=0.2, labelcolor=INK, columnspacing=1.4, handlelength=2.4,
    )  # fmt: skip


def _legend_columns(labels: Sequence[str]) -> int:
    longest = max(len(short(label)) for label in labels)
    return max(1, min(len(labels), 62 // (longest + 7)))


def _legend_height(named: dict[str, int]) -> int:
    return _LEGEND_ROW * -(-len(named) // _legend_columns(list(named)))
