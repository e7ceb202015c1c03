"""The shape of an answer: a list, set, tuple, interval, union, matrix, relation, or one expression. Pure string work.

Splits at commas, relation signs, unions and brackets that stand at the outermost level; what it cannot take apart is
one expression. Linear in the text for each level of brackets, and levels are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from distill.text.readings import clean

Kind = Literal["expression", "list", "set", "tuple", "union", "relation", "matrix"]
MAX_LEVELS = 12
"""Brackets deeper than this are left in one expression."""
MAX_PARTS = 200
"""A list of more parts than this is left as one expression."""


@dataclass(frozen=True)
class Shape:
    """An answer taken apart. `text` is all of it, cleaned.

    `marks`: the brackets of a tuple or interval (`[)`), the signs of a relation, the size of a matrix (`2x3`).
    """

    kind: Kind
    text: str
    parts: tuple[Shape, ...] = ()
    marks: tuple[str, ...] = ()


@lru_cache(maxsize=8192)
def shape(text: str) -> Shape:
    """The shape of an answer as it was written. Never fails.

    >>> shape("[0, 1)").marks, shape("x < 3").marks, [part.text for part in shape("{1, 2}").parts]
    (('[', ')'), ('<',), ['1', '2'])
    """
    return _shape(clean(text), 0)


def listed(text: str) -> Shape:
    """A text read as a list at its commas, even where they could be thousands separators: `100,200,300`."""
    pieces = [piece.strip() for piece in text.split(",")]
    return Shape("list", text, tuple(Shape("expression", piece) for piece in pieces))


def squeezed(text: str) -> str:
    """The text without spaces that mean nothing: all but those between two letters or digits."""
    return _SPACES.sub("", text.strip())


def is_name(text: str) -> bool:
    """Whether the left side of an equation only says what its right side is: `x`, `f(x)`, `AB`, `m\\angle B`."""
    return _NAME.fullmatch(text.strip()) is not None


def variables(text: str) -> set[str]:
    """The letters (with subscripts) of an expression, functions and other commands aside."""
    return set(_VARIABLE.findall(_COMMANDS.sub(" ", text)))


_SPACES = re.compile(r"(?<![A-Za-z0-9])\s+|\s+(?![A-Za-z0-9])")
_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[A-Za-z]+\*?\}|\\[A-Za-z]+|\\.|[^\\]", re.DOTALL)
_OPEN = {"(": ")", "[": ")", "{": "}", r"\{": r"\}", r"\lfloor": "f", r"\lceil": "c", r"\langle": ")"}
_CLOSE = {")": ")", "]": ")", "}": "}", r"\}": r"\}", r"\rfloor": "f", r"\rceil": "c", r"\rangle": ")"}
_ARROWS = {r"\implies", r"\Rightarrow", r"\Longrightarrow", r"\iff", r"\Leftrightarrow"}
_SIGNS = {sign: sign for sign in ("=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\equiv", r"\sim")}
_OUTWARD = re.compile(r"\](?P<low>[^\[\](){},;]+)[,;](?P<high>[^\[\](){},;]+)\[")
_MATRIX = re.compile(
    r"[(\[]?\s*\\begin\s*\{(?P<name>[pb]?matrix|smallmatrix|array|cases|aligned|gathered)\}(?P<body>.*)"
    r"\\end\s*\{(?P=name)\}\s*[)\]]?",
    re.DOTALL,
)
_COLUMNS = re.compile(r"\s*\{[lcr|\s]*\}")
_BUILDER = re.compile(r"\\mid(?![a-z])|\||:")
_THOUSANDS = re.compile(r"(?<![0-9])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9])")
_ONE_NAME = (
    r"(?:\\(?:vec|hat|bar|overline|mathbf|mathrm|mathcal|mathbb|operatorname|text|tilde|widehat|overrightarrow)\s*\{[^{}]*\}"
    r"|\\(?!frac|sqrt|sin|cos|tan|log|ln|sum|prod|int|lim)[a-z]+(?![A-Za-z])|[A-Z]{1,4}|[a-z]|[A-Za-z][a-z]{2,20})"
)
_SUBSCRIPT = r"(?:_\s*(?:\{[^{}]*\}|[A-Za-z0-9]))?(?:'*|\^\s*(?:\{\s*-1\s*\}|\*|\{\s*\*\s*\}))"
_NAME = re.compile(
    rf"(?:m\s*)?(?:\\(?:angle|triangle|measuredangle|arc|overarc)\s*)?{_ONE_NAME}{_SUBSCRIPT}(?:\s*[(\[][^()\[\]]*[)\]])?"
    rf"|\|\s*{_ONE_NAME}{_SUBSCRIPT}\s*\||[A-Za-z]\s*:\s*[A-Za-z]|\[[A-Z]{{3,8}}\]"
    rf"|\(\s*[A-Za-z]{_SUBSCRIPT}(?:\s*,\s*[A-Za-z]{_SUBSCRIPT})+\s*\)|\\frac\s*\{{d[a-z]\}}\s*\{{d[a-z]\}}"
)
_COMMANDS = re.compile(
    r"\\(?:text|mbox|mathrm|operatorname|begin|end)\s*\{[^{}]*\}"
    r"|\\(?:pi|infty)(?![A-Za-z])|\\(?!alpha|beta|gamma|theta|lambda|mu|omega|phi|varphi)[A-Za-z]+"
)
_VARIABLE = re.compile(r"\\?[A-Za-z](?:(?<=\\.)[a-z]+)?(?:_\s*(?:\{[^{}]*\}|[A-Za-z0-9]))?")


def _shape(text: str, level: int) -> Shape:
    text = text.strip()
    if level > MAX_LEVELS:
        return Shape("expression", text)
    outward = _OUTWARD.fullmatch(text)
    if outward:  # ]0, 1[
        ends = (_shape(outward["low"], level + 1), _shape(outward["high"], level + 1))
        return Shape("tuple", text, ends, ("(", ")"))
    pieces = _pieces(text)
    if pieces is None:
        return Shape("expression", text)
    pieces = _after_arrow(pieces)
    text = "".join(pieces).strip()
    return (
        _as_list(text, pieces, level)
        or _as_relation(text, pieces, level)
        or _as_union(text, pieces, level)
        or _as_bracketed(text, pieces, level)
        or _as_matrix(text, level)
        or Shape("expression", text)
    )


def _pieces(text: str) -> list[str] | None:
    """The text cut at its outermost level: single tokens there, whole brackets in one piece. None: not balanced."""
    pieces: list[str] = []
    opened: list[str] = []
    inside: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _OPEN or token.startswith(r"\begin"):
            opened.append(_OPEN.get(token, "end"))
            inside.append(token)
        elif token in _CLOSE or token.startswith(r"\end"):
            if not opened or opened.pop() != _CLOSE.get(token, "end"):
                return None
            inside.append(token)
            if not opened:
                pieces.append("".join(inside))
                inside = []
        elif opened:
            inside.append(token)
        else:
            pieces.append(token)
    return None if opened else pieces


def _after_arrow(pieces: list[str]) -> list[str]:
    """What follows the last `\\implies`."""
    for index in range(len(pieces) - 1, -1, -1):
        if pieces[index] in _ARROWS and "".join(pieces[index + 1 :]).strip():
            return pieces[index + 1 :]
    return pieces


def _cut(pieces: list[str], at: dict[str, str]) -> tuple[list[str], list[str]]:
    """(what stands between the separators, the separators)."""
    parts: list[str] = []
    signs: list[str] = []
    part: list[str] = []
    for piece in pieces:
        if piece in at:
            parts.append("".join(part).strip())
            signs.append(at[piece])
            part = []
        else:
            part.append(piece)
    parts.append("".join(part).strip())
    return parts, signs


def _as_list(text: str, pieces: list[str], level: int) -> Shape | None:
    if "," not in pieces and ";" not in pieces:
        return None
    if _THOUSANDS.fullmatch(text.lstrip("-+ ").partition(".")[0]) and ";" not in text:
        return None  # one number
    parts = _parts(pieces)
    if len(parts) < 2 or len(parts) > MAX_PARTS:
        return _shape(parts[0], level + 1) if len(parts) == 1 and parts[0] != text else None
    return Shape("list", text, tuple(_shape(part, level + 1) for part in parts))


def _parts(pieces: list[str]) -> list[str]:
    """Cut at commas; a tight comma before three digits is a thousands separator where others have a space after."""
    joined = "".join(pieces)
    spaced = re.search(r"[,;]\s", joined) is not None
    marked = [
        "" if spaced and piece == "," and _is_thousands(pieces, index) else piece for index, piece in enumerate(pieces)
    ]
    return [part for part in _cut(marked, {",": ",", ";": ";"})[0] if part]


def _is_thousands(pieces: list[str], index: int) -> bool:
    """Whether exactly three digits follow, and a digit comes before."""
    after = [piece.isdigit() for piece in pieces[index + 1 : index + 5]]
    return after[:3] == [True] * 3 and after[3:] != [True] and index > 0 and pieces[index - 1].isdigit()


def _as_relation(text: str, pieces: list[str], level: int) -> Shape | None:
    exact, approximations = _cut(pieces, {r"\approx": r"\approx"})
    if approximations and all(exact):  # the exact value stands before its approximation
        ends = (_shape(exact[0], level + 1), _shape(exact[-1], level + 1))
        return Shape("relation", text, ends, (r"\approx",))
    parts, signs = _cut(pieces, _SIGNS)
    if not signs or not all(parts):
        return None
    return Shape("relation", text, tuple(_shape(part, level + 1) for part in parts), tuple(signs))


def _as_union(text: str, pieces: list[str], level: int) -> Shape | None:
    parts, signs = _cut(pieces, {r"\cup": r"\cup", r"\bigcup": r"\cup"})
    if not signs or not all(parts) or r"\cap" in pieces or r"\setminus" in pieces:
        return None
    return Shape("union", text, tuple(_shape(part, level + 1) for part in parts))


def _as_bracketed(text: str, pieces: list[str], level: int) -> Shape | None:
    if len(pieces) != 1 or len(text) < 2:
        return None
    for opening, closing in ((r"\{", r"\}"), (r"\langle", r"\rangle"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(opening) and text.endswith(closing):
            inner = text[len(opening) : len(text) - len(closing)].strip()
            break
    else:
        return (
            _shape(text[1:-1], level + 1)
            if text.startswith("{") and text.endswith("}") and text[1:-1].strip()
            else None
        )
    inside = _pieces(inner)
    if inside is None:
        return None
    if opening == r"\{":
        return _set(text, inner, inside, level)
    if "," not in inside and ";" not in inside:
        matrix = _as_matrix(text, level)
        return matrix or (_shape(inner, level + 1) if inner and opening == "(" and closing == ")" else None)
    parts = _parts(inside)
    if len(parts) < 2 or len(parts) > MAX_PARTS:
        return None
    marks = ("(", ")") if opening == r"\langle" else (opening, closing)
    return Shape("tuple", text, tuple(_shape(part, level + 1) for part in parts), marks)


def _set(text: str, inner: str, inside: list[str], level: int) -> Shape | None:
    builder = next((index for index, piece in enumerate(inside) if _BUILDER.fullmatch(piece)), None)
    if builder is not None:  # {x : x > 5} says what x > 5 says
        condition = _shape("".join(inside[builder + 1 :]), level + 1)
        return condition if condition.kind == "relation" else None
    parts = _parts(inside) if inner else []
    return Shape("set", text, tuple(_shape(part, level + 1) for part in parts)) if len(parts) <= MAX_PARTS else None


def _as_matrix(text: str, level: int) -> Shape | None:
    match = _MATRIX.fullmatch(text)
    if match is None or r"\begin" in match["body"]:
        return None
    body = _COLUMNS.sub("", match["body"], count=1) if match["name"] == "array" else match["body"]
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-z])", body.replace(r"\hline", "")) if row.strip()]
    if match["name"] in ("cases", "aligned", "gathered"):
        lines = [_shape(row.replace("&", " ").strip(" ,;"), level + 1) for row in rows]
        return Shape("list", text, tuple(lines)) if all(line.kind == "relation" for line in lines) and lines else None
    cells = [row.split("&") for row in rows]
    if not cells or len({len(row) for row in cells}) > 1 or len(cells) * len(cells[0]) > MAX_PARTS:
        return None
    parts = tuple(_shape(cell, level + 1) for row in cells for cell in row)
    return Shape("matrix", text, parts, (f"{len(cells)}x{len(cells[0])}",))
