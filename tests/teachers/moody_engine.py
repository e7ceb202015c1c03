"""A served engine with bad habits that can be chosen: ignores settings, refuses them, hides or moves its reasoning."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Request, TokenLogprobs
from distill.core.records import ModelIdentity

SERVED = True
ASKED: list[Request] = []
WORDS = [f"word{n}" for n in range(50)]
THOUGHT, ANSWER = "17 + 25 is 42", "\\boxed{42}"


class Config(Settings):
    """What is wrong with it."""

    ignores: list[str] = Field(default_factory=list)
    """Settings that change nothing: seed, repeat (the same seed gives other texts), temperature, zero
    (a temperature of 0 is taken for a small one), top_p, top_k, max_tokens, thinking."""
    refuses: list[str] = Field(default_factory=list)
    """Settings that are refused: those above, arguments, logprobs, everything."""
    text: str = f"<think>{THOUGHT}</think>{ANSWER}"
    """What it answers to the question."""
    field: str | None = None
    """Where else it puts the thought."""
    hidden: bool = False
    cut: bool = False
    cap: int = 20
    """Log-probabilities it gives; more are refused. 0: it gives none and says nothing."""
    named: bool = True
    """Whether tokens come as ids."""
    tokenizer: str | None = "made-up"
    usage: bool = True


def identify(config: Config, model: str, revision: str | None = None) -> ModelIdentity:
    return ModelIdentity("moody", model, tokenizer=config.tokenizer, vocab_size=99 if config.tokenizer else None)


def build(config: Config, model: str, revision: str | None = None) -> MoodyEngine:
    return MoodyEngine(config, model)


class Sender:
    def __init__(self) -> None:
        self.context = 4096
        self.heard: Callable[[dict[str, Any], Any], None] | None = None


class MoodyEngine:
    name = "moody"

    def __init__(self, config: Config, model: str) -> None:
        self.config, self.identity, self.sender = config, identify(config, model), Sender()
        self.calls = 0

    def close(self) -> None:
        pass

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            ASKED.append(request)
            self.calls += 1
            completion, choice = self._answer(request)
            if self.sender.heard is not None and completion.error is None:
                self.sender.heard({}, {"choices": [choice], **({"usage": {}} if self.config.usage else {})})
            yield completion

    def _answer(self, request: Request) -> tuple[Completion, dict[str, Any]]:
        config, sampling = self.config, request.sampling
        if "everything" in config.refuses:
            raise DistillError("401: wrong key")
        odd = ["temperature"] if sampling.temperature == 0 else []
        odd += ["top_p"] if (sampling.top_p or 1) < 0.01 else []
        odd += ["top_k"] if sampling.top_k == 1 else []
        odd += ["arguments"] if "distill_probe_unknown_setting" in sampling.arguments else []
        odd += ["thinking"] if sampling.thinking is False else []
        odd += ["logprobs"] if sampling.top_logprobs > max(config.cap, 0) and config.cap else []
        for name in odd:
            if name in config.refuses or name == "logprobs":
                return _failed(request, f"400: {name} is not supported"), {}
        if request.messages[-1].content.startswith("What is"):
            return self._question(request)
        text = " ".join(self._drawn(request))
        n = len(text.split())
        logprobs, choice = self._logprobs(n, sampling.top_logprobs)
        ids = tuple(range(n)) if config.named and config.cap else None
        reason: Literal["stop", "length"] = "length"
        return Completion(
            request.key, text, reason, None, None, ids, 9, n, False, logprobs=logprobs if ids else None
        ), choice

    def _question(self, request: Request) -> tuple[Completion, dict[str, Any]]:
        config = self.config
        plain = request.sampling.thinking is False and "thinking" not in config.ignores
        text, field = (ANSWER, None) if plain else (config.text, config.field)
        reason: Literal["stop", "length"] = "length" if config.cut else "stop"
        made = Completion(request.key, text, reason, None, None, None, 9, 30, False, reasoning=field and THOUGHT)
        if config.hidden:
            made = replace(made, reasoning_kind="hidden")
        return made, {"message": {"content": text, **({field: THOUGHT} if field else {})}}

    def _drawn(self, request: Request) -> list[str]:
        config, sampling = self.config, request.sampling
        n = 99 if "max_tokens" in config.ignores else sampling.max_tokens
        narrow = [
            sampling.temperature == 0 and not {"temperature", "zero"} & set(config.ignores),
            (sampling.top_p or 1) < 0.01 and "top_p" not in config.ignores,
            sampling.top_k == 1 and "top_k" not in config.ignores,
        ]
        if any(narrow):
            return WORDS[:1] * n
        seed = "fixed" if "seed" in config.ignores else request.key
        if "zero" in config.ignores and sampling.temperature == 0:  # taken for a small temperature
            seed += "cold"
        if "repeat" in config.ignores:
            seed += str(self.calls)
        noise = random.Random(seed)
        return [noise.choice(WORDS) for _ in range(n)]

    def _logprobs(self, n: int, k: int) -> tuple[TokenLogprobs | None, dict[str, Any]]:
        if not k or not self.config.cap:
            return None, {}
        named = {"id": 1} if self.config.named else {"token": "a"}
        raw = {"logprobs": {"content": [{**named, "logprob": -1.0, "top_logprobs": [named] * k}] * n}}
        if self.config.tokenizer is None:
            return None, raw
        ones = np.ones(n, np.float32)
        ids_NK = np.tile(np.arange(k, dtype=np.int32), (n, 1))
        return TokenLogprobs(ids_NK, -np.ones((n, k), np.float32), -ones, -ones, np.ones(n, np.bool_)), raw


def _failed(request: Request, text: str) -> Completion:
    return Completion(request.key, "", "error", None, None, None, 0, 0, False, error=text, failure="400")
