"""The `litellm` engine with a stand-in for the package; and with the package itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core.errors import ConfigError, DistillError, MissingExtra
from distill.core.protocols import Completion, Metered
from distill.engines import litellm as engine_module
from distill.engines.litellm import Config, build, identify, prices
from tests.served.stub_server import requests

WHOLE = {
    "choices": [{"finish_reason": "stop", "index": 0, "message": {
        "content": "42", "role": "assistant", "reasoning_content": "six times seven",
        "thinking_blocks": [{"type": "thinking", "thinking": "six times seven", "signature": "x"}]}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16},
}  # fmt: skip


class Refused(Exception):
    """As litellm's errors: a status and the provider's response."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status_code = status
        self.response = SimpleNamespace(headers=headers)


class TimedOut(Exception):
    status_code = 408


class Broken(Exception):
    status_code = 500


class Package:
    """What the engine uses of litellm."""

    Timeout, APIConnectionError = TimedOut, Broken
    model_cost = {"claude-x": {"input_cost_per_token": 3e-6, "output_cost_per_token": 1.5e-5}}  # noqa: RUF012  a stand-in

    def __init__(self, act: Callable[[dict[str, Any], int], Any]) -> None:
        self.act, self.calls, self.closed = act, [], 0

    async def acompletion(self, **arguments: Any) -> Any:
        self.calls.append(arguments)
        did = self.act(arguments, sum(call["seed"] == arguments["seed"] for call in self.calls))
        if isinstance(did, Exception):
            raise did
        return SimpleNamespace(model_dump=lambda: did)

    async def close_litellm_async_clients(self) -> None:
        self.closed += 1

    def validate_environment(self, model: str) -> dict[str, Any]:
        return {"keys_in_environment": False, "missing_keys": ["ANTHROPIC_API_KEY"]}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    stand_in = Package(lambda arguments, tried: WHOLE)
    monkeypatch.setitem(sys.modules, "litellm", stand_in)
    monkeypatch.setenv("MY_KEY", "sk-ant-0123456789")
    return stand_in


def ask(n: int = 3, **settings: Any) -> list[Completion]:
    built = build(Config(**{"api_key_env": "MY_KEY", "concurrency": 4, "retries": 2, **settings}), "anthropic/claude-x")
    assert isinstance(built, Metered)
    return list(built.generate(requests(n, temperature=1.0, top_p=None, arguments={"thinking": {"type": "enabled"}})))


def test_one_call_is_one_try_without_litellm_s_own_retries(package):
    got = ask()

    assert {(c.text, c.reasoning, c.completion_tokens, c.error) for c in got} == {("42", "six times seven", 7, None)}
    call = package.calls[0]
    assert (call["max_retries"], call["num_retries"], call["drop_params"]) == (0, 0, False)
    assert (call["model"], call["api_key"], call["max_tokens"]) == ("anthropic/claude-x", "sk-ant-0123456789", 64)
    assert call["thinking"] == {"type": "enabled"}
    assert "top_p" not in call
    assert package.closed == 1
    assert len({c["seed"] for c in package.calls}) == 3


@pytest.mark.parametrize(
    "passing",
    [Refused(429, "busy", **{"Retry-After": "0.01"}), Refused(503, "m"), TimedOut("slow"), Broken("x"), KeyError("y")],
)
def test_what_may_pass_is_tried_again_by_our_rules(package, passing):
    package.act = lambda arguments, tried: passing if tried == 1 else WHOLE

    assert all(c.error is None for c in ask())
    assert len(package.calls) == 6


def test_a_wrong_key_ends_the_run_and_is_masked(package):
    package.act = lambda arguments, tried: Refused(401, "invalid x-api-key sk-ant-0123456789")

    with pytest.raises(DistillError, match=r"401: invalid x-api-key \*\*\*"):
        ask(50)


def test_a_wrong_setting_ends_the_run_after_a_few(package):
    package.act = lambda arguments, tried: Refused(400, "anthropic does not support seed")

    with pytest.raises(DistillError, match="the first 8 tries were all refused: 400: anthropic does not support seed"):
        ask(50)


def test_missing_keys_packages_and_clashes_are_one_line(package, monkeypatch):
    with pytest.raises(ConfigError, match="needs the environment variables ANTHROPIC_API_KEY"):
        build(Config(), "anthropic/claude-x")
    with pytest.raises(ConfigError, match="OTHER is not set"):
        build(Config(api_key_env="OTHER"), "anthropic/claude-x")
    with pytest.raises(DistillError, match="`options` sets max_tokens"):
        ask(1, options={"max_tokens": 3})
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(MissingExtra, match=r"pip install 'reasoning-distill\[litellm\]'"):
        build(Config(), "anthropic/claude-x")


def test_identity_and_prices(package):
    assert identify(Config(), "a/m").id != identify(Config(), "a/m", "v2").id
    assert identify(Config(concurrency=3, api_base="http://x"), "a/m") == identify(Config(), "a/m")
    assert prices(Config(), "anthropic/claude-x") == pytest.approx((3.0, 15.0))
    assert prices(Config(), "anthropic/unknown") is None


needs_package = pytest.mark.skipif(importlib.util.find_spec("litellm") is None, reason="litellm is not installed")


@needs_package
def test_the_package_itself_answers_in_process():
    built = build(Config(options={"mock_response": "the answer is 42"}, send_seed=False), "openai/gpt-4o")

    got = list(built.generate(requests(4, temperature=1.0)))

    assert {(c.text, c.finish_reason, c.error) for c in got} == {("the answer is 42", "stop", None)}
    assert all(c.completion_tokens > 0 for c in got)
    assert engine_module.prices(Config(), "openai/gpt-4o") is not None


@needs_package
@pytest.mark.parametrize(("mock", "said"), [("litellm.RateLimitError", "429"), ("litellm.InternalServerError", "500")])
def test_the_package_s_own_errors_are_understood(mock, said):
    built = build(Config(options={"mock_response": mock}, retries=0), "openai/gpt-4o")

    got = list(built.generate(requests(2, temperature=1.0)))

    assert [c.failure for c in got] == [said] * 2
