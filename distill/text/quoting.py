r"""Text of others inside a prompt: one line of JSON that nothing in it can end, between marks that it cannot guess.

Escaped are all characters that a model or its template might take for an end or a beginning: control and format
characters, line breaks and spaces other than the plain one, quotation marks and brackets of any script, `<`, `>`,
backticks, and `[` before a capital (`[INST]`). What JSON reads back is the text, character for character.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping

from distill.core.config import digest

_ALWAYS = frozenset("<>`\x7f")
_KEPT = ("L", "M", "N", "Sm", "Sc")
"""Kinds of characters beyond ASCII that stay as they are: letters, marks, digits, signs of mathematics and money."""
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Letters and marks that are not shown: words can be hidden in them."""
_TEMPLATE = re.compile(r"\[(?=/?[A-Z])")


def quoted(text: str) -> str:
    r"""A text as a JSON string in one line of harmless characters.

    >>> print(quoted('a"\n<|end|>'))
    "a\"\n\u003c|end|\u003e"
    """
    plain = json.dumps(text, ensure_ascii=False)
    plain = _TEMPLATE.sub(r"\\u005b", plain)
    return "".join(char if _harmless(char) else _escaped(char) for char in plain)


def data_block(fields: Mapping[str, str], *, also: str = "") -> tuple[str, str]:
    r"""Texts as one JSON object between marks, and the marks' name: hex digits made of all the texts and of `also`.

    No text can hold its own mark, since the mark depends on the text.
    """
    name = digest([[key, quoted(text)] for key, text in fields.items()] + [also])[:12]
    body = ", ".join(f"{json.dumps(key)}: {quoted(text)}" for key, text in fields.items())
    return f"[DATA {name}]\n{{{body}}}\n[END OF DATA {name}]", name


def _harmless(char: str) -> bool:
    if char.isascii():
        return char.isprintable() and char not in _ALWAYS
    return unicodedata.category(char).startswith(_KEPT) and not _looks_ascii(char) and not _UNSEEN.match(char)


def _looks_ascii(char: str) -> bool:
    """Whether a sign is a variant of an ASCII mark (a full-width `＜` or `＂`); those of letters and digits are not."""
    folded = unicodedata.normalize("NFKC", char)
    return folded.isascii() and not folded.isalnum()


def _escaped(char: str) -> str:
    return json.dumps(char)[1:-1] if not char.isascii() else f"\\u{ord(char):04x}"
