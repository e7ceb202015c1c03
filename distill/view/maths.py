"""LaTeX to MathML, as a tree of known elements that a page can build node by node.

Formulas are model text, so hostile: they are converted in a process that is killed when one takes too long, and what
comes back is copied element by element through a list of MathML names. What cannot be converted is None, and is shown
as it was written.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from html import unescape
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

from distill.core.workers import Limits, Workers

MathNode = list[Any]
"""[name, attributes, children]; a child is a node or text."""

MOST_CHARACTERS = 4000
DEEPEST = 60
"""Of elements in a tree."""
MOST_NODES = 5000
PATIENCE_S = 3.0
"""For all formulas of one text together; those that are left are shown as they were written."""
CHUNK = 8
KEPT = 20_000

ELEMENTS = frozenset({
    "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle", "mpadded",
    "mphantom", "menclose", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts", "mprescripts",
    "none", "mtable", "mtr", "mtd", "merror",
})  # fmt: skip
"""What a tree may hold: MathML without links, events, foreign content or annotations."""

ATTRIBUTES = frozenset({
    "accent", "accentunder", "columnalign", "columnlines", "columnspan", "depth", "dir", "display", "displaystyle",
    "fence", "form", "height", "largeop", "linethickness", "lspace", "mathsize", "mathvariant", "maxsize", "minsize",
    "movablelimits", "notation", "rowlines", "rowspacing", "rowspan", "rspace", "scriptlevel", "separator", "stretchy",
    "symmetric", "voffset", "width",
})  # fmt: skip
"""No href, style, class, id, events, and no colours, which would vanish on a dark page."""


class Renderer:
    """Converts formulas in one process of its own and remembers what became of them; for several threads."""

    def __init__(self) -> None:
        limits = Limits(cpu_s=0.25, wall_s=10.0, memory_mib=512)
        self._workers = Workers("distill.view.maths:convert", count=1, limits=limits)
        self._known: OrderedDict[tuple[str, bool], MathNode | None] = OrderedDict()
        self._lock = threading.Lock()

    def render(self, formulas: Sequence[tuple[str, bool]]) -> list[MathNode | None]:
        """The tree of each (LaTeX, display) in order; None where there is none, or no time was left."""
        with self._lock:
            due_s = time.monotonic() + PATIENCE_S
            new = [f for f in dict.fromkeys(formulas) if f not in self._known and len(f[0]) <= MOST_CHARACTERS]
            for start in range(0, len(new), CHUNK):
                if time.monotonic() > due_s:
                    break
                chunk = new[start : start + CHUNK]
                for formula, outcome in zip(chunk, self._workers.map(chunk), strict=True):
                    self._known[formula] = outcome.value
            trees = [self._known.get(formula) for formula in formulas]
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
            return trees

    def close(self) -> None:
        """End the process."""
        self._workers.close()


def convert(formula: tuple[str, bool]) -> MathNode | None:
    """One (LaTeX, display) as a tree. Runs in the worker, whose limits end whatever does not end by itself."""
    latex, display = formula
    mode = "block" if display else "inline"
    try:
        tree = Converter(display=mode).convert_to_element(latex)
    except Exception:  # the package raises what its parser stumbles over (IndexError, StopIteration ...): not LaTeX
        return None
    budget = [MOST_NODES]
    return clean(tree, budget)


def clean(element: Element, budget: list[int], depth: int = 0) -> MathNode | None:
    """A copy of known elements and attributes only; None if anything else is in it, or too much, or too deep.

    `budget` holds how many elements may still come.
    """
    budget[0] -= 1
    if element.tag not in ELEMENTS or depth > DEEPEST or budget[0] < 0:
        return None
    attributes = {name: value for name, value in element.attrib.items() if name in ATTRIBUTES}
    # latex2mathml writes signs as `&#x02212;`, which is text here, not markup.
    children: list[Any] = [unescape(element.text)] if element.text else []
    for child in element:
        copied = clean(child, budget, depth + 1)
        if copied is None:
            return None
        children.append(copied)
    return [element.tag, attributes, children]
