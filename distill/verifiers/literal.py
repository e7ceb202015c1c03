"""A Python value, equal to the gold value: numbers, texts, lists, dictionaries ... written out; nothing is run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt

from distill.core.config import Settings
from distill.core.protocols import Answer, Finding
from distill.text.final import final_answer
from distill.verifiers._unanswered import unanswered

VERSION = 1

_FENCED = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)
_ASSERTION = re.compile(r"assert\s+.+?==\s*(.+)", re.DOTALL)


class Config(Settings):
    """Settings of the `literal` verifier."""

    max_characters: PositiveInt = 20_000
    """A longer answer is not one: a parser's stack would not hold it."""


def build(config: Config) -> LiteralVerifier:
    """The verifier."""
    return LiteralVerifier(config)


class LiteralVerifier:
    """Implements `distill.core.protocols.Verifier`. Equality is Python's: `1 == 1.0 == True`, `[1] != (1,)`."""

    name = "literal"
    version = VERSION

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        return [unanswered(answer) or self._grade(answer) for answer in answers]

    def close(self) -> None:
        """Nothing to end."""

    def _grade(self, answer: Answer) -> Finding:
        gold = self._value((answer.gold or "").strip())
        if gold is None:
            return Finding("ungradable", "gold is no Python value")
        said = answer.text if answer.extracted else _said(answer.text)
        if not said:
            return Finding("unparseable", "no answer")
        value = self._value(said.strip())
        if value is None:
            return Finding("wrong", "no Python value", said[:200])
        same = _equal(value[0], gold[0])
        return Finding("correct" if same else "wrong", "same value" if same else "another value", said.strip()[:200])

    def _value(self, text: str) -> tuple[Any] | None:
        if len(text) > self.config.max_characters:
            return None
        try:
            with warnings.catch_warnings():  # Python's remarks on odd literals (`1is`, `\d`) are about nobody's code
                warnings.simplefilter("ignore")
                return (ast.literal_eval(text),)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
            return None


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:  # nested as deep as the interpreter goes
        return False


def _said(text: str) -> str | None:
    """The last fenced block, else the final answer; of an assertion its right side."""
    fenced = _FENCED.findall(text)
    said = str(fenced[-1]).strip() if fenced else final_answer(text)
    if said is None:
        return None
    said = said.strip("`").strip()
    asserted = _ASSERTION.fullmatch(said)
    return asserted[1] if asserted else said
