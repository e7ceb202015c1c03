"""Rows as a table, in the terminal and as Markdown. A row maps column to text; all rows have the same columns."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from distill.text.visible import visible

_WORD = re.compile(r"[^\W\d_]{2,}")
"""More than a unit or two, and a cell is a sentence that begins with a number."""
_ESCAPED = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": " ", "<": "&lt;"})
"""For a cell of Markdown: what would end it, and what would open a tag."""

Rows = Sequence[Mapping[str, Any]]


def show(rows: Rows, title: str | None = None) -> None:
    """Print rows to stdout; numbers and intervals stand right. Not wrapped where stdout is a file or a pipe."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in rows[0]:
        right = column != next(iter(rows[0])) and is_numeric(rows, column)
        table.add_column(Text(column), justify="right" if right else "left")
    for row in rows:
        table.add_row(*(Text(text_of(row[column])) for column in rows[0]))  # Text: `[79, 86]` is no markup
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = max(console.width, Measurement.get(console, console.options.update(width=1000), table).maximum)
    with console.capture() as captured:
        console.print(table)
    click.echo(captured.get(), nl=False)  # rich would end the process itself where a reader has closed the pipe


def markdown(rows: Rows) -> str:
    """Rows as a Markdown table, one line a row."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [_line(columns), _line(["---:" if is_numeric(rows, column) else "---" for column in columns])]
    lines += [_line([text_of(row[column]) for column in columns]) for row in rows]
    return "\n".join(lines) + "\n"


def text_of(value: Any) -> str:
    """A cell as text: counts with thousands separators, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def is_numeric(rows: Rows, column: str) -> bool:
    """Whether a column holds numbers (with units, intervals or signs around them) and nothing else."""
    texts = [text for text in (text_of(row[column]) for row in rows) if text not in ("", "-")]
    return bool(texts) and all(text.lstrip("+-−< ")[:1].isdigit() and len(_WORD.findall(text)) < 3 for text in texts)


def _line(cells: Sequence[str]) -> str:
    escaped = [visible(cell).translate(_ESCAPED) for cell in cells]
    return f"| {' | '.join(escaped)} |"
