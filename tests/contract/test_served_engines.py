"""One suite for every engine that buys its answers: what a sampling may rely on, whoever is paid."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core import plugins
from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Keep, Metered, Request, ScoreRequest
from distill.core.records import Message, Sampling
from tests.served.stub_server import requests, serving

PACKAGE = "distill.engines"
SERVED = [name for name in plugins.names(PACKAGE) if getattr(plugins.load(PACKAGE, name), "SERVED", False)]
KEY = "sk-contract-0123456789"


class Provider:
    """What a provider does with the body of one try: (status, reply)."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refuse: dict[int, tuple[int, str]] = {}
        """Status and message by how often a seed was asked for (1: the first time)."""
        self.finish = "stop"

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.bodies.append(body)
        tried = sum(b["seed"] == body["seed"] for b in self.bodies)
        if tried in self.refuse or 0 in self.refuse:
            status, message = self.refuse.get(tried) or self.refuse[0]
            return status, {"error": {"message": message}}
        content = f"{body['messages'][-1]['content']} {body['seed']}"
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": self.finish}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}


class Refused(Exception):
    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body["error"]["message"])
        self.status_code = status


def litellm_for(provider: Provider) -> Any:
    """A stand-in for the package that asks the provider."""

    async def acompletion(**asked: Any) -> Any:
        status, reply = provider.reply(asked)
        if status != 200:
            raise Refused(status, reply)
        return SimpleNamespace(model_dump=lambda: reply)

    return SimpleNamespace(acompletion=acompletion, Timeout=TimeoutError, APIConnectionError=ConnectionError)


