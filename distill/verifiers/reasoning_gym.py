"""The scorer that a reasoning-gym task brings along (extra `gym`), in a process that can be killed.

A problem's `tests` name the task and hold its entry (`distill/text/gym_tests.py`), as the source `reasoning_gym`
writes them. Scores below `threshold` are `wrong`; the score is kept. Scorers that would evaluate the answer as Python
get a reader of literals and formulas instead: no answer is ever run. A full score is not believed where the scorer
gives one to any text (`game_of_life_halting` does), to NaN, or to a number that is not the gold's (`coin_flip` gives
it to the first digits).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from distill.core import plugins
from distill.core.config import Settings, Unkeyed
from distill.core.protocols import Answer, Finding
from distill.core.records import VerdictValue
from distill.core.workers import Limits, Outcome, Workers
from distill.text.final import Where, final_answer
from distill.text.gym_tests import parse
from distill.verifiers._unanswered import unanswered

VERSION = 1
EXTRA = {"reasoning_gym": "gym"}


class Config(Settings):
    """Settings of the `reasoning_gym` verifier."""

    where: Where = "auto"
    """Where the answer stands: in an `<answer>` `tag`, `boxed`, on the `last_line`, the `whole` text; `auto` takes the
    first of tag, box and a line `Answer: ...` that is there, else the whole."""
    threshold: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Score from which an answer is correct; scorers give parts of a point for answers that are near."""
    max_characters: PositiveInt = 20_000
    """A longer final answer is not one."""
    cpu_s: PositiveFloat = 10.0
    """CPU seconds that scoring one answer may take, with what the task loads for it."""
    memory_mib: PositiveInt = 2048
    """Address space of a worker."""
    workers: Annotated[PositiveInt, Unkeyed] = 2
    """Processes that score."""


def build(config: Config) -> ReasoningGymVerifier:
    """The verifier; its workers start with the first answer. Raises MissingExtra without the package."""
    plugins.require("verifier `reasoning_gym`", "reasoning_gym", EXTRA["reasoning_gym"])
    return ReasoningGymVerifier(config)


class ReasoningGymVerifier:
    """Implements `distill.core.protocols.Verifier`."""

    name = "reasoning_gym"
    version = VERSION

    def __init__(self, config: Config) -> None:
        self.config = config
        self.workers = Workers(
            "distill.verifiers._gym:score",
            count=config.workers,
            limits=Limits(cpu_s=config.cpu_s, memory_mib=config.memory_mib),
        )

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order."""
        read = [self._read(answer) for answer in answers]
        tasks = [{"tests": answer.tests, "answer": one} for answer, one in zip(answers, read, strict=True) if
                 isinstance(one, str)]  # fmt: skip
        outcomes = iter(self.workers.map(tasks))
        return [one if isinstance(one, Finding) else self._finding(one, next(outcomes)) for one in read]

    def close(self) -> None:
        """End the worker processes."""
        self.workers.close()

    def _read(self, answer: Answer) -> Finding | str:
        """The extracted answer, or why there is nothing to score."""
        if not (answer.tests or "").strip():
            return Finding("ungradable", "no entry of a task")
        if why := _fault(answer.tests or ""):
            return Finding("ungradable", why)
        if missing := unanswered(answer, gold=False):
            return missing
        said = answer.text.strip() if answer.extracted else final_answer(answer.text, self.config.where)
        if not said:
            return Finding("unparseable", "no answer")
        if len(said) > self.config.max_characters:
            return Finding("unparseable", "answer too long", said[:80] + "...")
        return said

    def _finding(self, said: str, outcome: Outcome) -> Finding:
        if outcome.failure is not None:
            # A scorer that an answer makes run on has not accepted it.
            return Finding("unparseable", f"scorer {outcome.failure}", said[:200])
        if "fault" in outcome.value:
            return Finding("ungradable", outcome.value["fault"], said[:200])
        score, why = outcome.value["score"], outcome.value["why"]
        if score is None:
            return Finding("unparseable", why, said[:200])
        value: VerdictValue = "correct" if score >= self.config.threshold else "wrong"
        return Finding(value, why or f"scored {score:.2g}", said[:200], score)


@lru_cache(maxsize=4096)
def _fault(tests: str) -> str:
    try:
        parse(tests)
    except ValueError as error:
        return str(error)[:120]
    return ""
