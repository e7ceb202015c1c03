"""What a trace does while it thinks: checks itself, turns back, tries another way, refines; and how long it goes on
after it has the answer.

Counted by phrases, in English: a habit is one phrase of its list at the start of a sentence or clause. That is the
usual way (the "aha moments" of DeepSeek-R1, arXiv 2501.12948, figure 9, count such words); it sees words, not thought.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_START = r"(?:^|(?<=[.!?:;,\n])|(?<=but)|(?<=and)|(?<=so))[ \t*_]*"
_PHRASES = {
    "checks": (
        "let me (?:double[- ])?(?:check|verify|confirm)", "let's (?:double[- ])?(?:check|verify|confirm)",
        "to (?:double[- ]check|verify|confirm)", "(?:double[- ])?checking", "verifying", "check:", "verify:",
        "we can (?:check|verify)", "i should (?:check|verify)", "does (?:this|that|it) make sense",
    ),
    "turns_back": (
        "wait", "hold on", "no,", "hmm", "actually", "oops", "i made (?:a|an) (?:mistake|error)",
        "that(?:'s| is) (?:not right|wrong|incorrect)", "this is wrong", "that can't be",
        "let me (?:go back|start over)",
    ),
    "tries_another_way": (
        "alternatively", "another (?:way|approach|method|idea)", "or (?:maybe|perhaps)", "let me try", "let's try",
        "instead,", "a different (?:way|approach|method)", "what if", "suppose instead",
    ),
    "refines": (
        "more (?:precisely|exactly|carefully)", "to be (?:more )?(?:precise|exact|careful)",
        "in other words", "simplifying", "let me (?:reconsider|rephrase|rewrite|clarify|simplify)", "rewriting",
    ),
}  # fmt: skip
_PATTERNS = {
    name: re.compile(_START + r"(?:" + "|".join(phrases) + r")(?!\w)", re.IGNORECASE | re.MULTILINE)
    for name, phrases in _PHRASES.items()
}


@dataclass(frozen=True)
class Habits:
    """How often each habit shows in one text."""

    checks: int
    turns_back: int
    tries_another_way: int
    refines: int


NAMES = tuple(_PHRASES)


def habits(thinking: str) -> Habits:
    """Count the habits of a thinking. Linear in its length.

    >>> habits("So 4*6 is 26. Wait, 4*6 is 24. Let me check: 24/6 is 4.")
    Habits(checks=1, turns_back=1, tries_another_way=0, refines=0)
    """
    return Habits(**{name: len(pattern.findall(thinking)) for name, pattern in _PATTERNS.items()})


def after_the_answer(thinking: str, gold: str | None) -> float | None:
    """Share of the thinking that comes after the gold answer first stands in it, as a whole value; None: it never does.

    The text of the gold answer is looked for as it is. A small number may stand there by chance, so this is an upper
    bound of over-thinking for short answers.
    """
    wanted = (gold or "").strip()
    if not wanted or not thinking:
        return None
    match = re.search(rf"(?<![\w.]){re.escape(wanted)}(?!\w|\.\d)", thinking)
    return None if match is None else 1 - match.end() / len(thinking)
