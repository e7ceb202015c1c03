"""An engine that answers at once and from memory: what is left is what asking and storing cost.

teacher: {model: acme/instant, engine: {engine: benchmarks.instant, chars: 400}}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import PositiveInt

from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity
from tests.served.answers import FILLER, tokens

SERVED = True


class Config(Settings):
    """Settings of `benchmarks.instant`."""

    chars: PositiveInt = 400
    """Length of the reasoning."""


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    """By name."""
    del config, revision
    return ModelIdentity(id=f"instant {model}", name=model)


def build(config: Config, model: str, revision: str | None = None) -> Instant:
    """Make the engine."""
    return Instant(config, model, revision)


class Instant:
    """Answers in the order of the requests."""

    name = "instant"
    window = 256

    def __init__(self, config: Config, model: str, revision: str | None) -> None:
        self.config, self.identity = config, identify(config, model, revision)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield one completion per request."""
        for request in requests:
            start = int(request.key[:8], 16) % (len(FILLER) - self.config.chars)
            text = f"<think>{FILLER[start : start + self.config.chars]}</think>The sum is \\boxed{{{start}}}."
            yield Completion(request.key, text, "stop", None, None, None, 5, tokens(text), False)

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        """Refused."""
        del requests, keep
        raise DistillError("engine `instant` cannot score")

    def close(self) -> None:
        """Nothing is held."""
