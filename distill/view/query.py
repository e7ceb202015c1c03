"""What a person types into the search box, as FTS5 expressions and as a pattern that finds the same words in a text.

Words are runs of letters and digits; case and accents do not count, other signs only separate: `x^2` is the words x
and 2 side by side. Chinese, Japanese and Thai are written without spaces, so each of their characters is a word, and a
run of them is found inside a longer one.

    thales circle        entries with both words
    "right angle"        side by side
    triang*              words that begin so
    -guess               entries without it
    answer:17            in the answer; also problem: and thinking:
"""

from __future__ import annotations

from dataclasses import dataclass

import regex

from distill.core.errors import DistillError

COLUMNS = ("problem", "thinking", "answer")
MOST_CHARACTERS, MOST_TERMS = 1000, 32

_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
_WORD = regex.compile(rf"{_ALONE}|(?:(?!{_ALONE})[\p{{L}}\p{{N}}\p{{Co}}]\p{{M}}*)+")
_SPACED = regex.compile(f"({_ALONE})")
_TERM = regex.compile(rf'(?P<out>-?)(?:(?P<column>{"|".join(COLUMNS)}):)?(?:"(?P<phrase>[^"]*)"?|(?P<word>[^\s"]+))')


@dataclass(frozen=True)
class Query:
    """`wanted` and `unwanted` are FTS5 expressions, empty where nothing is asked for. `pattern` finds what is wanted in
    a text; it is written for Python's `regex` and for JavaScript with the flags `iu` alike.
    """

    wanted: str = ""
    unwanted: str = ""
    pattern: str = ""


def spaced(text: str) -> str:
    """A text as it is indexed: characters that are words of their own stand apart.

    >>> spaced("a 三角形 b")
    'a  三  角  形  b'
    """
    return text if text.isascii() else _SPACED.sub(r" \1 ", text)


def parse(text: str) -> Query:
    """Understand a search. Every text is one; signs without a letter or digit are passed over.

    Raises DistillError for one that is too long, or that has signs and no word.
    """
    if len(text) > MOST_CHARACTERS:
        raise DistillError(f"search: {len(text):,} characters; at most {MOST_CHARACTERS:,} are looked for")
    wanted: list[str] = []
    unwanted: list[str] = []
    patterns: list[str] = []
    for found in _TERM.finditer(text):
        said = found["phrase"] if found["phrase"] is not None else found["word"]
        words = _WORD.findall(said)
        if not words:
            continue
        prefix = found["word"] is not None and said.endswith("*")
        expression = '"' + " ".join(words) + '"' + ("*" if prefix else "")
        if found["column"]:
            expression = f"({found['column']} : {expression})"
        (unwanted if found["out"] else wanted).append(expression)
        if not found["out"]:
            patterns.append(_pattern(words, prefix))
    if len(wanted) + len(unwanted) > MOST_TERMS:
        raise DistillError(f"search: {len(wanted) + len(unwanted)} words; at most {MOST_TERMS} are looked for")
    if text.strip() and not wanted and not unwanted:
        raise DistillError("search: no word to look for; signs alone are not indexed")
    return Query(" AND ".join(wanted), " OR ".join(unwanted), "|".join(patterns))


def _pattern(words: list[str], prefix: bool) -> str:
    """The words of a phrase in a text, whole, whatever signs stand between them; accents as they were typed."""
    before = "" if regex.match(_ALONE, words[0]) else r"(?<![\p{L}\p{N}])"
    after = "" if prefix or regex.match(_ALONE, words[-1]) else r"(?![\p{L}\p{N}])"
    return before + r"[^\p{L}\p{N}]*".join(words) + after
