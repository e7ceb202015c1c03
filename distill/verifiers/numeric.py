"""A number within a stated tolerance of the gold number, for measurements and estimates."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from pydantic import NonNegativeFloat, model_validator

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.answers import extract
from distill.text.final import numbers_in
from distill.verifiers._unanswered import unanswered

VERSION = 1
MOST_DIGITS = 400
"""Digits and powers of ten beyond this are no measurement."""


class Config(Settings):
    """Settings of the `numeric` verifier: right within either tolerance."""

    relative: NonNegativeFloat = 0.01
    """Largest difference as a share of the gold number."""
    absolute: NonNegativeFloat = 0.0
    """Largest difference as it is."""

    @model_validator(mode="after")
    def _some(self) -> Config:
        if self.relative == 0 and self.absolute == 0:
            raise ValueError("both tolerances are 0; for exact numbers use the `math` verifier")
        return self


def build(config: Config) -> NumericVerifier:
    """The verifier."""
    return NumericVerifier(config)


class NumericVerifier:
    """Implements `distill.core.protocols.Verifier`. Units are not looked at."""

    name = "numeric"
    version = VERSION

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        return [unanswered(answer) or self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        golds = numbers_in(answer.gold or "")
        gold = _number(golds[0]) if len(golds) == 1 else None
        if gold is None:
            return Finding("ungradable", "gold is not one number")
        if answer.extracted:
            said: str | None = answer.text
        else:
            found = extract(answer.text)
            said = None if found is None else found.text
        given = numbers_in(said or "")
        if not given:
            return Finding("unparseable", "no number", (said or "")[:200] or None)
        if len(given) > 1:
            return Finding("wrong", "several numbers", (said or "")[:200])
        value = _number(given[0])
        if value is None:
            return Finding("wrong", "no number of this size", given[0][:200])
        off = abs(value - gold)
        near = off <= Fraction(self.config.absolute) or off <= Fraction(self.config.relative) * abs(gold)
        return Finding("correct" if near else "wrong", "within tolerance" if near else "out of tolerance", given[0])


def _number(text: str) -> Fraction | None:
    """An exact value; None for what would take longer to compute than any answer is worth."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or abs(value.adjusted()) > MOST_DIGITS or len(text) > MOST_DIGITS:
        return None
    return Fraction(value)
