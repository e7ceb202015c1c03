"""Rejects traces that slip into another language: words of a foreign script, or passages in another tongue."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, field_validator

from distill.core.config import Settings
from distill.core.protocols import Screen
from distill.core.records import Trace
from distill.text.languages import SCRIPTS, consistency

PRIMARY = "language"


class Config(Settings):
    """Settings of the `language` filter: `{language: en}`."""

    language: str = "en"
    """The language that reasoning and answer shall be in (ISO 639-1)."""
    min_share: float = Field(default=0.9, ge=0, le=1)
    """Least share of words in that language. Languages of one script are told apart from a hundred letters on."""
    foreign_words: NonNegativeInt | None = 0
    """Words (of scripts without spaces: signs) of a foreign script that are let pass beside those that the question
    has itself. None: any number, within `min_share`."""

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SCRIPTS:
            raise ValueError(f"no language `{value}`; known: {', '.join(sorted(SCRIPTS))}")
        return value


def build(config: Config) -> Screen:
    """The filter."""
    return _Language(config)


class _Language:
    def __init__(self, config: Config) -> None:
        self.config = config

    def fault(self, trace: Trace) -> str:
        """Which kind of other language it has, the reasoning looked at before the answer."""
        question = "\n".join(message.content for message in trace.messages)
        for where, text in (("thinking", trace.reasoning or ""), ("answer", trace.answer)):
            found = consistency(text, self.config.language, question=question)
            if self.config.foreign_words is not None and found.foreign_words > self.config.foreign_words:
                return f"foreign script in the {where}"
            if found.share < self.config.min_share:
                return f"{where} in another language" + (f" ({found.other})" if found.other else "")
        return ""
