"""Given tokens scored by a server's prompt log-probabilities: every row its own token's, or none at all."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.errors import DistillError
from distill.core.protocols import Keep, ScoreRequest, TokenLogprobs
from distill.engines.openai import Config, build
from distill.served.engine import ServedEngine
from tests.served import answers
from tests.served.process import FaultServer
from tests.served.stub_server import Answer, Stub, refusal, serving

VOCAB = 320
"""As the tiny tokenizer's."""


def engine(url: str, tokenizer: Path, **settings: Any) -> ServedEngine:
    values = {"url": url, "tokenizer": str(tokenizer), "concurrency": 8, "retries": 6, "scored_tokens": 70}
    return build(Config(**{**values, **settings}), "acme/teacher-7b")


def traces(n: int, seed: int = 0) -> list[ScoreRequest]:
    rng = random.Random(seed)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCAB) for _ in range(rng.randint(least, most)))

    return [ScoreRequest(f"trace {i}", ids(1, 8), ids(1, 30)) for i in range(n)]


def expected(request: ScoreRequest, k: int) -> TokenLogprobs:
    """By hand: the k largest (ties by id), one minus their mass, and the token's own."""
    ids, tops, tails, realised = [], [], [], []
    whole = [*request.prompt_ids, *request.completion_ids]
    for j in range(len(request.prompt_ids), len(whole)):
        values = answers.distribution(whole[:j], VOCAB)
        order = sorted(range(VOCAB), key=lambda i: (-values[i], i))[:k]
        ids.append(order)
        tops.append([values[i] for i in order])
        tails.append(np.log(np.exp([value for i, value in enumerate(values) if i not in order]).sum()))
        realised.append(values[whole[j]])
    n = len(ids)
    return TokenLogprobs(
        np.asarray(ids, np.int32), np.asarray(tops, np.float32), np.asarray(tails, np.float32),
        np.asarray(realised, np.float32), np.ones(n, bool),
    )  # fmt: skip


def check(got: TokenLogprobs, request: ScoreRequest, k: int) -> None:
    """Values to single precision. Among ties at the edge a server may choose: its ids have the same probability."""
    wanted = expected(request, k)
    assert got.present_N.all()
    np.testing.assert_allclose(got.logprobs_NK, wanted.logprobs_NK, rtol=1e-6)
    np.testing.assert_allclose(got.realised_N, wanted.realised_N, rtol=1e-6)
    np.testing.assert_allclose(got.tail_N, wanted.tail_N, atol=1e-4)
    whole = [*request.prompt_ids, *request.completion_ids]
    for j, row in enumerate(got.ids_NK):
        values = np.asarray(answers.distribution(whole[: len(request.prompt_ids) + j], VOCAB))
        np.testing.assert_allclose(values[row], got.logprobs_NK[j], rtol=1e-6)


def test_every_token_gets_its_own_row_whatever_fails_on_the_way(server: FaultServer, tiny_model: Path) -> None:
    faults = {"429": 0.1, "500": 0.1, "reset inside": 0.1, "half body": 0.1, "bad json": 0.1, "hang": 0.0}
    url = server.plan("scoring", faults=faults, delay_s=(0.0, 0.02))
    asked = traces(24)

    got = dict(engine(url, tiny_model).score(asked, Keep(5)))

    assert set(got) == {request.key for request in asked}
    for request in asked:
        check(got[request.key], request, 5)  # type: ignore[arg-type]  # rows of the largest entries
    stats = server.stats("scoring")
    assert stats["kinds"]["429"] > 0 and stats["kinds"]["reset inside"] > 0
    longest = max(len(request.prompt_ids + request.completion_ids) for request in asked)
    assert longest < stats["most_scored_at_once"] <= 70


def test_a_trace_longer_than_the_budget_goes_alone(server: FaultServer, tiny_model: Path) -> None:
    url = server.plan("alone", delay_s=(0.0, 0.01))
    asked = traces(12)
    dict(engine(url, tiny_model, scored_tokens=1).score(asked, Keep(5)))
    longest = max(len(request.prompt_ids + request.completion_ids) for request in asked)
    stats = server.stats("alone")
    assert (stats["most_scored_at_once"], stats["most_at_once"]) == (longest, 1)


def test_a_server_s_cap_is_named_before_anything_is_scored(server: FaultServer, tiny_model: Path) -> None:
    url = server.plan("cap")
    message = (
        r"at most 20 log-probabilities a token, `score.top_k` is 64; start it with `--max-logprobs 64`, or set `sco"
    )
    with pytest.raises(DistillError, match=message):
        list(engine(url, tiny_model).score(traces(5), Keep(64)))
    assert server.stats("cap")["calls"] == 0


# ---- replies that do not fit


