"""The option that a multiple-choice answer settles on, where it says so; a letter in passing is no answer."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from distill.text.characters import latin_look_alike

_MARKS = r"(?:[\s*_$({\[\"'`]|\\(?:boxed|text|textbf|mathbf|mathrm)\s*\{)*"
_LETTER = r"(?P<{}>[A-ZА-ЯΑ-Ω])"  # also Cyrillic and Greek capitals, some of which look Latin
# `A man ...` is prose; `A`, `A.` and `A) text` are not.
_END = r"(?![\w'’])(?!\s*(?!(?:or|and)\b)(?:[a-z]\s+)?[a-z]{2})"


def _said(name: str) -> str:
    return _LETTER.format(name)


_CLOSED = r"(?=[\s)\]}.,:;*_$\"'`]|\Z)"
_IS = r"\s*(?:is|was|would be|must be|should be|:|=|-|–)+\s*(?:that\s+)?"
_STATEMENTS = (
    # The answer is (C). Answer: C. Correct option is C. final answer **C**
    r"(?:answer|option|choice)" + _IS + r"(?:option|choice|letter)?\s*:?\s*" + _MARKS + _said("a") + _CLOSED,
    # (C) is the correct answer
    r"(?:option|choice|answer)?\s*\(?" + _said("b") + r"\)?\s+(?:is|seems|must be)\s+(?:the\s+)?"
    r"(?:correct|right|best|true)(?!\s+(?:that|to))",
    # I choose C, select option C
    r"(?:choose|select|pick|go with)\s+(?:option|choice|answer|letter)?\s*" + _MARKS + _said("c") + _CLOSED,
    # \boxed{C}, \boxed{\text{(C)}}
    r"\\(?:boxed|fbox)\s*\{" + _MARKS + _said("d") + r"\s*[)\].:}]",
)
_STATEMENT = re.compile("|".join(f"(?:{pattern})" for pattern in _STATEMENTS), re.IGNORECASE)
_ALONE = re.compile(r"\W*+(?:option|choice|answer)?\W*+" + _said("e") + r"\W*+", re.IGNORECASE)
_LED = re.compile(r"[\s*_]*\(?" + _said("f") + r"(?:\)|[.:](?=\s))\s*\S.*", re.DOTALL)
_SEPARATOR = r"\s*(?:,\s*(?:or\b|and\b)?|/|or\b|and\b|&)\s*"
_OTHERS = re.compile(_SEPARATOR + r"\(?" + _LETTER.format("g") + r"\)?(?![\w'’])")
_LISTED = re.compile(r"\W*+" + _said("h") + r"\)?(?:" + _SEPARATOR + r"\(?[A-Z]\)?)+\W*+")
# A run of one sign or of white space is worth two of them; patterns below may then try them in every way.
_MANY = re.compile(r"(\s|[^\w\s])(?:\1|(?<=\s)\s)+")
_DENIED = re.compile(r"(?:not|isn't|n't be|never)\W*(?:option|choice)?\W*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The letters that an answer settles on, in order; one, unless it hedges. `look_alike`: not written in Latin."""

    letters: tuple[str, ...]
    look_alike: bool = False


def choice_of(text: str) -> Choice | None:
    r"""The last option that a text states as its answer, or that it consists of; None where there is none.

    >>> choice_of("Not (A). The answer is (C)."), choice_of("A man has four dogs."), choice_of("\\boxed{B}")
    (Choice(letters=('C',), look_alike=False), None, Choice(letters=('B',), look_alike=False))
    >>> choice_of("The answer is A or B.").letters
    ('A', 'B')
    """
    text = _MANY.sub(r"\1\1", unicodedata.normalize("NFKC", text))
    found: tuple[re.Match[str], str] | None = None
    for match in _STATEMENT.finditer(text):
        name = match.lastgroup or ""
        letter = match[name]
        prose = letter in "AI" and re.match(_END, text[match.end(name) :]) is None and "\\" not in match[0]
        if not letter.isupper() or prose or _DENIED.search(text[max(0, match.start(name) - 30) : match.start(name)]):
            continue
        found = match, name
    if found is not None:
        return _choice(text, found[0][found[1]], found[0].end(found[1]))
    stripped = text.strip()
    alone = _ALONE.fullmatch(stripped) or _LISTED.fullmatch(stripped) or _LED.fullmatch(stripped)
    if alone is None or alone.lastgroup is None or not alone[alone.lastgroup].isupper():
        return None
    return _choice(stripped, alone[alone.lastgroup], alone.end(alone.lastgroup))


def _choice(text: str, letter: str, end: int) -> Choice:
    letters = [letter]
    rest = re.compile(r"[)\]}*_$\"'`.:]*").match(text, end)
    at = rest.end() if rest is not None else end
    while (other := _OTHERS.match(text, at)) is not None:
        letters.append(other["g"])
        at = other.end()
    latin = [one if one.isascii() else latin_look_alike(one) or one for one in letters]
    return Choice(tuple(dict.fromkeys(latin)), latin != letters)
