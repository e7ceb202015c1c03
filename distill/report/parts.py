"""What a page is made of: sections of figures, tables, examples and texts. A figure always has its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill.report import table

Row = Mapping[str, Any]

UNWRAPPED = 24
"""Characters of a cell that stays on one line: a name, a verdict."""


@dataclass(frozen=True)
class Table:
    """Numbers under or beside a plot, or on their own. `folded`: behind a line to click on."""

    rows: Sequence[Row]
    title: str = ""
    folded: bool = False

    @property
    def columns(self) -> list[str]:
        """Column names."""
        return list(self.rows[0])

    def numeric(self, column: str) -> bool:
        """Whether a column stands right; the first names its row and never does."""
        return column != self.columns[0] and table.is_numeric(self.rows, column)

    def style(self, row: Row, column: str) -> str:
        """The class of a cell: `n` a number, `s` a text so short that it is not wrapped; empty for others."""
        if self.numeric(column):
            return "n"
        return "s" if len(self.text(row, column)) <= UNWRAPPED else ""

    def text(self, row: Row, column: str) -> str:
        """One cell."""
        return table.text_of(row[column])


@dataclass(frozen=True)
class Figure:
    """A plot (SVG text) with its numbers."""

    title: str
    svg: str
    numbers: Table
    wide: bool = False
    """The table needs the page's whole width: it stands below its plot, not beside it."""

    @property
    def beside(self) -> bool:
        """Whether it stands beside other figures, its numbers folded under it."""
        return self.numbers.folded


@dataclass(frozen=True)
class Shown:
    """One answer to a shown problem: whose it is, how it ended, and a remark such as its length."""

    label: str
    reasoning: str | None
    answer: str
    outcome: str
    remark: str = ""


@dataclass(frozen=True)
class Example:
    """A problem with one or several answers, and why it was chosen."""

    why: str
    problem: str
    gold: str
    answers: Sequence[Shown]


@dataclass(frozen=True)
class Section:
    """One chapter of the page: what it shows in a sentence or two, then figures and tables, examples, texts."""

    id: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()
    examples_title: str = ""
    """Examples stand behind a line with this text; empty: they stand open."""
    texts: Sequence[tuple[str, str]] = ()
    """Preformatted texts with their titles."""