def reply(body: Any, change: Callable[[list[Any]], Any] | None = None) -> Answer:
    """A vLLM's answer, its rows changed where they are those of a whole trace and not of the first look."""
    rows: Any = answers.prompt_logprobs(body["prompt"], body["prompt_logprobs"], VOCAB)
    if change is not None and len(body["prompt"]) > 2:
        rows = change(rows)
    choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": rows}
    return 200, {"content-type": "application/json"}, json.dumps({"choices": [choice]}).encode()


def stubbed(change: Callable[[list[Any]], Any] | None = None) -> Any:
    def answer(path: str, body: Any) -> Answer:
        return reply(body, change) if path.endswith("/completions") else refusal(404)

    return serving(answer)


@pytest.fixture
def plain() -> Iterator[Stub]:
    with stubbed() as stub:
        yield stub


ONE = ScoreRequest("one", (9, 10), (40, 41, 42, 43))


def test_what_is_sent_is_the_trace_as_ids(plain: Stub, tiny_model: Path) -> None:
    ((key, got),) = engine(plain.url, tiny_model).score([ONE], Keep(3))
    assert key == "one"
    check(got, ONE, 3)  # type: ignore[arg-type]
    look, whole = plain.bodies
    assert look["prompt"] == [0, 1]
    assert whole == {
        "model": "acme/teacher-7b", "prompt": [9, 10, 40, 41, 42, 43], "max_tokens": 1, "temperature": 0.0,
        "prompt_logprobs": 3,
    }  # fmt: skip
    assert {path for path, body, _ in plain.asked if body} == {"/v1/completions"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[1:],
            "5 rows of log-probabilities for 6 tokens; start vLLM with `--no-enable-prefix",
        ),
        (lambda rows: [*rows, rows[-1]], "7 rows of log-probabilities for 6 tokens"),
        (lambda rows: None, "sends no `prompt_logprobs`"),
        (lambda rows: ["x"] * len(rows), "6 rows of log-probabilities for 6 tokens"),
        (lambda rows: [*rows[:1], *rows[2:], None], "could not be scored"),
    ],
    ids=["first row missing", "one too many", "none", "not rows", "moved by one"],
)
def test_rows_that_do_not_fit_their_tokens_are_never_kept(
    tiny_model: Path, change: Callable[[list[Any]], Any], message: str
) -> None:
    """Trap 14. A row names its token, so rows that were moved are known where their number is right too."""
    with stubbed(change) as stub, pytest.raises(DistillError, match=message):
        list(engine(stub.url, tiny_model).score([ONE], Keep(3)))


def test_a_row_that_does_not_name_its_token_is_absent_and_the_others_stay(tiny_model: Path) -> None:
    def change(rows: list[Any]) -> list[Any]:
        rows[3] = {i: entry for i, entry in rows[3].items() if i != "41"}
        return rows

    with stubbed(change) as stub:
        ((_, got),) = engine(stub.url, tiny_model).score([ONE], Keep(3))
    assert got.present_N.tolist() == [True, False, True, True]


def test_a_trace_that_cannot_be_scored_leaves_the_others(tiny_model: Path) -> None:
    asked = traces(20)
    bad = [*asked[3].prompt_ids, *asked[3].completion_ids]

    def answer(path: str, body: Any) -> Answer:
        if not path.endswith("/completions"):
            return refusal(404)
        return reply(body, lambda rows: rows[:-1] if body["prompt"] == bad else rows)

    got: list[str] = []
    with serving(answer) as stub, pytest.raises(DistillError, match=r"1 traces could not be scored \(\d+ rows of"):
        got.extend(key for key, _ in engine(stub.url, tiny_model).score(asked, Keep(3)))
    assert len(got) == 19


@pytest.mark.parametrize(
    ("requests", "keep", "message"),
    [
        ([ScoreRequest("k", (1,), (10**6,))], Keep(3), "ids of another tokenizer"),
        ([ScoreRequest("k", (), (1,))], Keep(3), "0 prompt"),
        ([ONE], Keep(draws=4), "sees only the largest log-probabilities"),
        ([ONE], Keep(3, temperatures=(2.0,)), "sees only the largest log-probabilities"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    plain: Stub, tiny_model: Path, requests: list[ScoreRequest], keep: Keep, message: str
) -> None:
    with pytest.raises(DistillError, match=message):
        list(engine(plain.url, tiny_model).score(requests, keep))


def test_a_server_without_a_tokenizer_says_what_is_missing(plain: Stub) -> None:
    with pytest.raises(DistillError, match="cannot score given tokens without its `tokenizer`"):
        build(Config(url=plain.url), "m").score([ONE], Keep(3))


def test_one_token_more_than_the_context_is_refused(server: FaultServer, tiny_model: Path) -> None:
    url = server.plan("context", context=6)
    with pytest.raises(DistillError, match=r"4 completion tokens, in a context of 6 \(the server draws one more\)"):
        list(engine(url, tiny_model).score([ONE], Keep(3)))
    assert len(dict(engine(server.plan("context", context=7), tiny_model).score([ONE], Keep(3)))) == 1
