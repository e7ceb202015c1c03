"""Problems, a teacher and an engine for the tests of rollout; each try goes to a file that outlives its process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.core.config import Settings
from distill.core.plugins import Choice
from distill.core.protocols import Completion, Meter, Request
from distill.core.records import Message, ModelIdentity, Problem, Sampling, problem_id
from distill.rollout import Ask, Prices, Teacher

SAMPLING = Sampling(max_tokens=50)


class Config(Settings):
    """`paid`: a file with one line a try. `metered` asks the meter before each; `fail` fails keys that begin so."""

    paid: str
    metered: bool = False
    fail: str | None = None
    delay_s: float = 0.0
    retries: int = 0
    """How many tries of each answer are lost before one succeeds; metered engines only."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    return ModelIdentity(id=f"{model}-{revision or 'any'}", name=model)


def build(config: Config, model: str, revision: str | None = None) -> Engine:
    return MeteredEngine(config, model, revision) if config.metered else Engine(config, model, revision)


def length_of(key: str) -> int:
    """How long the answer to this key is: 1 to 50 tokens."""
    return 1 + int(key[:6], 16) % 50


class Engine:
    """Answers one after the other, in the order it is asked."""

    name = "world"

    def __init__(self, config: Config, model: str, revision: str | None) -> None:
        self.config, self.identity = config, identify(config, model, revision)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield self.answer(request)

    def answer(self, request: Request) -> Completion:
        time.sleep(self.config.delay_s)
        with Path(self.config.paid).open("a") as file:
            file.write(f"{request.key} {os.getpid()}\n")
        if self.config.fail is not None and request.key.startswith(tuple(self.config.fail)):
            return Completion(
                request.key, "", "error", None, None, None, 7, 0, False, error="overloaded", failure="503"
            )
        length = min(length_of(request.key), request.sampling.max_tokens)
        text = f"{request.messages[-1].content}: {request.key[:8]}"
        return Completion(request.key, text, "stop", None, None, None, 7, length, False)

    def close(self) -> None:
        pass


class MeteredEngine(Engine):
    """Reserves before each try, several tries an answer, and gives up an answer that does not fit."""

    def __init__(self, config: Config, model: str, revision: str | None) -> None:
        super().__init__(config, model, revision)
        self.meter: Meter | None = None

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        assert self.meter is not None
        for request in requests:
            for last in [False] * self.config.retries + [True]:
                if not self.meter.reserve(request.key, 10, request.sampling.max_tokens):
                    why = "the budget is spent"
                    yield Completion(
                        request.key, "", "error", None, None, None, 0, 0, False, error=why, failure="budget"
                    )
                    break
                if last:
                    completion = self.answer(request)
                    self.meter.settle(request.key, 7, completion.completion_tokens)
                    yield completion
                else:
                    self.meter.failed("503")
                    self.meter.settle(request.key, 10, request.sampling.max_tokens)  # a lost reply: the worst case


def problem(number: int) -> Problem:
    messages = (Message("system", "Be brief."), Message("user", f"question {number}"))
    return Problem(problem_id(messages), messages, gold=str(number), split="train")


def asks(problems: int, samples: int, **changes: bool) -> list[Ask]:
    return [Ask(problem(number), range(samples), **changes) for number in range(problems)]


def teacher(folder: Path, prices: Prices | None = None, **config: object) -> Teacher:
    settings = Config.model_validate({"paid": str(folder / "paid.txt"), **config})
    return Teacher(Choice("distill.engines", "engine", "tests.rollout.world", settings), "m", prices=prices)


def paid(folder: Path) -> list[str]:
    """Keys of all tries that were answered, in order, over all processes."""
    file = folder / "paid.txt"
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []
