"""The final answer matches the gold, which is a regular expression; a time limit ends those that backtrack for ever."""

from __future__ import annotations

from collections.abc import Sequence

import regex
from pydantic import PositiveFloat

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.final import Where, final_answer
from distill.verifiers._unanswered import unanswered

VERSION = 1


class Config(Settings):
    """Settings of the `regex` verifier."""

    pattern: str | None = None
    """One expression for every problem. None: each problem's gold is the expression."""
    where: Where = "auto"
    """Where the answer stands, as for `exact`."""
    whole: bool = True
    """The whole answer must match, not a part of it."""
    ignore_case: bool = False
    """Upper and lower case are the same."""
    timeout_s: PositiveFloat = 1.0
    """Longest time one match may take."""


def build(config: Config) -> RegexVerifier:
    """The verifier. Raises DistillError if `pattern` is no regular expression."""
    return RegexVerifier(config)


class RegexVerifier:
    """Implements `distill.core.protocols.Verifier`."""

    name = "regex"
    version = VERSION
    compares = False  # a gold is a pattern, and no answer is one

    def __init__(self, config: Config) -> None:
        self.config = config
        self._compiled: dict[str, regex.Pattern[str] | None] = {}
        if config.pattern is not None and self._pattern(config.pattern) is None:
            from distill.core.errors import ConfigError

            raise ConfigError(f"verifier `regex`: `pattern` is no regular expression: {config.pattern!r}")

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        needs_gold = self.config.pattern is None
        return [unanswered(answer, gold=needs_gold) or self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        pattern = self._pattern(self.config.pattern or answer.gold or "")
        if pattern is None:
            return Finding("ungradable", "gold is no regular expression")
        said = answer.text.strip() if answer.extracted else final_answer(answer.text, self.config.where)
        if not said:
            return Finding("unparseable", "no answer")
        try:
            match = (pattern.fullmatch if self.config.whole else pattern.search)(said, timeout=self.config.timeout_s)
        except TimeoutError:
            return Finding("unparseable", "matching took too long", said[:200])
        return Finding("correct" if match else "wrong", "matches" if match else "does not match", said[:200])

    def _pattern(self, text: str) -> regex.Pattern[str] | None:
        if text not in self._compiled:
            try:
                flags = regex.IGNORECASE if self.config.ignore_case else 0
                self._compiled[text] = regex.compile(text, flags)
            except regex.error:
                self._compiled[text] = None
        return self._compiled[text]
