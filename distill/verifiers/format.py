"""R1's format reward: thinking once, opened and closed, then the answer, boxed where asked; not what it says."""

from __future__ import annotations

from collections.abc import Sequence

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.answers import boxes
from distill.text.think import CLOSE, OPEN

VERSION = 1


class Config(Settings):
    """Settings of the `format` verifier."""

    boxed: bool = True
    r"""The final answer has exactly one `\\boxed{}`."""
    thinking: bool = True
    """There is reasoning, and it is not empty."""


def build(config: Config) -> FormatVerifier:
    """The verifier."""
    return FormatVerifier(config)


class FormatVerifier:
    """Implements `distill.core.protocols.Verifier`; `score` is 1 or 0 (DeepSeek-R1, arXiv 2501.12948, 2.2.2).

    The whole text counts: what follows the answer's last tag, a second think block and an empty one are all faults
    (a pattern anchored to lines finds none of them).
    """

    name = "format"
    version = VERSION
    reads_reasoning = True
    compares = False  # any two answers may be well formed

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        return [self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        if answer.finish_reason == "length":
            return Finding("unparseable", "truncated", score=0.0)
        if not answer.closed:
            return Finding("unparseable", "unfinished thinking", score=0.0)
        if not answer.text.strip():
            return Finding("unparseable", "no answer", score=0.0)
        why = self._fault(answer)
        return Finding("wrong", why, score=0.0) if why else Finding("correct", "well formed", score=1.0)

    def _fault(self, answer: Answer) -> str:
        if self.config.thinking and answer.reasoning is None:
            return "no thinking"
        if self.config.thinking and not (answer.reasoning or "").strip():
            return "empty thinking"
        if any(tag in text for tag in (OPEN, CLOSE) for text in (answer.reasoning or "", answer.text)):
            return "think tags more than once"
        count = len(boxes(answer.text))
        if self.config.boxed and count != 1:
            return "no boxed answer" if count == 0 else "several boxed answers"
        return ""
