"""Text that a model wrote, made safe to look at: nothing in it is invisible or turns the text around it about.

Escaping for HTML or a terminal's markup is the caller's.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and newline
    "\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # marks of direction, zero widths
    "\ud800-\udfff"  # half of a pair: not a character, and no encoder takes it
    "\U000e0000-\U000e007f]"  # tags, which hide ASCII text
)


def visible(text: str) -> str:
    """The text with each control character as its picture (`␀`), and marks that have none by their number.

    >>> visible("a\\x00b\\u202ec")
    'a␀b⟨U+202E⟩c'
    """
    return _UNSEEN.sub(lambda found: _named(ord(found.group())), text.replace("\r\n", "\n"))


def shortened(text: str, most: int, unit: str = "characters") -> str:
    """The text where it has at most `most` characters; else its first three quarters and its end, with what is left out
    between them said.
    """
    if len(text) <= most:
        return text
    head, tail = most * 3 // 4, most // 4
    return f"{text[:head]}\n[… {len(text) - head - tail:,} {unit} left out …]\n{text[-tail:]}"


def _named(code: int) -> str:
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨U+{code:04X}⟩"
