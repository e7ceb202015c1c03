"""The four kinds of plot in a report, drawn by matplotlib as inline SVG whose colours and font are the page's own.

Every colour in the drawing is a stand-in that is replaced by a CSS variable, so one drawing serves light, dark and
print. Series differ in shape and dash as well as in colour. The same input gives the same text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 400
"""Drawing units; about the width on a phone and of half a desktop page, so that text keeps its size."""

_INK, _MUTED, _GRID, _PAPER = "#010101", "#020202", "#030303", "#040404"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _PAPER: "--paper"} | {
    colour: f"--series-{place}" for place, colour in enumerate(_SERIES, start=1)
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1)), (0, (9, 3)))


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
    """A curve; lines of one label share colour and dash and are named once."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    series: int = 0


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
            colour = _SERIES[point.series]
            if point.low is not None and point.high is not None:
                axes.hlines(place, point.low, point.high, color=colour, linewidth=2.2)
            axes.plot([point.value], [place], _MARKERS[point.series], color=colour, markersize=6.5, clip_on=False)
        if reference is not None:
            axes.axvline(reference, color=_MUTED, linewidth=1)
        _rows(axes, [point.label for point in points], [point.text for point in points])
        axes.set_xlim(limits)
        axes.set_xlabel(_short(xlabel, 48))

    return _svg(name, alt, 46 + 25 * len(points), draw)


def bars(name: str, alt: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars with their values at the right edge; no axis, the numbers say it."""

    def draw(axes: Axes) -> None:
        for place, row in enumerate(rows):
            axes.barh(place, row.value, height=0.62, color=_SERIES[row.series])
        _rows(axes, [row.label for row in rows], [row.text for row in rows])
        axes.set_xlim(0, max((row.value for row in rows), default=1) or 1)
        axes.grid(False)
        axes.set_xticks([])

    return _svg(name, alt, 14 + 24 * len(rows), draw)


def boxes(name: str, alt: str, rows: Sequence[Box], xlabel: str) -> str:
    """Box plots on their side: the middle half as a box, the middle 90% as a line, the median marked."""

    def draw(axes: Axes) -> None:
        longest = max(row.quantiles[-1] for row in rows)
        for place, row in enumerate(rows):
            colour = _SERIES[row.series]
            q05, q25, q50, q75, q95 = row.quantiles
            axes.hlines(place, q05, q95, color=colour, linewidth=1.4)
            axes.barh(
                place, q75 - q25, left=q25, height=0.5, color=colour, edgecolor=colour, linewidth=1.4, clip_on=False
            )
            if q75 - q25 > 0.03 * longest:  # in a narrower box the mark would cover all there is
                axes.vlines(q50, place - 0.25, place + 0.25, color=_PAPER, linewidth=2.2)
        _rows(axes, [row.label for row in rows], [f"{row.quantiles[2]:,.0f}" for row in rows])
        axes.set_xlim(left=0)
        axes.set_xlabel(_short(xlabel, 48))

    return _svg(name, alt, 46 + 25 * len(rows), draw)


def lines(name: str, alt: str, series: Sequence[Line], xlabel: str, ylabel: str) -> str:
    """Curves over a common x, named in a legend above where there are several names."""

    def draw(axes: Axes) -> None:
        named: set[str] = set()
        for line in series:
            label = None if line.label in named else _short(line.label)
            named.add(line.label)
            style: Any = _DASHES[line.series]
            axes.plot(line.xs, line.ys, color=_SERIES[line.series], linestyle=style, linewidth=1.7, label=label)
        axes.grid(axis="x", visible=False)
        axes.grid(axis="y", visible=True)
        axes.set_xlabel(_short(xlabel, 48))
        axes.set_ylabel(ylabel)
        axes.margins(x=0.01)
        axes.locator_params(axis="x", integer=True)
        if len(named) > 1:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2, labelcolor=_INK
            )

    return _svg(name, alt, 215, draw)


def _rows(axes: Axes, labels: Sequence[str], texts: Sequence[str]) -> None:
    """One row a label, first on top; values stand at the right edge, outside the axes."""
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    twin = axes.secondary_yaxis("right")
    twin.set_yticks(range(len(texts)), [_short(text) for text in texts])
    twin.tick_params(length=0, labelcolor=_INK)
    twin.spines["right"].set_visible(False)


def _short(label: str, longest: int = 24) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "distill",
            "text.parse_math": False,  # names are data: a `$` in one is a dollar sign
            "font.size": 11,
            "text.color": _INK,
            "axes.labelcolor": _MUTED,
            "axes.labelsize": 10,
            "axes.edgecolor": _GRID,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "x",
            "axes.axisbelow": True,
            "grid.color": _GRID,
            "grid.linewidth": 0.8,
            "xtick.color": _GRID,
            "ytick.color": _GRID,
            "xtick.labelcolor": _MUTED,
            "ytick.labelcolor": _INK,
            "xtick.labelsize": 10,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "ytick.major.pad": 8,
        }
    ):
        yield


def _svg(name: str, alt: str, height: float, draw: Callable[[Axes], None]) -> str:
    """Run `draw` on fresh axes; the SVG has ids of its own (`name` is unique in a page) and the page's colours."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        about = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=about)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', rf"<svg {_aria(alt)} \1>", text, count=1)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|xlink:href="#)', rf"\1{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return re.sub(r"\n\s*", " ", text).strip()


def _aria(alt: str) -> str:
    from html import escape

    return f'class="plot" role="img" aria-label="{escape(alt, quote=True)}"'
