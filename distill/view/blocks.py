r"""Model text as blocks that a page builds: paragraphs, headings, code, and maths between $, $$, \( \) and \[ \].

Only what helps reading is understood; everything else stays as it was written, line breaks too. What is opened must be
closed within some thousand characters, so that a hostile text takes about as long as any other of its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Part = dict[str, Any]
"""{"text"}, {"strong"}, {"code"}, or {"math": as written, "display": bool, "tree": MathNode or None}."""
Block = dict[str, Any]
"""{"kind": "text" or "heading", "parts"}, or {"kind": "code", "language", "text"}."""

Render = Callable[[Sequence[tuple[str, bool]]], Sequence[Any]]
"""`maths.Renderer.render`."""

DISPLAYED, INLINE, BOXED, MARKED = 6000, 1000, 300, 300
"""Most characters of a displayed formula, an inline one, a bare box, and of bold text or code in a line."""

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n`]*)$", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S[^\n]*)$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*\n\s*")
_BRACE = re.compile(r"[{}]")
_ENVIRONMENTS = (
    "align|aligned|alignat|array|bmatrix|cases|eqnarray|equation|gather|gathered|matrix|multline|pmatrix|split|vmatrix"
)
_OPENINGS = re.compile(
    rf"(?P<display>\\\[|\$\$)|(?P<inline>\\\(|\$)|(?P<environment>\\begin\{{(?:{_ENVIRONMENTS})\*?\}})"
    r"|(?P<boxed>\\boxed\{)|(?P<code>`+)|(?P<strong>\*\*(?=\S))|(?P<escaped>\\.)"
)
_CLOSINGS = {"\\[": "\\]", "$$": "$$", "\\(": "\\)"}


def blocks(text: str, render: Render) -> list[Block]:
    """The text in order; its formulas are rendered together."""
    formulas: list[tuple[str, Part]] = []
    found = [block for stretch in _fenced(text) for block in _unfenced(stretch, formulas)]
    trees = render([(source, part["display"]) for source, part in formulas])
    for (_, part), tree in zip(formulas, trees, strict=True):
        part["tree"] = tree
    return found


def _fenced(text: str) -> Iterator[str | Block]:
    """Code between fences as blocks, what stands between them as text. A fence that never closes runs to the end."""
    place = 0
    while (opening := _FENCE.search(text, place)) is not None:
        yield text[place : opening.start()]
        mark = opening[1]
        closing = re.compile(rf"^ {{0,3}}{re.escape(mark[0])}{{{len(mark)},}}[ \t]*$", re.MULTILINE)
        end = closing.search(text, opening.end())
        code = text[opening.end() + 1 : end.start() if end else len(text)]
        yield {"kind": "code", "language": opening[2].strip(), "text": code.rstrip("\n")}
        place = end.end() if end else len(text)
    yield text[place:]


def _unfenced(stretch: str | Block, formulas: list[tuple[str, Part]]) -> Iterator[Block]:
    if isinstance(stretch, dict):
        yield stretch
        return
    for number, piece in enumerate(_HEADING.split(stretch)):  # text and headings take turns
        if number % 2:
            yield {"kind": "heading", "parts": list(_parts(piece, formulas))}
        else:
            yield from _paragraphs(_parts(piece, formulas))


def _paragraphs(parts: Iterator[Part]) -> Iterator[Block]:
    """Parts in paragraphs: text breaks at blank lines, formulas do not."""
    gathered: list[Part] = []
    for part in parts:
        first, *others = _BLANK.split(part["text"]) if "text" in part else [""]
        gathered.append({"text": first} if "text" in part else part)
        for text in others:
            yield from _paragraph(gathered)
            gathered = [{"text": text}]
    yield from _paragraph(gathered)


def _paragraph(parts: list[Part]) -> Iterator[Block]:
    if parts and "text" in parts[0]:
        parts[0] = {"text": parts[0]["text"].lstrip("\n")}
    if parts and "text" in parts[-1]:
        parts[-1] = {"text": parts[-1]["text"].rstrip()}
    kept = [part for part in parts if part.get("text") != ""]
    if kept:
        yield {"kind": "text", "parts": kept}


def _parts(text: str, formulas: list[tuple[str, Part]]) -> Iterator[Part]:
    place = start = 0  # text from `start` on is not given yet
    while (opening := _OPENINGS.search(text, place)) is not None:
        place = opening.end()
        found = _formula(text, opening) or _marked(text, opening)
        if found is None:
            continue
        part, source, end = found
        if opening.start() > start:
            yield {"text": text[start : opening.start()]}
        if "math" in part:
            formulas.append((source, part))
        yield part
        place = start = end
    if start < len(text):
        yield {"text": text[start:]}


def _formula(text: str, opening: re.Match[str]) -> tuple[Part, str, int] | None:
    """The formula that this opens, its LaTeX, and where it ends; None if it opens none."""
    mark, begin, kind = opening[0], opening.end(), opening.lastgroup
    if kind in ("display", "environment"):
        closing = _CLOSINGS.get(mark) or mark.replace("\\begin", "\\end")
        end = text.find(closing, begin, begin + DISPLAYED)
    elif kind == "inline":
        closing = _CLOSINGS.get(mark, mark)
        end = _dollar(text, begin) if mark == "$" else text.find(closing, begin, begin + INLINE)
    elif kind == "boxed":
        closing, end = "}", _brace(text, begin)
    else:
        return None
    if end < 0 or not text[begin:end].strip():
        return None
    written = text[opening.start() : end + len(closing)]
    source = written if kind in ("environment", "boxed") else text[begin:end].strip()
    return {"math": written, "display": kind in ("display", "environment")}, source, end + len(closing)


def _marked(text: str, opening: re.Match[str]) -> tuple[Part, str, int] | None:
    """The bold text or code that this opens."""
    kind, mark, begin = opening.lastgroup, opening[0], opening.end()
    if kind not in ("code", "strong"):
        return None
    end = text.find(mark, begin, begin + MARKED)
    if end <= begin or "\n" in text[begin:end]:
        return None
    if kind == "strong" and ("$" in text[begin:end] or "\\" in text[begin:end]):
        return None  # the formula in it is worth more than the bold
    return {kind: text[begin:end]}, "", end + len(mark)


def _dollar(text: str, begin: int) -> int:
    """Where `$...$` ends, by pandoc's rule: no space inside the dollars, no digit after: `$5 and $6` is money."""
    if text[begin : begin + 1].isspace():
        return -1
    end = text.find("$", begin, begin + INLINE)
    while end > begin and text[end - 1] == "\\":
        end = text.find("$", end + 1, begin + INLINE)
    if end <= begin or text[end - 1].isspace() or text[end + 1 : end + 2].isdigit() or "\n\n" in text[begin:end]:
        return -1
    return end


def _brace(text: str, begin: int) -> int:
    """Where the brace ends that was opened before `begin`; -1 if it does not soon."""
    depth = 1
    for brace in _BRACE.finditer(text, begin, begin + BOXED):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return -1
