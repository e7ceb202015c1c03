"""Where the final answer stands in a text that is no mathematics: a box, a marked line, or the whole text."""

from __future__ import annotations

import re
from typing import Literal

from distill.text.answers import boxes
from distill.text.characters import plain_characters

Where = Literal["auto", "whole", "boxed", "last_line", "tag"]

_MARKED = re.compile(
    r"^[\s*_#>-]*(?:the\s+)?(?:final\s+)?answer\s*(?:is|:)[\s*_]*:?\s*(.+?)[\s*_]*$", re.IGNORECASE | re.MULTILINE
)
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def final_answer(text: str, where: Where = "auto") -> str | None:
    r"""The final answer in a text; None where it is not in that place.

    `auto` takes an `<answer>` tag, the last box, a line `Answer: ...`, else the whole text.

    >>> final_answer("So.\n**Answer:** Paris"), final_answer("Paris"), final_answer(r"\boxed{7}", "tag")
    ('Paris', 'Paris', None)
    """
    stripped = text.strip()
    if where == "whole":
        return stripped
    if where in ("auto", "tag") and (tags := _TAG.findall(text)):
        return str(tags[-1]).strip()
    if where in ("auto", "boxed") and (found := boxes(text)):
        return found[-1].content.strip()
    if where == "last_line":
        return stripped.splitlines()[-1].strip() if stripped else None
    if where != "auto":
        return None
    marked = _MARKED.findall(text)
    return str(marked[-1]).strip() if marked else stripped


_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\,|,|\u202f|\u00a0)(?=\d{3}(?!\d))")
_POWER = re.compile(r"\s*(?:\\times|\\cdot|[x×*·])\s*10\s*\^\s*\{?\s*(?P<power>[-+−]?\d+)\s*\}?")
_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")


def numbers_in(text: str) -> list[str]:
    r"""Decimal numbers in a text as Python writes them: thousands separators go, powers of ten become exponents.

    >>> numbers_in(r"about $-1{,}234.5 \times 10^{-3}$ m"), numbers_in("3 to 4"), numbers_in("v2 of x1")
    (['-1234.5e-3'], ['3', '4'], [])
    """
    text = _THOUSANDS.sub("", plain_characters(text))
    found = []
    at = 0
    while (match := _NUMBER.search(text, at)) is not None:
        at = match.end()
        number = match[0].replace("−", "-")
        power = _POWER.match(text, at)
        if power is not None and "e" not in number.lower():
            number, at = f"{number}e{power['power'].replace('−', '-')}", power.end()
        found.append(number)
    return found
