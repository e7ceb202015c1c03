"""Drawings as inline SVG that belongs to the page: its colours, its font, ids of its own.

Every colour in a drawing is a stand-in that is replaced by a CSS variable, so one drawing serves light, dark and print.
The same input gives the same text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from distill.text.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 400
"""Drawing units; about the width on a phone and of half a desktop page, so that text keeps its size."""

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005", "#0a0006")
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"} | {
    colour: f"--series-{place}" for place, colour in enumerate(_SERIES, start=1)
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)), (0, (3, 1)), (0, (9, 3)))

SERIES = len(_SERIES) ** 2
"""So many series can be told apart in one plot. The first six differ in colour and in shape and dash, later ones from
each other in at least one of them.
"""


def colour_of(series: int) -> str:
    """The stand-in for a series' colour."""
    return _SERIES[series % len(_SERIES)]


def marker_of(series: int) -> str:
    """A series' shape."""
    return _MARKERS[_shape(series)]


def dash_of(series: int) -> Any:
    """A series' line style."""
    return _DASHES[_shape(series)]


def _shape(series: int) -> int:
    """Place of its marker and of its dash: each round of colours shifts them by one."""
    return (series + series // len(_SERIES)) % len(_MARKERS)


def short(label: str, longest: int = 24) -> str:
    """A label that fits, with nothing unseen in it."""
    label = visible(label).replace("\n", " ")
    return label if len(label) <= longest else label[: longest - 1] + "…"


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "distill",
            "text.parse_math": False,  # names are data: a `$` in one is a dollar sign
            "axes.unicode_minus": True,
            "font.size": 11,
            "text.color": INK,
            "axes.labelcolor": MUTED,
            "axes.labelsize": 10,
            "axes.edgecolor": GRID,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "x",
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "legend.fontsize": 10,
            "xtick.color": GRID,
            "ytick.color": GRID,
            "xtick.labelcolor": MUTED,
            "ytick.labelcolor": INK,
            "xtick.labelsize": 10,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "ytick.major.pad": 8,
            "xtick.major.pad": 7,
        }
    ):
        yield


def drawing(name: str, alt: str, height: float, draw: Callable[[Axes], None]) -> str:
    """Run `draw` on fresh axes; the SVG has ids of its own (`name` is unique in a page) and the page's colours."""
    from matplotlib.figure import Figure

    name = re.sub(r"[^\w-]+", "-", name)
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
    return f'class="plot" role="img" aria-label="{escape(visible(alt), quote=True)}"'
