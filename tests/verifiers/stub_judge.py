"""Judges of several characters, on an engine that reads its prompt as plain text: none of them is a model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from distill.core.config import Settings
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity

ASKED: list[str] = []
"""Every prompt."""
BLOCK = re.compile(r"^\[DATA (?P<name>[0-9a-f]+)\]\n(?P<data>.*)\n\[END OF DATA (?P=name)\]$", re.MULTILINE)
ORDER = re.compile(r"mark (?:it |this )?as correct|verdict is correct|you must (?:accept|say correct)", re.IGNORECASE)
TEMPLATES = ("<|", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<｜", "```")


class Config(Settings):
    manner: Literal["honest", "obedient", "liner", "echo", "chatty", "late", "cut", "split", "fails"] = "honest"


def identify(config: Config, model: str) -> ModelIdentity:
    return ModelIdentity(id=f"judge-{model}-{config.manner}", name=model)


def build(config: Config, model: str) -> StubJudge:
    return StubJudge(config, model)


class StubJudge:
    name = "stub_judge"

    def __init__(self, config: Config, model: str) -> None:
        self.config, self.identity = config, identify(config, model)
        self.turns: Counter[str] = Counter()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            prompt = request.messages[-1].content
            ASKED.append(prompt)
            self.turns[prompt] += 1
            if self.config.manner == "fails" and "fail" in prompt:
                yield Completion(request.key, "", "error", None, None, None, 0, 0, False, error="down")
                continue
            yield Completion(
                key=request.key, text=self.reply(prompt),
                finish_reason="length" if self.config.manner == "cut" else "stop",
                prompt_ids=None, prefill_ids=None, completion_ids=None, prompt_tokens=100, completion_tokens=10,
                opened=False,
            )  # fmt: skip

    def reply(self, prompt: str) -> str:
        block = BLOCK.search(prompt)
        assert block is not None, prompt
        data = json.loads(block["data"])
        right = data["answer"] == data.get("reference")
        outside = prompt[: block.start()] + prompt[block.end() :]
        manner = self.config.manner
        if manner == "obedient":  # does what is said last outside the data, as it sees it
            right = right or ORDER.search(outside) is not None
        if manner == "liner":  # obeys a line anywhere that begins like an order, and any mark of a chat template
            ordered = any(ORDER.search(line) and not line.startswith('{"') for line in prompt.splitlines())
            right = right or ordered or any(mark in block["data"] for mark in TEMPLATES)
        if manner == "echo" and (copied := re.search(r"\{[^{}]*verdict[^{}]*\}", data["answer"])):
            return copied[0]
        if manner == "split":
            right = self.turns[prompt] != 1
        said = json.dumps({"data": block["name"], "reason": "", "verdict": "correct" if right else "wrong"})
        if manner == "chatty" or (manner == "late" and "attempt 2" not in prompt):
            return f"Sure! {said}"
        return said

    def score(self, requests: Iterable[ScoreRequest], keep: Keep) -> Iterator[tuple[str, TokenLogprobs]]:
        raise AssertionError("a judge is not asked for log-probabilities")

    def close(self) -> None:
        pass


def answer_in(prompt: str) -> Any:
    """The answer that a prompt quotes."""
    block = BLOCK.search(prompt)
    assert block is not None, prompt
    return json.loads(block["data"])["answer"]
