"""Verifiers made of others: what `any_of` and `all_of` share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Annotated

from pydantic import Field

from distill.core.config import Settings, digest
from distill.core.plugins import Choice, ChoiceOf
from distill.core.protocols import Answer, Asking, AskModel, Finding, Verifier


class Several(Settings):
    """Settings of a verifier that is made of others."""

    of: list[Annotated[Choice, ChoiceOf("distill.verifiers", "verifier")]] = Field(min_length=1)
    """The verifiers, in the order in which they are asked."""


class SeveralVerifier:
    """Asks each verifier in turn for the answers that are still open, and stops at the first word that decides.

    `decisive` is that word: `correct` for any, and whatever is not correct for all.
    """

    def __init__(self, name: str, version: int, config: Several, *, stops_at_correct: bool) -> None:
        self.name, self.stops_at_correct = name, stops_at_correct
        self._parts: list[Verifier] = []
        with ExitStack() as opened:  # a part that cannot be built leaves none of the others running
            for choice in config.of:
                self._parts.append(opened.enter_context(closing(choice.module().build(choice.config))))
            opened.pop_all()
        self.reads_reasoning = any(getattr(part, "reads_reasoning", False) for part in self._parts)
        self.compares = all(getattr(part, "compares", True) for part in self._parts)
        # A part whose verdicts change changes ours.
        self.version = version + int(digest([[part.name, part.version] for part in self._parts])[:6], 16) * 100

    @property
    def ask(self) -> AskModel | None:
        """Who answers the questions of the parts that have some."""
        return next((part.ask for part in self._parts if isinstance(part, Asking)), None)

    @ask.setter
    def ask(self, ask: AskModel | None) -> None:
        for part in self._parts:
            if isinstance(part, Asking):
                part.ask = ask

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order, naming the verifier that decided."""
        found: list[Finding | None] = [None] * len(answers)
        left = list(range(len(answers)))
        for part in self._parts:
            graded = part.grade([answers[at] for at in left])
            still = []
            for at, finding in zip(left, graded, strict=True):
                named = Finding(
                    finding.value,
                    f"{part.name}: {finding.reason}",
                    finding.extracted,
                    finding.score,
                    finding.step_scores,
                )
                decided = (finding.value == "correct") == self.stops_at_correct
                first = found[at]
                if decided or not self.stops_at_correct or first is None or _says_more(named, first):
                    found[at] = named
                if not decided:
                    still.append(at)
            left = still
        return [finding for finding in found if finding is not None]

    def close(self) -> None:
        """End all parts."""
        for part in self._parts:
            part.close()


_WEIGHT = {"error": 5, "wrong": 4, "unparseable": 3, "ungradable": 1, "correct": 0}


def _says_more(one: Finding, other: Finding) -> bool:
    """Of verdicts none of which is correct, the one that is reported: a wrong answer is more than none at all.

    An error is most: who failed may have found it correct, and errors are not kept but graded again.
    """
    return _WEIGHT[one.value] > _WEIGHT[other.value]
