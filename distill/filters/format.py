"""Rejects traces of the wrong form: thinking missing or unwanted, tags astray, not one boxed answer."""

from __future__ import annotations

from typing import Literal

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace
from distill.text.answers import boxes
from distill.text.think import CLOSE, OPEN


class Config(Settings):
    """Settings of the `format` filter."""

    thinking: Literal["required", "forbidden", "any"] = "required"
    """Whether a trace must have reasoning."""
    boxed: Literal["one", "some", "any"] = "any"
    r"""How many `\\boxed{}` the final answer must have: exactly one, at least one, or any number."""


def build(config: Config) -> Screen:
    """The filter."""
    return _Format(config)


class _Format:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """The first thing that is wrong with its form."""
        thought = bool((trace.reasoning or "").strip())
        if self.config.thinking == "required" and not thought:
            return "no thinking"
        if self.config.thinking == "forbidden" and thought:
            return "thinking where none belongs"
        if any(tag in (trace.reasoning or "") for tag in (OPEN, CLOSE)):
            return "think tag inside the thinking"
        if any(tag in trace.answer for tag in (OPEN, CLOSE)):
            return "think tag after the thinking"
        count = len(boxes(trace.answer))
        if self.config.boxed != "any" and count == 0:
            return "no boxed answer"
        if self.config.boxed == "one" and count > 1:
            return "several boxed answers"
        return ""
