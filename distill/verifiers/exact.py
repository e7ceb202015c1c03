"""The final answer as text, equal to the gold after stated foldings: case, white space, punctuation."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.final import Where, final_answer
from distill.verifiers._unanswered import unanswered

VERSION = 1


class Config(Settings):
    """Settings of the `exact` verifier."""

    where: Where = "auto"
    """Where the answer stands: in an `<answer>` `tag`, `boxed`, on the `last_line`, the `whole` text; `auto` takes the
    first of tag, box and a line `Answer: ...` that is there, else the whole."""
    fold_case: bool = True
    """Upper and lower case are the same."""
    fold_space: bool = True
    """Runs of white space are one space."""
    fold_marks: bool = True
    """Quotes around the answer and a full stop at its end do not count."""
    alternatives: str | None = None
    """A separator, if the gold lists several answers of which each is right (`alternatives: "|"`)."""


def build(config: Config) -> ExactVerifier:
    """The verifier."""
    return ExactVerifier(config)


class ExactVerifier:
    """Implements `distill.core.protocols.Verifier`."""

    name = "exact"
    version = VERSION

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        return [unanswered(answer) or self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        said = answer.text.strip() if answer.extracted else final_answer(answer.text, self.config.where)
        if not said:
            return Finding("unparseable", "no answer")
        gold = answer.gold or ""
        golds = gold.split(self.config.alternatives) if self.config.alternatives else [gold]
        same = self._folded(said) in {self._folded(one) for one in golds}
        return Finding("correct" if same else "wrong", "same text" if same else "another text", said[:200])

    def _folded(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text).strip()
        if self.config.fold_marks:
            text = text.strip("\"'“”‘’`*_ ").rstrip(".").strip()
        if self.config.fold_space:
            text = " ".join(text.split())
        return text.casefold() if self.config.fold_case else text
