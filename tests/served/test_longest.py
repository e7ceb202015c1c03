"""A prompt that cannot fit a server's context is refused before any answer is bought, wherever it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill import rollout
from distill.core.errors import DistillError
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import Message, Problem, Sampling, problem_id
from distill.core.stage import Workspace
from tests.served.stub_server import Answer, good, serving


def problem(text: str) -> Problem:
    messages = (Message("user", text),)
    return Problem(problem_id(messages), messages, "42", "train")


def answer(path: str, body: Any) -> Answer:
    """A vLLM whose tokens are words, with room for 100."""
    if path == "/tokenize":
        count = sum(len(message["content"].split()) for message in body["messages"])
        return (
            200,
            {"content-type": "application/json"},
            json.dumps({"count": count, "max_model_len": 100, "tokens": []}).encode(),
        )
    if path.endswith("/models"):
        listed = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm", "max_model_len": 100}]}
        return 200, {"content-type": "application/json"}, json.dumps(listed).encode()
    return good()


@pytest.mark.parametrize("place", [0, 25, 49])
def test_the_longest_prompts_are_looked_at_first(tmp_path: Path, place: int):
    problems = [problem(f"What is {n} and {n}?") for n in range(50)]
    problems[place] = problem("and again " * 40)
    with serving(answer) as stub:
        engine: Choice = ChoiceOf("distill.engines", "engine")._validate({"openai": {"url": stub.url}})
        asks = [rollout.Ask(one, range(2)) for one in problems]

        with pytest.raises(DistillError, match="80 tokens and max_tokens 64 need a context of 144"):
            rollout.fill(
                asks, Sampling(max_tokens=64), rollout.Teacher(engine, "m"), Workspace(tmp_path), label="sample"
            )
        assert not [path for path, _, _ in stub.asked if path.endswith("/completions")]

        filled = rollout.fill(
            asks, Sampling(max_tokens=20), rollout.Teacher(engine, "m"), Workspace(tmp_path), label="sample"
        )
    assert filled.bought == 100
