"""An engine that reads its answers from a file: the "model" is a JSON object, question to text and reason to end.

A question is the first line of the last turn. A text that is None fails as an infrastructure error; of a list of texts,
each draw takes the next. Every question drawn is appended to `DRAWN`, all that was asked to `ASKED`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from distill.core.config import Settings
from distill.core.files import sha256_file
from distill.core.protocols import Completion, Engine, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import Message, ModelIdentity

DRAWN: list[str] = []
ASKED: list[tuple[Message, ...]] = []


class Config(Settings):
    """Settings of the `scripted` engine."""


def identify(config: Config, model: str) -> ModelIdentity:
    """The file's content is the model."""
    return ModelIdentity(id=sha256_file(Path(model))[:32], name=Path(model).name)


def build(config: Config, model: str) -> Engine:
    """The engine."""
    return _Scripted(model)


class _Scripted:
    name = "scripted"

    def __init__(self, model: str) -> None:
        self.identity = identify(Config(), model)
        self._texts = json.loads(Path(model).read_text(encoding="utf-8"))
        self._drawn: Counter[str] = Counter()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            question = request.messages[-1].content.partition("\n")[0]
            DRAWN.append(question)
            ASKED.append(request.messages)
            text, finish = self._texts[question]
            if isinstance(text, list):
                text = text[self._drawn[question] % len(text)]
                self._drawn[question] += 1
            common = {"prompt_ids": None, "prefill_ids": None, "completion_ids": None, "prompt_tokens": 9}
            thinking = len(text.split("</think>")[0].split()) if text else 0
            yield Completion(
                key=request.key, text=text or "", finish_reason="error" if text is None else finish, **common,
                completion_tokens=len(text.split()) if text else 0, reasoning_tokens=thinking, opened=True,
                latency_s=0.25, error="the server is gone" if text is None else None,
            )  # fmt: skip

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        raise NotImplementedError("a script has no log-probabilities")

    def close(self) -> None:
        """Nothing to free."""