@pytest.fixture(params=SERVED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def settings(name: str, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Settings with which the engine of this name reaches the provider."""
    monkeypatch.setenv("CONTRACT_KEY", KEY)
    common = {"api_key_env": "CONTRACT_KEY", "concurrency": 4, "retries": 2}
    if name == "litellm":
        monkeypatch.setitem(sys.modules, "litellm", litellm_for(provider))
        yield common
        return

    def answer(path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        status, reply = provider.reply(body) if body else (404, {})
        return status, {"content-type": "application/json"}, json.dumps(reply).encode()

    with serving(answer) as stub:
        yield {**common, "url": stub.url}


@pytest.fixture
def engine(name: str, settings: dict[str, Any]) -> Iterator[Any]:
    module = plugins.load(PACKAGE, name)
    built = module.build(module.Config(**settings), "org/model")
    yield built
    built.close()
    built.close()  # safe to call twice


class Purse:
    """A meter that holds every reservation to one settlement."""

    def __init__(self, limit: int = 10**9) -> None:
        self.limit, self.spent, self.most = limit, 0, 0
        self.reserved: dict[str, int] = {}
        self.kinds: Counter[str] = Counter()

    def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> bool:
        whole = self.spent + sum(self.reserved.values()) + prompt_tokens + completion_tokens
        if whole > self.limit:
            return False
        self.reserved[key] = prompt_tokens + completion_tokens
        self.most = max(self.most, whole)
        return True

    def settle(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        del self.reserved[key]
        self.spent += prompt_tokens + completion_tokens

    def failed(self, kind: str) -> None:
        self.kinds[kind] += 1


def draw(engine: Any, asked: list[Request]) -> dict[str, Completion]:
    completions = list(engine.generate(asked))
    assert sorted(c.key for c in completions) == sorted(r.key for r in asked), "one completion per request"
    return {completion.key: completion for completion in completions}


def test_each_answer_belongs_to_its_request_and_says_what_it_cost(engine, name):
    got = draw(engine, requests(20))

    assert engine.name == name
    for request in requests(20):
        c = got[request.key]
        assert c.text.startswith(request.messages[0].content)
        assert (c.finish_reason, c.error, c.failure, c.prompt_tokens, c.completion_tokens) == ("stop", None, "", 9, 4)
        assert (c.prompt_ids, c.completion_ids, c.logprobs) == (None, None, None)


def test_samples_of_one_question_have_seeds_of_their_own_that_never_change(engine):
    question = (Message("user", "What is 6*7?"),)
    asked = [Request(digest(["same", i]), question, Sampling(max_tokens=64)) for i in range(8)]

    first, again = draw(engine, asked), draw(engine, asked[:1])

    assert len({c.text for c in first.values()}) == 8
    assert again[asked[0].key].text == first[asked[0].key].text


def test_a_cut_answer_is_kept_and_not_bought_again(engine, provider):
    provider.finish = "length"

    got = draw(engine, requests(5))

    assert {c.finish_reason for c in got.values()} == {"length"}
    assert len(provider.bodies) == 5


def test_passing_faults_are_retried_under_the_meter_and_every_reservation_is_settled(engine, provider):
    provider.refuse = {1: (503, "busy"), 2: (429, "slow down")}
    assert isinstance(engine, Metered)
    engine.meter = purse = Purse()

    got = draw(engine, requests(6))

    assert all(c.error is None for c in got.values())
    assert purse.kinds == {"503": 6, "429": 6}
    assert (purse.reserved, purse.spent) == ({}, 6 * 13)


def test_a_budget_is_never_exceeded(engine):
    engine.meter = purse = Purse(limit=2000)

    got = draw(engine, requests(300))

    assert purse.most <= 2000
    assert purse.spent == 13 * sum(c.error is None for c in got.values())
    assert {c.failure for c in got.values()} == {"", "budget"}


def test_a_fault_that_stays_is_that_answer_s_alone(engine, provider):
    bad = requests(6)[2]
    refuse = {bad.key: (500, "the worker died")}
    plain = provider.reply
    provider.reply = lambda body: (
        (500, {"error": {"message": refuse[bad.key][1]}}) if body["messages"][-1]["content"] == bad.messages[0].content
        else plain(body)
    )  # fmt: skip

    got = draw(engine, requests(6))

    failed = [c for c in got.values() if c.error]
    assert [(c.key, c.failure, c.finish_reason) for c in failed] == [(bad.key, "500", "error")]
    assert "the worker died" in (failed[0].error or "")


@pytest.mark.parametrize(("status", "most"), [(401, 8), (403, 8), (404, 8), (400, 16)])
def test_what_all_would_meet_ends_the_run_in_the_provider_s_words_without_the_key(engine, provider, status, most):
    provider.refuse = {0: (status, f"wrong, {KEY}")}

    with pytest.raises(DistillError, match=rf"{status}: wrong, \*\*\*") as caught:
        list(engine.generate(requests(200)))

    assert len(provider.bodies) <= most
    assert KEY[3:12] not in str(caught.value)


def test_what_cannot_fit_the_context_is_refused_before_anything_is_sent(name, settings, provider):
    module = plugins.load(PACKAGE, name)
    built = module.build(module.Config(**settings, context=512), "org/model")

    with pytest.raises(DistillError, match=r"max_tokens 512.*context of 513.*512"):
        list(built.generate(requests(3, max_tokens=512)))

    assert provider.bodies == []


def test_identity_is_declared_and_depends_on_nothing_else(name, settings):
    module = plugins.load(PACKAGE, name)
    plain = module.identify(module.Config(**settings), "org/model")

    assert plain.name == "org/model"
    assert module.identify(module.Config(concurrency=1, retries=0, total_s=9.0), "org/model") == plain
    others = {
        module.identify(module.Config(), "org/other").id,
        module.identify(module.Config(), "org/model", "v2").id,
        module.identify(module.Config(precision="fp8"), "org/model").id,
    }
    assert len(others | {plain.id}) == 4


def test_scoring_is_refused_in_one_line(engine):
    with pytest.raises(DistillError, match="cannot score given tokens"):
        engine.score([ScoreRequest("k", (1,), (2,))], Keep(4))


def test_leaving_early_settles_what_was_reserved(engine):
    engine.meter = purse = Purse()
    run = engine.generate(iter(requests(100)))
    next(run)

    run.close()

    assert purse.reserved == {}
