"""Rejects traces whose thinking or answer is shorter or longer than wished, in tokens."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt, model_validator

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace

CHARACTERS = 4
"""Characters that count as one token where a trace has no ids."""


class Config(Settings):
    """Settings of the `lengths` filter. Bounds are inclusive."""

    min_thinking: NonNegativeInt = 0
    """Fewest tokens of thinking; traces without thinking pass."""
    max_thinking: PositiveInt | None = None
    """Most tokens of thinking."""
    min_answer: NonNegativeInt = 0
    """Fewest tokens of the final answer."""
    max_answer: PositiveInt | None = None
    """Most tokens of the final answer."""
    max_total: PositiveInt | None = None
    """Most tokens of both."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        for part in ("thinking", "answer"):
            low, high = getattr(self, f"min_{part}"), getattr(self, f"max_{part}")
            if high is not None and low > high:
                raise ValueError(f"min_{part} {low} is more than max_{part} {high}")
        return self


def build(config: Config) -> Screen:
    """The filter."""
    return _Lengths(config)


class _Lengths:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """Which bound it breaks first."""
        asked, (thinking, answer) = self.config, lengths(trace)
        if trace.reasoning is not None and thinking < asked.min_thinking:
            return f"thinking under {asked.min_thinking:,} tokens"
        if asked.max_thinking is not None and thinking > asked.max_thinking:
            return f"thinking over {asked.max_thinking:,} tokens"
        if answer < asked.min_answer:
            return f"answer under {asked.min_answer:,} tokens"
        if asked.max_answer is not None and answer > asked.max_answer:
            return f"answer over {asked.max_answer:,} tokens"
        if asked.max_total is not None and thinking + answer > asked.max_total:
            return f"over {asked.max_total:,} tokens"
        return ""


def lengths(trace: Trace) -> tuple[int, int]:
    """Tokens of thinking and of answer: by the teacher's ids where there are any, else a quarter of the characters."""
    if trace.completion_ids is not None and (trace.reasoning is None or trace.reasoning_tokens is not None):
        thinking = trace.reasoning_tokens or 0
        return thinking, len(trace.completion_ids) - thinking
    return -(-len(trace.reasoning or "") // CHARACTERS), -(-len(trace.answer) // CHARACTERS)
