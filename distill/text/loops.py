"""How much of a text repeats itself. One pass, linear in the text."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\w{1,12}|[^\w\s]")  # long runs without spaces are cut, so that they count as many tokens

LOOP, LOOP_AT_THE_END, END_TOKENS = 0.6, 0.75, 600
"""A text loops if more than this share of it, or of its last so many tokens, stands in phrases that came before."""


def is_loop(text: str) -> bool:
    """Whether a text repeats itself: all over, or at its end. The bounds of the `repetition` filter's defaults."""
    return repeated_share(text) > LOOP or repeated_share(text, tail=END_TOKENS) > LOOP_AT_THE_END


def repeated_share(text: str, *, ngram: int = 16, tail: int | None = None) -> float:
    """Share of tokens (words and signs) that stand in a run of `ngram` tokens seen before in the text.

    0 for prose that never comes back to a phrase, near 1 for a loop. `tail` looks at the last tokens only. A text of
    fewer than `ngram` + 1 tokens repeats nothing.
    """
    tokens = _TOKEN.findall(text)
    tokens = tokens[-tail:] if tail is not None else tokens
    seen: set[tuple[str, ...]] = set()
    covered = 0
    counted_to = 0  # tokens before this index are counted already
    for start in range(len(tokens) - ngram + 1):
        run = tuple(tokens[start : start + ngram])
        if run in seen:
            covered += start + ngram - max(start, counted_to)
            counted_to = start + ngram
        else:
            seen.add(run)
    return covered / len(tokens) if tokens else 0.0
