"""Texts as words and runs of words, whatever their spacing, punctuation or LaTeX dress; and hashes of such runs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import xxhash

_DRESS = re.compile(
    r"\\(?:left|right|displaystyle|limits|quad|qquad|big|bigg|Big|Bigg)(?![a-zA-Z])|\\[,;:!> ]|[$~]|\\[()\[\]]"
    r"|[\^_]\{\s*\}"
)
_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname|mbox)\s*\{")
_SAME = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cdot": "*",
    r"\times": "*",
    r"\le": "<",
    r"\leq": "<",
    r"\ge": ">",
}
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,)(?=\d{3}(?!\d))")
# A word of letters, a number, a LaTeX command, an operator, or one sign of a script that writes no spaces.
_WORD = re.compile(
    r"\\[a-z]+|[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0eff]|\d+(?:\.\d+)?|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+"
    r"|[-+*/=<>^%]"
)
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
ANY_NUMBER = "0"


def words(text: str) -> list[str]:
    r"""Words, numbers and operators in lower case, without punctuation and LaTeX dress.

    >>> words(r"Compute  $\dfrac{1{,}000}{3}\,$, please!")
    ['compute', '\\frac', '1000', '3', 'please']
    """
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    text = _WRAPPERS.sub(" ", _DRESS.sub(" ", text)).lower()
    return [_SAME.get(word, word) for word in _WORD.findall(_THOUSANDS.sub("", text))]


def without_numbers(tokens: Sequence[str]) -> list[str]:
    """The words with every number the same: what is left of a problem when its numbers are changed."""
    return [ANY_NUMBER if _NUMBER.fullmatch(word) else word for word in tokens]


def runs(tokens: Sequence[str], n: int) -> set[str]:
    """All runs of n words, joined by spaces; of a shorter text, the text itself."""
    if len(tokens) <= n:
        return {" ".join(tokens)} if tokens else set()
    return {" ".join(tokens[start : start + n]) for start in range(len(tokens) - n + 1)}


def hashes(texts: set[str]) -> set[int]:
    """64-bit hashes (XXH3), the same on every machine."""
    return {xxhash.xxh3_64_intdigest(text.encode()) for text in texts}
