"""Rejects answers to questions that are in a benchmark, copied, nearly copied or reworded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from distill.core.config import Settings, Unkeyed
from distill.core.files import sha256_file
from distill.core.protocols import Screen
from distill.core.records import Trace
from distill.text.contamination import Index, Match, read

PRIMARY = "signatures"


class Config(Settings):
    """Settings of the `contamination` filter: `{contamination: [gsm8k-test.sig]}`."""

    signatures: Annotated[list[str], Unkeyed] = Field(min_length=1)
    """Signature files, made with `distill signature` from your copies of the benchmarks. One that is not there stops
    the run. Their contents count, not their places."""
    share: PositiveFloat = Field(default=0.5, le=1)
    """Share of an item's runs of eight words that makes a question a copy of it."""
    fuzzy: PositiveFloat = Field(default=0.8, le=1)
    """Share of common characters (Jaccard index of runs of five) that makes a short question a copy of a short item."""
    rewritten: PositiveFloat = Field(default=0.25, le=1)
    """Share of common content words (Jaccard index) that, with all numbers the same, makes a question a rewrite."""
    siblings: bool = False
    """Also reject questions that differ from an item in their numbers alone; otherwise they are remarked on."""


def externals(config: Config) -> Mapping[str, str]:
    """Contents of the signature files. Raises DistillError for one that is not there."""
    found = {}
    for path in config.signatures:
        read(Path(path))
        found[Path(path).name] = sha256_file(Path(path))
    return found


def build(config: Config) -> Screen:
    """The filter, with its signatures read."""
    return _Contamination(config)


class _Contamination:
    def __init__(self, config: Config) -> None:
        self.siblings = config.siblings
        index = Index(
            [read(Path(path)) for path in config.signatures],
            share=config.share, fuzzy=config.fuzzy, rewritten=config.rewritten,
        )  # fmt: skip
        self._match: Any = lru_cache(maxsize=4096)(index.match)  # a problem's samples come one after the other

    def fault(self, trace: Trace) -> str:
        """The benchmark whose question it answers, and how the two are alike."""
        match = self._of(trace)
        if match is None or (match.how == "numbers" and not self.siblings):
            return ""
        return _told(match)

    def remark(self, trace: Trace) -> str:
        """Siblings that stay are counted all the same."""
        match = self._of(trace)
        return "" if match is None else _told(match)

    def _of(self, trace: Trace) -> Match | None:
        asked = "\n".join(message.content for message in trace.messages if message.role == "user")
        found: Match | None = self._match(asked)
        return found


def _told(match: Match) -> str:
    how = {"exact": "copy of", "runs": "near copy of", "fuzzy": "near copy of", "rewritten": "rewrite of"}
    return f"{how.get(match.how, 'same words, other numbers as')} {match.benchmark}"
