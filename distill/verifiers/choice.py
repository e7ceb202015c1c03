"""The letter of a multiple-choice answer, where the answer states one; a letter in passing is no answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.choices import choice_of
from distill.verifiers._unanswered import unanswered

VERSION = 1

_GOLD = re.compile(r"\(?([A-Z])\)?(?:[.):\s].*)?", re.DOTALL)


class Config(Settings):
    """The `choice` verifier has no settings."""


def build(config: Config) -> ChoiceVerifier:
    """The verifier."""
    del config
    return ChoiceVerifier()


class ChoiceVerifier:
    """Implements `distill.core.protocols.Verifier`. Golds are letters: `C`, `(C)`, `C) twelve`."""

    name = "choice"
    version = VERSION

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        return [unanswered(answer) or self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        gold = _GOLD.fullmatch((answer.gold or "").strip())
        if gold is None:
            return Finding("ungradable", "gold is no option letter")
        chosen = choice_of(answer.text)
        if chosen is None:
            return Finding("unparseable", "no option chosen")
        said = ", ".join(chosen.letters)
        if len(chosen.letters) > 1:
            return Finding("wrong", "several options", said)
        note = " (look-alike character)" if chosen.look_alike else ""
        if said == gold[1]:
            return Finding("correct", f"same option{note}", said)
        return Finding("wrong", f"another option{note}", said)
