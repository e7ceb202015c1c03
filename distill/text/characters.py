"""Characters that look like others: one form for digits, signs and operators, so that answers can be compared."""

from __future__ import annotations

import re
import unicodedata

_AS = {
    "-": "\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d",  # minus sign, hyphens, dashes
    "": "\u200b\u200c\u200d\u2060\u2061\u2062\u2063\ufeff\u00ad\u200e\u200f",  # zero-width, direction, soft hyphen
    "/": "\u2044\u2215÷",
    ",": "\u060c\u066c\u3001",
    ".": "\u066b\u3002",
    "%": "\u066a",
    r"\times ": "×",
    r"\cdot ": "·⋅",
    r"\pi ": "π",
    r"\infty ": "∞",
    r"\sqrt ": "√",
    r"\pm ": "±",
    r"^\circ ": "°",
    r"\le ": "≤",
    r"\ge ": "≥",
    r"\ne ": "≠",
    r"\approx ": "≈",
    r"\in ": "∈",
    r"\cup ": "∪",
    r"\cap ": "∩",
    r"\emptyset ": "∅",
}
_TABLE = {ord(char): plain for plain, chars in _AS.items() for char in chars}
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")
_LOWERED = re.compile("[₀-₉₊₋]+")
_VULGAR = re.compile("([0-9]?)([¼-¾⅐-⅞])")

_LATIN = {
    **dict(zip("АВЕКМНОРСТХасеорх", "ABEKMHOPCTXaceopx", strict=True)),  # Cyrillic
    **dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEZHIKMNOPTYXo", strict=True)),  # Greek
}


def plain_characters(text: str) -> str:
    """The text with look-alike characters as what they look like; ASCII text is returned as it is.

    Full-width, Arabic and other digits, minus signs, fractions and operators get their ASCII or LaTeX form,
    superscripts become powers, zero-width characters go.

    >>> plain_characters("x² ≤ −½"), plain_characters("１２٣")
    ('x^{2} \\\\le  -1/2', '123')
    """
    if text.isascii():
        return text
    text = _VULGAR.sub(_spelled, text)
    text = _RAISED.sub(lambda m: f"^{{{_folded(m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{_folded(m[0])}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_TABLE))
    return text if text.isascii() else "".join(_digit(char) for char in text)


def latin_look_alike(letter: str) -> str | None:
    """The Latin letter that a single Cyrillic or Greek letter looks like, or None."""
    return _LATIN.get(letter)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("\u2212", "-")


def _spelled(match: re.Match[str]) -> str:
    """`2½` as `2 1/2`."""
    top, _, bottom = unicodedata.normalize("NFKC", match[2]).partition("\u2044")
    return f"{match[1]}{' ' if match[1] else ''}{top}/{bottom}"


def _digit(char: str) -> str:
    return str(unicodedata.digit(char)) if char.isdigit() and not char.isascii() else char
