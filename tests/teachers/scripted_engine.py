"""Answers by what the problem says of itself: `p=0.3 long=20 ...` is solved by 3 answers of 10 and takes 20 tokens.

The gold answer of all of them is 7. `says=3` is the answer of all others; `hinted=1` those of a problem with a hint.
What becomes of an answer is in its key, so that it is the same in any order. Keeps lists of what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from distill.core.config import Settings
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity

SERVED = True
ASKED: list[Request] = []
BUILT: list[str] = []
STOP_AFTER: list[int] = []
"""Answers after which the process is interrupted; empty: never."""


class Config(Settings):
    """`fail_on` fails the problems that say so; `deaf` answers all samples of a problem with the same text."""

    fail_on: str | None = None
    deaf: bool = False


def identify(config: Config, model: str) -> ModelIdentity:
    return ModelIdentity(id=f"scripted-{model}-{config.deaf}", name=model, vocab_size=10)


def build(config: Config, model: str) -> ScriptedEngine:
    BUILT.append(model)
    return ScriptedEngine(config, model)


class ScriptedEngine:
    name = "scripted"

    def __init__(self, config: Config, model: str) -> None:
        self.config, self.identity = config, identify(config, model)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in sorted(requests, key=lambda r: r.key):  # not the order they came in
            if STOP_AFTER and len(ASKED) >= STOP_AFTER[0]:
                raise KeyboardInterrupt
            ASKED.append(request)
            yield self._answer(request)

    def _answer(self, request: Request) -> Completion:
        text = " ".join(message.content for message in request.messages)
        if self.config.fail_on is not None and self.config.fail_on in text:
            return Completion(
                request.key, "", "error", None, None, None, 0, 0, False, error="it refuses", failure="refused"
            )
        said = dict(re.findall(r"(\w+)=([\d.]+)", text))
        rate = float(said.get("hinted", said.get("p", 1)) if "Hint" in text else said.get("p", 1))
        chance = 0.5 if self.config.deaf else int(request.key[:8], 16) / 16**8
        long, limit = int(said.get("long", 10)), request.sampling.max_tokens
        boxed = "7" if chance < rate else said.get("says", "8")
        thought = f"thinking {'' if self.config.deaf else request.key[:6]}"
        return Completion(
            key=request.key,
            text=thought if long > limit else f"{thought}</think>\\boxed{{{boxed}}}",
            finish_reason="length" if long > limit else "stop",
            prompt_ids=(1, 2),
            prefill_ids=(3,),
            completion_ids=tuple(range(min(long, limit))),
            prompt_tokens=3,
            completion_tokens=min(long, limit),
            opened=True,
        )

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        raise AssertionError(f"not asked for in these tests: {requests}, {keep}")

    def close(self) -> None:
        pass
