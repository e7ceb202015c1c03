"""Keeps traces whose answer was graded as wished: correct, unless told otherwise."""

from __future__ import annotations

from pydantic import Field

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace, VerdictValue


class Config(Settings):
    """Settings of the `verdict` filter."""

    keep: list[VerdictValue] = Field(default=["correct"])
    """Verdicts that pass."""
    ungraded: bool = False
    """Whether traces without a verdict pass (data that nothing can grade)."""


def build(config: Config) -> Screen:
    """The filter."""
    return _Verdict(config)


class _Verdict:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """Its verdict and the reason given with it, where that is not one to keep."""
        if trace.verdict is None:
            return "" if self.config.ungraded else "not graded"
        return "" if trace.verdict in self.config.keep else f"{trace.verdict}: {trace.verdict_reason}"
