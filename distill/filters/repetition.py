"""Rejects traces that loop: too large a share of their tokens stands in phrases that came before."""

from __future__ import annotations

from pydantic import PositiveFloat, PositiveInt

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace
from distill.text.loops import END_TOKENS, LOOP, LOOP_AT_THE_END, repeated_share


class Config(Settings):
    """Settings of the `repetition` filter."""

    max_ratio: PositiveFloat = LOOP
    """Largest share of tokens in repeated phrases, over the whole trace."""
    max_tail_ratio: PositiveFloat = LOOP_AT_THE_END
    """The same over its last `tail_tokens`: a trace that ends in a loop."""
    tail_tokens: PositiveInt = END_TOKENS
    """How many tokens (words and signs) the end is."""
    ngram: PositiveInt = 16
    """A phrase is so many tokens. Shorter ones come back in any honest calculation."""


def build(config: Config) -> Screen:
    """The filter."""
    return _Repetition(config)


class _Repetition:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """Where it loops: all over, or at its end."""
        text = f"{trace.reasoning or ''}\n{trace.answer}"
        if repeated_share(text, ngram=self.config.ngram) > self.config.max_ratio:
            return "repeats itself"
        if repeated_share(text, ngram=self.config.ngram, tail=self.config.tail_tokens) > self.config.max_tail_ratio:
            return "ends in a loop"
        return ""
