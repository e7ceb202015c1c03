"""Instructions that a program can see followed: IFEval's 25 kinds, and JSON that fits a schema (extra `constraints`).

    verify: {verifier: {constraints: {mode: loose}}}

A problem's `tests` hold its instructions (`distill/text/constraints.py` has the forms), or its `verifier_settings`
do. `correct` is all of them; `score` is the share followed, `step_scores` each one, in order. Of a cut or missing
answer none is followed.

- The whole final answer is looked at, never the thinking.
- `mode: loose` also tries the answer without its first line, its last, both, and without asterisks (IFEval's loose
  accuracy): an opening "Sure, here it is:" then costs nothing.
- An instruction that is not known, or lacks an argument, is `ungradable` with its name: it is never passed over.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import PositiveFloat, PositiveInt

from distill.core import plugins
from distill.core.config import Settings, Unkeyed
from distill.core.protocols import Answer, Finding
from distill.core.workers import Limits, Workers
from distill.text.constraints import SCHEMA, Instruction, fault, follows, parse, readings
from distill.verifiers._unanswered import unanswered

VERSION = 2
EXTRA = {"jsonschema": "constraints"}


class Config(Settings):
    """Settings of the `constraints` verifier."""

    mode: Literal["strict", "loose"] = "strict"
    """`loose`: an instruction counts as followed if it is so without the first or last line, or without asterisks."""
    instructions: list[dict[str, Any]] | None = None
    """`[{instruction: "punctuation:no_comma", kwargs: {}}]`, where a problem's tests do not hold them."""
    max_characters: PositiveInt = 200_000
    """A longer answer is not looked at."""
    cpu_s: PositiveFloat = 5.0
    """CPU seconds that one JSON Schema may take."""
    workers: Annotated[PositiveInt, Unkeyed] = 2
    """Processes for JSON Schema; none is started where there is none."""


def build(config: Config) -> ConstraintsVerifier:
    """The verifier; its workers start with the first JSON Schema."""
    return ConstraintsVerifier(config)


class ConstraintsVerifier:
    """Implements `distill.core.protocols.Verifier`."""

    name = "constraints"
    version = VERSION
    compares = False  # any two answers may follow the same instructions

    def __init__(self, config: Config) -> None:
        self.config = config
        self._told = None if config.instructions is None else json.dumps(config.instructions)
        self.workers = Workers(
            "distill.verifiers._schema:validate", count=config.workers, limits=Limits(cpu_s=config.cpu_s)
        )

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        opened = [self._open(answer) for answer in answers]
        fits = self._fits(answers, opened)
        return [
            one if isinstance(one, Finding) else self._finding(answer, one, fits)
            for answer, one in zip(answers, opened, strict=True)
        ]

    def close(self) -> None:
        """End the worker processes."""
        self.workers.close()

    def _open(self, answer: Answer) -> Finding | tuple[Instruction, ...]:
        """The instructions for an answer, or why there is nothing to grade."""
        told = answer.tests if (answer.tests or "").strip() else self._told
        if told is None:
            return Finding("ungradable", "no instructions")
        found = _instructions(told)
        if isinstance(found, str):
            return Finding("ungradable", found)
        missing = unanswered(answer, gold=False)
        if missing is None and len(answer.text) > self.config.max_characters:
            missing = Finding("unparseable", "answer too long")
        if missing is not None:  # none is followed: each counts against the model, as the whole answer does
            return replace(missing, score=0.0, step_scores=(0.0,) * len(found))
        return found

    def _readings(self, text: str) -> list[str]:
        return [text] if self.config.mode == "strict" else readings(text)

    def _fits(
        self, answers: Sequence[Answer], opened: Sequence[Finding | tuple[Instruction, ...]]
    ) -> dict[str, dict[str, str]]:
        """What the workers say of every reading under every schema, by task."""
        tasks = {
            _task(instruction, text): None
            for answer, one in zip(answers, opened, strict=True)
            if not isinstance(one, Finding)
            for instruction in one
            if instruction.id == SCHEMA
            for text in self._readings(answer.text)
        }
        outcomes = self.workers.map([json.loads(task) for task in tasks])
        return {
            task: outcome.value if outcome.failure is None else {"fault": outcome.failure}
            for task, outcome in zip(tasks, outcomes, strict=True)
        }

    def _finding(
        self, answer: Answer, instructions: tuple[Instruction, ...], fits: dict[str, dict[str, str]]
    ) -> Finding:
        texts = self._readings(answer.text)
        followed: list[bool] = []
        why = ""
        for instruction in instructions:
            if instruction.id == SCHEMA:
                said = [fits[_task(instruction, text)] for text in texts]
                if schema_fault := said[0].get("schema_fault"):
                    return Finding("ungradable", f"{SCHEMA}: {schema_fault}")
                if said[0]["fault"].startswith("raised"):
                    return Finding("error", f"{SCHEMA}: {said[0]['fault']}")
                followed.append(not all(one["fault"] for one in said))
                fault_here = f"{SCHEMA} ({said[0]['fault']})"
            else:
                followed.append(any(follows(instruction, text) for text in texts))
                fault_here = instruction.id
            if not followed[-1]:
                why = why or fault_here
        count, passed = len(followed), sum(followed)
        scores = tuple(float(one) for one in followed)
        if passed == count:
            reason = f"followed {count} instruction{'s' if count > 1 else ''}"
            return Finding("correct", reason, score=1.0, step_scores=scores)
        return Finding("wrong", f"not followed: {why}; {passed} of {count}", score=passed / count, step_scores=scores)


@lru_cache(maxsize=4096)
def _instructions(told: str) -> tuple[Instruction, ...] | str:
    """The instructions, or why they cannot be graded. Raises MissingExtra for a schema without its package."""
    try:
        found = parse(told)
    except ValueError as error:
        return str(error)
    for instruction in found:
        if why := fault(instruction):
            return why
        if instruction.id == SCHEMA:
            plugins.require("verifier `constraints` with a JSON Schema", "jsonschema", EXTRA["jsonschema"])
            from distill.verifiers._schema import schema_fault

            if why := schema_fault(instruction.kwargs["schema"]):
                return f"{SCHEMA}: {why}"
    return tuple(found)


def _task(instruction: Instruction, text: str) -> str:
    return json.dumps({"schema": instruction.kwargs["schema"], "text": text}, sort_keys=True)
