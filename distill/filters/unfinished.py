"""Rejects traces that were cut off, never ended their thinking, say nothing, or carry think tags where none belong."""

from __future__ import annotations

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace
from distill.text.think import CLOSE, OPEN


class Config(Settings):
    """The `unfinished` filter has no settings."""


def build(config: Config) -> Screen:
    """The filter."""
    del config
    return _Unfinished()


class _Unfinished:
    def fault(self, trace: Trace) -> str:
        """The first thing that is unfinished about it."""
        if trace.finish_reason == "error":
            return "no answer came"
        if not trace.closed:
            return "thinking never ended"
        if trace.finish_reason == "length":
            return "cut at the token limit"
        if not trace.answer.strip():
            return "empty answer"
        if trace.reasoning is not None and not trace.reasoning.strip():
            return "empty thinking"
        texts = (trace.answer, trace.reasoning or "")
        if any(tag in text for text in texts for tag in (OPEN, CLOSE)):
            return "stray think tag"
        return ""
