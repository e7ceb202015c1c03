"""R1's language-consistency reward: the share of words, thinking and answer, that are in the wanted language."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, field_validator

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.languages import SCRIPTS, consistency

VERSION = 1
PRIMARY = "language"


class Config(Settings):
    """Settings of the `language` verifier."""

    language: str = "en"
    """The wanted language (ISO 639-1)."""
    min_share: float = Field(default=0.9, ge=0, le=1)
    """Share from which an answer passes."""

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SCRIPTS:
            raise ValueError(f"no language `{value}`; known: {', '.join(sorted(SCRIPTS))}")
        return value


def build(config: Config) -> LanguageVerifier:
    """The verifier."""
    return LanguageVerifier(config)


class LanguageVerifier:
    """Implements `distill.core.protocols.Verifier`; `score` is the share (DeepSeek-R1, arXiv 2501.12948, 2.3.2)."""

    name = "language"
    version = VERSION
    reads_reasoning = True
    compares = False  # any two answers may be in one language

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        return [self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        text = f"{answer.reasoning or ''}\n{answer.text}"
        if not answer.text.strip() or not answer.closed or answer.finish_reason == "length":
            return Finding("unparseable", "no answer" if answer.closed else "unfinished thinking", score=0.0)
        found = consistency(text, self.config.language, question=answer.question)
        if not found.words:
            return Finding("unparseable", "no words", score=0.0)
        if found.share >= self.config.min_share:
            return Finding("correct", f"in {self.config.language}", score=found.share)
        return Finding("wrong", f"in another language{f' ({found.other})' if found.other else ''}", score=found.share)
