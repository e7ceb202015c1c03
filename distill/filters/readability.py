"""Rejects thinking that is hard to read, by DeepSeek-R1's rules: code blocks, and paragraphs without an end."""

from __future__ import annotations

import re

from pydantic import PositiveInt

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace

_FENCE = re.compile(r"^\s*(?:```|~~~)", re.MULTILINE)
_BREAK = re.compile(r"\n\s*\n")


class Config(Settings):
    """Settings of the `readability` filter. Rules and their reason: DeepSeek-R1 (arXiv 2501.12948), section 2.3.3."""

    code_blocks: bool = False
    """Whether fenced code may stand in the thinking."""
    longest_paragraph: PositiveInt | None = 4000
    """Most characters between two blank lines of the thinking. None: any."""


def build(config: Config) -> Screen:
    """The filter."""
    return _Readability(config)


class _Readability:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """The rule that its thinking breaks."""
        thinking = trace.reasoning or ""
        if not self.config.code_blocks and _FENCE.search(thinking):
            return "code block in the thinking"
        longest = self.config.longest_paragraph
        if longest is not None and len(thinking) > longest and max(map(len, _BREAK.split(thinking))) > longest:
            return f"paragraph over {longest:,} characters"
        return ""
