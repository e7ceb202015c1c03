"""The fault server itself: a check that cannot fail is none, so each fault is seen to be what it says."""

from __future__ import annotations

import gzip
import http.client
import json
import urllib.error
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.served import answers
from tests.served.fault_server import BREAKS, KINDS, ODDITIES, REFUSALS
from tests.served.process import FaultServer

QUESTION = "What is 17 + 25?"


def body(seed: int = 1, **more: Any) -> bytes:
    return json.dumps(
        {"model": "teacher", "messages": [{"role": "user", "content": QUESTION}], "seed": seed} | more
    ).encode()


def ask(server: FaultServer, name: str, seed: int = 1, **more: Any) -> tuple[int, dict[str, str], bytes]:
    """One call on a connection of its own: status, headers, body. Raises what http.client makes of a broken one."""
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=5)
    try:
        connection.request("POST", f"/{name}/v1/chat/completions", body(seed, **more))
        reply = connection.getresponse()
        return reply.status, {key.lower(): value for key, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def message(reply: bytes) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(reply)["choices"][0]["message"]
    return whole


@pytest.mark.parametrize("kind", REFUSALS)
def test_refusals_have_their_status_and_cost_nothing(server: FaultServer, kind: str) -> None:
    server.plan("refusal", faults={kind: 1.0}, in_a_row=None)

    status, headers, reply = ask(server, "refusal")

    assert status == REFUSALS[kind][0]
    assert json.loads(reply)["error"]["message"]
    if kind.endswith("seconds"):
        assert float(headers["retry-after"]) == 1.0
    elif kind.endswith("date"):
        assert parsedate_to_datetime(headers["retry-after"])
    elif REFUSALS[kind][1] is None:
        assert "retry-after" not in headers
    stats = server.stats("refusal")
    assert (stats["calls"], stats["good"], stats["tokens"]) == (1, 0, 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", BREAKS)
def test_broken_replies_cannot_be_read_and_are_billed(server: FaultServer, kind: str, stream: bool) -> None:
    server.plan("broken", faults={kind: 1.0}, in_a_row=None, hang_s=0.01)

    try:
        _, _, reply = ask(server, "broken", stream=stream)
        if stream:
            events = [event[6:] for event in reply.split(b"\n\n") if event.startswith(b"data: ")]
            assert events[-1] == b"[DONE]"
            parsed = [json.loads(event) for event in events[:-1]]
            assert parsed[-1]["choices"][0]["finish_reason"] == "stop"
        else:
            assert message(reply)["content"]
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, AssertionError):
        pass
    else:
        pytest.fail(f"{kind}: a good answer came")
    stats = server.stats("broken")
    assert stats["good"] == 0
    assert stats["tokens"] > 0


@pytest.mark.parametrize("kind", ODDITIES)
def test_odd_replies_are_whole(server: FaultServer, kind: str) -> None:
    server.plan("plain")
    server.plan("odd", faults={kind: 1.0}, slow_s=0.05)

    status, headers, odd = ask(server, "odd")

    assert status == 200
    assert message(odd if headers.get("content-encoding") != "gzip" else gzip.decompress(odd)) == message(
        ask(server, "plain")[2]
    )
    assert server.stats("odd")["good"] == 1


@pytest.mark.parametrize("dialect", answers.DIALECTS)
def test_streamed_pieces_are_the_whole_reply(server: FaultServer, dialect: str) -> None:
    server.plan("dialect", dialect=dialect)
    whole = message(ask(server, "dialect")[2])

    events = ask(server, "dialect", stream=True, stream_options={"include_usage": True})[2].split(b"\n\n")

    parsed = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]
    streamed: dict[str, str] = {}
    for delta in (choice["delta"] for event in parsed for choice in event["choices"]):
        for name, value in delta.items():
            if name != "role":
                streamed[name] = streamed.get(name, "") + _text(value)
    expected = {name: _text(value) for name, value in whole.items() if name not in ("role", "reasoning_details")}
    assert streamed == expected
    assert parsed[-1]["usage"]["completion_tokens"] > 0
    assert parsed[-2]["choices"][0]["finish_reason"] == "stop"


def _text(value: Any) -> str:
    """The text of a field, whatever it is wrapped in."""
    if isinstance(value, list):
        return "".join(_text(item) for item in value)
    if isinstance(value, dict):
        return _text(value.get("thinking", value.get("text", "")))
    return str(value)


def test_answers_depend_on_messages_and_seed_alone(server: FaultServer) -> None:
    server.plan("first", dialect="reasoning", faults=dict.fromkeys(ODDITIES, 0.1), slow_s=0.0)
    server.plan("second", dialect="reasoning", right=0.7)

    first = [message(ask(server, "first", seed)[2]) for seed in range(12)]
    second = [message(ask(server, "second", seed)[2]) for seed in range(12)]

    assert first == second
    assert len({reply["reasoning"] for reply in second}) == len(second)
    assert {reply["content"] for reply in second} == {"The sum is \\boxed{42}.", "The sum is \\boxed{43}."}


def test_an_answer_is_cut_at_the_limit(server: FaultServer) -> None:
    server.plan("cut", dialect="reasoning_content")

    reply = json.loads(ask(server, "cut", max_tokens=5)[2])

    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["choices"][0]["message"]["content"] is None
    assert reply["usage"]["completion_tokens"] == 5


def test_what_was_paid_twice_is_known(server: FaultServer) -> None:
    server.plan("twice")

    for seed in (1, 2, 2, 3, 3, 3):
        ask(server, "twice", seed)

    stats = server.stats("twice", full=True)
    assert (stats["calls"], stats["keys"], stats["good"], stats["paid_twice"]) == (6, 3, 6, 3)
    assert [kind for _, _, kind in stats["log"]] == ["good"] * 6
    assert stats["delivered"] == 6


def test_no_key_meets_more_faults_in_a_row_than_planned(server: FaultServer) -> None:
    server.plan("row", faults={"500": 0.9}, in_a_row=2)

    statuses = [ask(server, "row", seed)[0] for seed in range(10) for _ in range(6)]

    assert {200, 500} == set(statuses)
    assert "500, 500, 500" not in ", ".join(map(str, statuses[:6]))
    assert server.stats("row")["answered"] == 10


def test_a_wrong_plan_is_refused(server: FaultServer) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        server.plan("wrong", faults={"meteor": 0.1})
    assert set(KINDS) >= {"good", "429", "half body", "drip"}
