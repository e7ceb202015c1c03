"""Counts letters instead of thinking; keeps a list of what it was asked, so that tests can count what was paid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distill.core.config import Settings
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity

ASKED: list[str] = []
BUILT: list[str] = []


class Config(Settings):
    """`fail_on` fails problems whose text holds it; `length` is how many tokens an answer wants."""

    fail_on: str | None = None
    length: int = 5


def identify(config: Config, model: str) -> ModelIdentity:
    return ModelIdentity(id=f"stub-{model}", name=model)


def build(config: Config, model: str) -> StubEngine:
    BUILT.append(model)
    return StubEngine(config, model)


class StubEngine:
    name = "stub"

    def __init__(self, config: Config, model: str) -> None:
        self.config, self.identity = config, identify(config, model)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in sorted(requests, key=lambda r: r.key):  # not the order they came in
            ASKED.append(request.key)
            text = request.messages[-1].content
            if self.config.fail_on is not None and self.config.fail_on in text:
                yield Completion(request.key, "", "error", None, None, None, 0, 0, False, error="the stub refuses")
                continue
            cut = self.config.length > request.sampling.max_tokens
            yield Completion(
                key=request.key,
                text=f"thinking of {text}" + ("" if cut else f"</think>\\boxed{{{len(text)}}}"),
                finish_reason="length" if cut else "stop",
                prompt_ids=(1,),
                prefill_ids=(2,),
                completion_ids=tuple(range(3, 3 + min(self.config.length, request.sampling.max_tokens))),
                prompt_tokens=1,
                completion_tokens=min(self.config.length, request.sampling.max_tokens),
                opened=True,
            )

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        raise AssertionError(f"not asked for in these tests: {requests}, {keep}")

    def close(self) -> None:
        pass
