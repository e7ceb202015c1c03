"""Which language a text is written in, word by word: by script, and between languages of one script by n-grams.

Formulas, code, symbols and what the question itself says in another language do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ["af", "ca", "cs", "cy", "da", "de", "en", "es", "et", "eu", "fi", "fr", "ga", "gl", "hr", "hu", "id", "is",
         "it", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "sk", "sl", "sq", "sv", "sw", "tl", "tr", "vi"],
        ("LATIN",),
    ),
    **dict.fromkeys(["be", "bg", "kk", "ky", "mk", "mn", "ru", "sr", "uk"], ("CYRILLIC",)),
    **dict.fromkeys(["ar", "fa", "ur"], ("ARABIC",)),
    **dict.fromkeys(["hi", "mr", "ne"], ("DEVANAGARI",)),
    "am": ("ETHIOPIC",), "bn": ("BENGALI",), "el": ("GREEK",), "gu": ("GUJARATI",), "he": ("HEBREW",),
    "hy": ("ARMENIAN",), "ja": ("HIRAGANA", "KATAKANA", "CJK"), "ka": ("GEORGIAN",), "km": ("KHMER",),
    "kn": ("KANNADA",), "ko": ("HANGUL", "CJK"), "lo": ("LAO",), "ml": ("MALAYALAM",), "my": ("MYANMAR",),
    "pa": ("GURMUKHI",), "si": ("SINHALA",), "ta": ("TAMIL",), "te": ("TELUGU",), "th": ("THAI",),
    "zh": ("CJK", "BOPOMOFO"),
}  # fmt: skip
"""Scripts of each language that can be named (ISO 639-1)."""

OWN: dict[str, tuple[str, ...]] = {"ja": ("HIRAGANA", "KATAKANA"), "ko": ("HANGUL",)}
"""Scripts that a language's text must have some of: without kana, signs that Japanese uses too are Chinese."""
LEAST_OWN = 0.1

PROBE_CHARACTERS = 5000
"""Of a text that is judged as a whole, how much is looked at."""
PIECE_LETTERS = 100
"""Letters of a piece that is given to the n-gram model at once; shorter texts are not told apart."""
DOUBT = 0.01
"""Probability of the language below which the n-gram model is believed that a piece is in another one."""

_NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)"
    r"|\\[a-zA-Z]+|https?://\S+",
    re.DOTALL,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
# Scripts without spaces: a sign is a word.
_SIGNS = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"})
_NAMED = {"IDEOGRAPHIC": "CJK", "FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "KATAKANA-HIRAGANA": "KATAKANA"}


@dataclass(frozen=True)
class Consistency:
    """How much of a text is in a language. `share`: its words in that language; 1 where there are no words.

    `foreign` are words of another script, most frequent first, at most five; `other` the language that a good part of
    the rest seems to be in.
    """

    share: float
    words: int
    foreign_words: int
    foreign: tuple[str, ...]
    other: str | None


def consistency(text: str, language: str, *, question: str = "") -> Consistency:
    """Share of the words of a text that are in `language`, as R1 rewards it (DeepSeek-R1, arXiv 2501.12948, 2.3.2).

    Raises ValueError for a language that is not in `SCRIPTS`.
    """
    if language not in SCRIPTS:
        raise ValueError(f"no language `{language}`; known: {', '.join(sorted(SCRIPTS))}")
    quoted = set(_words(question))
    prose = _NOT_PROSE.sub(" ", text)
    foreign: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    for script, word in _words(prose):
        scripts[script] += 1
        if script not in SCRIPTS[language] and (script, word) not in quoted:
            foreign[word] += 1
    total, strange = sum(scripts.values()), sum(foreign.values())
    if not total:
        return Consistency(1.0, 0, 0, (), None)
    own = OWN.get(language)
    if own is not None and sum(scripts[name] for name in own) < LEAST_OWN * (total - strange):
        return Consistency(0.0, total, strange, tuple(w for w, _ in foreign.most_common(5)), None)
    elsewhere, other = _of_another(prose, language)
    share = (total - strange) / total * (1 - elsewhere)
    return Consistency(share, total, strange, tuple(word for word, _ in foreign.most_common(5)), other)


def probability(text: str, language: str) -> float:
    """Probability, by letter n-grams, that a whole text is in `language` and not in another one of its script.

    Of a few words it is a guess: low for what is surely in another language, not always high for what is in this one.
    1 where the script decides alone or there is nothing to judge by.
    """
    rivals = [name for name, scripts in SCRIPTS.items() if scripts == SCRIPTS[language]]
    prose = " ".join(word for word in _WORD.findall(_NOT_PROSE.sub(" ", text)) if len(word) > 1)
    if len(rivals) == 1 or not prose:
        return 1.0
    return float(dict(_model(tuple(rivals)).rank(prose[:PROBE_CHARACTERS]))[language])


def _words(text: str) -> Iterator[tuple[str, str]]:
    """Words with their scripts; single letters of Greek and other alphabets are symbols and left out."""
    for match in _WORD.finditer(unicodedata.normalize("NFKC", text) if not text.isascii() else text):
        word = match[0]
        if word.isascii():
            yield "LATIN", word.lower()
            continue
        for script, part in _parts(word):
            if script in _SIGNS:
                yield from ((script, sign) for sign in part)
            elif len(part) > 1 or script == "LATIN":
                yield script, part.lower()


def _parts(word: str) -> Iterator[tuple[str, str]]:
    """A word in runs of one script: `HTTP协议` is two."""
    start, script = 0, ""
    for at, char in enumerate(word):
        its = _script(char)
        if its and its != script:
            if script:
                yield script, word[start:at]
            start, script = at, its
    if script:
        yield script, word[start:]


@lru_cache(maxsize=8192)
def _script(char: str) -> str:
    """Script of a letter by its Unicode name; empty for marks and modifiers, which belong to the letter before."""
    if not char.isalpha() or unicodedata.category(char) == "Lm":
        return ""
    first = unicodedata.name(char, "").partition(" ")[0]
    return (
        "" if first in ("MODIFIER", "COMBINING", "MATHEMATICAL", "SCRIPT", "BLACK-LETTER") else _NAMED.get(first, first)
    )


def _of_another(prose: str, language: str) -> tuple[float, str | None]:
    """Share of the pieces that are surely in another language of the same script, and the one most of them are in."""
    rivals = [name for name, scripts in SCRIPTS.items() if scripts == SCRIPTS[language]]
    if len(rivals) == 1:
        return 0.0, None
    found: Counter[str] = Counter()
    pieces = 0
    model = _model(tuple(rivals))
    for piece in _pieces(prose):
        pieces += 1
        ranked = dict(model.rank(piece))
        if ranked[language] < DOUBT:  # of close relatives none may be likely alone
            found[max(ranked, key=lambda name: ranked[name])] += 1
    if not found:
        return 0.0, None
    return sum(found.values()) / pieces, found.most_common(1)[0][0]


def _pieces(prose: str) -> Iterator[str]:
    """Words of about `PIECE_LETTERS` letters together; a rest too short to be told is left out."""
    piece: list[str] = []
    letters = 0
    for word in _WORD.findall(prose):
        if len(word) == 1:
            continue  # a variable, more often than a word
        piece.append(word)
        letters += len(word)
        if letters >= PIECE_LETTERS:
            yield " ".join(piece)
            piece, letters = [], 0


@cache
def _model(languages: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    model.set_languages(list(languages))
    return model
