r"""Markdown that says what it was told to: text of others is escaped, whatever it holds.

Cards are Jinja templates. Everything that a template prints is escaped as text of a paragraph or a table's cell, unless
it is `Markdown`, which the functions here make: a template cannot forget to.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.text.visible import visible

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"

_SPECIAL = re.compile(
    r"""([\\`*<|$~]          # code, emphasis, HTML, cells, formulas, struck out
    |(?<![^\W_])_|_(?![^\W_])  # emphasis, where it is not inside a word
    |\](?=[(\[:])            # the middle of a link
    |\[(?=\^)                # footnotes
    |&(?=\#|\w+;)            # entities
    |@(?=[\w-]+\.))          # mail addresses""",
    re.VERBOSE,
)
_AT_START = re.compile(r"^(?:([-+>#=:])|(\d{1,9})([.)])(?=\s|$))")
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)")


class Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def inline(text: object) -> Markdown:
    r"""Any text as text: in one line, with no mark-up of its own, and nothing that a renderer would make a link of.

    >>> inline("a_b | <c>")
    'a_b \\| \\<c>'
    """
    escaped = _escaped(text)
    escaped = _AT_START.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", escaped)
    return Markdown(f"{escaped[:-1]}\\]" if escaped.endswith("]") else escaped)


def _escaped(text: object) -> str:
    """Any text for the middle of a line."""
    escaped = _SPECIAL.sub(r"\\\1", one_line(str(text)))
    return _ADDRESS.sub(lambda found: f"{found[0]}\\", escaped)


def code(text: object) -> Markdown:
    """Any text as an inline code span, in a paragraph or a table's cell.

    A `|` would end a cell even there, so it is written as the character that looks like it (U+2502).
    """
    plain = one_line(str(text)).replace("|", "\u2502")
    if not plain:
        return Markdown("")
    longest = max((len(run) for run in re.findall("`+", plain)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if plain[0] == "`" or plain[-1] == "`" or not plain.strip() else ""
    return Markdown(f"{fence}{pad}{plain}{pad}{fence}")


def block(text: str, language: str = "") -> Markdown:
    """Any text as a fenced block of code, as it is but for characters that nobody sees."""
    shown = visible(text).rstrip("\n")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}{language}\n{shown}\n{fence}")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> Markdown:
    """A table; cells are escaped unless they are `Markdown`. Columns in `right` are aligned to the right."""
    rules = ["---:" if place in right else "---" for place in range(len(heads))]
    lines = [[_in_table(head) for head in heads], rules, *([_in_table(cell) for cell in row] for row in rows)]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def bullets(items: Sequence[object]) -> Markdown:
    """A list."""
    return Markdown("\n".join(f"- {_cell(item)}" for item in items))


def link(text: object, url: str) -> Markdown:
    """A link to a public page."""
    return Markdown(f"[{inline(text)}](<{url}>)" if re.fullmatch(r"https://[^\s<>\\]+", url) else inline(text))


def joined(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def one_line(text: str) -> str:
    """A text in one line: spaces and breaks of any kind are one space, what cannot be seen is shown."""
    flat = visible("".join(" " if _is_space(char) else char for char in text))
    return " ".join(flat.split())


def render(template: str, facts: dict[str, Any]) -> str:
    """A card's text from a template of this package; runs of empty lines become one, and the end is one line break."""
    text = _environment().get_template(template).render(**facts)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        finalize=_cell,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # the output is no HTML; `finalize` escapes
    )


def _cell(value: object) -> str:
    return value if isinstance(value, Markdown) else inline(value)


def _in_table(value: object) -> str:
    """A cell of a table: no line begins or ends in it."""
    return value if isinstance(value, Markdown) else _escaped(value)


def _is_space(char: str) -> bool:
    return char.isspace() or unicodedata.category(char) in ("Zs", "Zl", "Zp")
