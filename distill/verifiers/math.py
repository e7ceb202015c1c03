"""Final answers in mathematics: numbers exactly, expressions by meaning, never by running what a model wrote.

Reads the final answer only, never the thinking. Where it is looked for: `distill.text.answers`; how it is read:
`distill.text.readings`.

- An answer is taken apart into lists, sets, tuples, intervals, matrices and relations (`distill.text.shapes`), which
  are compared by the policies of `_equal`; docs/verify.md has them as a table.
- Numbers and texts decide in this process (`_numbers`); anything else goes to a killable worker (`_symbolic`), which
  follows the same policies, so that the fast path never disagrees with the slow one.
- Cut off, never ended, or without an answer: `unparseable`. A gold that is no answer: `ungradable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import PositiveFloat, PositiveInt

from distill.core.config import Settings, Unkeyed
from distill.core.protocols import Answer, Finding
from distill.core.workers import Limits, Workers
from distill.text.answers import Found, depth, extract, gold_answer, gold_fault, named_option, option_of
from distill.text.shapes import shape
from distill.text.think import OPEN
from distill.verifiers._equal import equal
from distill.verifiers._numbers import Quick

VERSION = 2
MAX_DEPTH = 50
"""Brackets nested deeper than this are no answer (a parser would take seconds to find that out)."""


class Config(Settings):
    """Settings of the `math` verifier."""

    percent: Literal["strict", "ignore"] = "strict"
    """`strict`: 10% is 0.1. `ignore`: 10% is also 10."""
    unmarked: Literal["last", "refuse"] = "last"
    """An answer without box, `####` or "the answer is": take the last formula or number, or none."""
    max_characters: PositiveInt = 2000
    """A longer final answer is not one."""
    cpu_s: PositiveFloat = 5.0
    """CPU seconds that the symbolic comparison of one answer may take."""
    memory_mib: PositiveInt = 1024
    """Address space of a worker."""
    workers: Annotated[PositiveInt, Unkeyed] = 2
    """Processes for symbolic comparisons; none is started while numbers and texts decide."""


def build(config: Config) -> MathVerifier:
    """The verifier; its workers start with the first answer that needs one."""
    return MathVerifier(config)


class MathVerifier:
    """Implements `distill.core.protocols.Verifier`."""

    name = "math"
    version = VERSION

    def __init__(self, config: Config) -> None:
        self.config = config
        self._quick_leaves = Quick(percent_strict=config.percent == "strict")
        self.workers = Workers(
            "distill.verifiers._symbolic:compare",
            count=config.workers,
            limits=Limits(cpu_s=config.cpu_s, memory_mib=config.memory_mib),
        )

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order. Equal pairs that need the symbolic engine are compared once."""
        findings: list[Finding | None] = []
        waiting: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for index, answer in enumerate(answers):
            decided = self._quick(answer)
            if isinstance(decided, Finding):
                findings.append(decided)
            else:
                findings.append(None)
                waiting.setdefault(decided.pair, []).append((index, decided.extracted))
        strict = self.config.percent == "strict"
        tasks = [{"gold": gold, "given": given, "percent": strict} for gold, given in waiting]
        for places, outcome in zip(waiting.values(), self.workers.map(tasks), strict=True):
            for index, extracted in places:
                if outcome.failure is not None:
                    findings[index] = Finding("unparseable", f"comparison {outcome.failure}", extracted)
                else:
                    findings[index] = _symbolic_finding(outcome.value, extracted)
        return [finding for finding in findings if finding is not None]

    def close(self) -> None:
        """End the worker processes."""
        self.workers.close()

    def _quick(self, answer: Answer) -> Finding | _Undecided:
        """What needs no symbolic engine: bad golds, missing answers, numbers, texts."""
        fault = gold_fault(answer.gold, self.config.max_characters)
        if fault is not None or answer.gold is None:
            return Finding("ungradable", fault or "no gold answer")
        text = answer.text
        if not answer.extracted:
            if answer.finish_reason == "length":
                return Finding("unparseable", "truncated")
            if not answer.closed or OPEN in text:
                return Finding("unparseable", "unfinished thinking")
            found = self._found(text, answer.gold)
            if found is None:
                return Finding("unparseable", "no answer")
            if not found.text:
                return Finding("unparseable", "empty box")
            text = found.text
        if not text.strip():
            return Finding("unparseable", "no answer")
        if len(text) > self.config.max_characters:
            return Finding("unparseable", "answer too long", text[:80] + "...")
        if depth(text) > MAX_DEPTH:
            return Finding("unparseable", "answer nested too deeply", text[:80] + "...")
        return self._compare(gold_answer(answer.gold).strip(), text.strip())

    def _found(self, text: str, gold: str) -> Found | None:
        """The answer in a text; for a gold that is an option's letter, an option where no other mark names one."""
        lenient = self.config.unmarked == "last"
        option = option_of(gold)
        found = extract(text, unmarked=lenient and option is None)
        if option is None or (found is not None and found.mark != "words"):
            return found
        letter = named_option(text) if found is not None or lenient else None
        return Found(letter, "words") if letter else found or (extract(text) if lenient else None)

    def _compare(self, gold: str, given: str) -> Finding | _Undecided:
        option = option_of(gold)
        if option is not None and (option[1] or option_of(given)):
            return self._compare_options(option, gold, given)
        right, answered = shape(gold), shape(given)
        if not answered.text:
            return Finding("unparseable", "no answer", given)
        if right.kind == answered.kind == "expression":
            said, reason = self._quick_leaves.explain(right.text, answered.text)
        else:
            said = equal(right, answered, self._quick_leaves)
            reason = "same answer" if said else "another answer"
        if said is None:
            return _Undecided((gold, given), given)
        return Finding("correct" if said else "wrong", reason, given)

    def _compare_options(self, option: tuple[str, str], gold: str, given: str) -> Finding | _Undecided:
        """A gold `C Cecile` accepts C, `C Cecile` and Cecile; a gold `C` accepts `C`, `(C)` and `C. Cecile`."""
        answered = option_of(given)
        if answered is None:
            return self._compare(option[1], given)
        same = answered[0] == option[0]
        if same and option[1] and answered[1] and gold != given:
            return self._compare(option[1], answered[1])
        return Finding("correct" if same else "wrong", "same text" if same else "another text", given)


class _Undecided:
    """A pair (gold, prediction) of texts for the symbolic engine."""

    def __init__(self, pair: tuple[str, str], extracted: str) -> None:
        self.pair, self.extracted = pair, extracted


def _symbolic_finding(value: dict[str, bool], extracted: str) -> Finding:
    if value["equal"]:
        return Finding("correct", "same expression", extracted)
    if not value["readable"]:
        return Finding("unparseable", "not readable as mathematics", extracted)
    return Finding("wrong", "another expression", extracted)
