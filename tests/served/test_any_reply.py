"""Whatever a server sends, reading it ends in an answer or in a fault that is counted: never in a crash."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.protocols import Completion, Request
from distill.core.records import Message, Sampling
from distill.served.faults import Fault, message_of, refused
from distill.served.retry import retry_after_s
from distill.served.wire import Form, Remarks, Stream, parse
from tests.served import answers

REQUEST = Request("0" * 64, (Message("user", "What is 1 + 2?"),), Sampling(top_logprobs=2))

SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(["", "x", "stop", "text"])
NAMES = st.sampled_from(
    ["choices", "message", "delta", "content", "reasoning", "reasoning_content", "reasoning_details", "thinking_blocks",
     "usage", "prompt_tokens", "completion_tokens", "completion_tokens_details", "reasoning_tokens", "finish_reason",
     "index", "logprobs", "token_ids", "tokens", "top_logprobs", "error", "type", "text", "thinking", "extra_content",
     "google", "tool_calls", "refusal", "prompt_token_ids", "code", "detail"]
)  # fmt: skip
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5), max_leaves=12
)


def replies() -> list[dict[str, Any]]:
    """A good chat reply of every dialect, with log-probabilities and ids."""
    found = []
    for dialect in answers.DIALECTS:
        answer = answers.think("What is 1 + 2?", 0, None, right=1.0, thought_chars=8, dialect=dialect)
        row = {"token": "token_id:5", "logprob": -0.5, "top_logprobs": [{"token": "token_id:5", "logprob": -0.5}] * 2}
        choice = {
            "index": 0, "message": answers.message_of(answer, dialect), "finish_reason": "stop",
            "logprobs": {"content": [row]}, "token_ids": [5], "prompt_token_ids": [1, 2],
        }  # fmt: skip
        found.append({"choices": [choice], "usage": answers.usage_of(answer, dialect), "prompt_token_ids": [1, 2]})
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [found for key, item in inner for found in places(item, (*path, key))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """The value with another one at the path."""
    if not path:
        return new
    value = copy.deepcopy(value)
    at = value
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return value


def read(reply: Any) -> None:
    """Read as chat and as completion, and hold what every reading owes."""
    for api in ("chat", "completions"):
        try:
            completion = parse(reply, REQUEST, Form("m", api=api, vocab_size=10), None, Remarks())
        except Fault as raised:
            told(raised)
            continue
        assert isinstance(completion, Completion)
        assert isinstance(completion.text, str)
        assert completion.reasoning is None or isinstance(completion.reasoning, str)
        assert completion.completion_tokens >= 0 and completion.prompt_tokens >= 0
        assert (completion.finish_reason == "error") == bool(completion.failure)


def told(fault: Fault) -> None:
    """A fault has a kind, one line for people, and usage that can be."""
    assert fault.kind and str(fault) and "\n" not in str(fault)
    assert fault.usage is None or min(fault.usage) >= 0


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_json_is_read_or_is_a_fault(reply: Any) -> None:
    read(reply)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_good_reply_with_one_thing_changed_is_read_or_is_a_fault(data: st.DataObject) -> None:
    reply = data.draw(st.sampled_from(replies()))
    path = data.draw(st.sampled_from(places(reply)))
    read(changed(reply, path, data.draw(VALUES)))


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES | st.builds(lambda d: {"choices": [{"delta": d}]}, VALUES), max_size=4))
def test_any_stream_of_json_is_put_together_or_is_a_fault(events: list[Any]) -> None:
    for api in ("chat", "completions"):
        stream = Stream(api)
        try:
            for event in events:
                stream.add(event)
            read(stream.reply())
        except Fault:
            pass


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([400, 401, 404, 408, 418, 429, 500, 503, 999]), VALUES | st.binary(max_size=30))
def test_any_refusal_is_a_fault_of_one_line(status: int, content: Any) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    fault = refused(status, {"retry-after": "soon"}, body, ["sk-secret-key"])
    assert fault.kind == str(status)
    assert "\n" not in str(fault)
    assert isinstance(message_of(body), tuple)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=20) | st.sampled_from(["1e400", "inf", "-inf", "nan", "0x1", "Fri, 99 Zzz 9999 00:00:00 GMT"]))
def test_any_retry_after_is_a_wait_or_nothing(text: str) -> None:
    for name in ("retry-after", "retry-after-ms"):
        wait_s = retry_after_s({name: text})
        assert wait_s is None or 0 <= wait_s < float("inf")


@pytest.mark.parametrize("dialect", answers.DIALECTS)
def test_every_cut_of_a_stream_is_noticed(dialect: str) -> None:
    answer = answers.think("What is 1 + 2?", 0, None, right=1.0, thought_chars=200, dialect=dialect)
    deltas = answers.deltas(answer, dialect, 40)
    for kept in range(len(deltas)):
        stream = Stream("chat")
        for delta in deltas[:kept]:
            stream.add({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        assert not stream.finished
        with pytest.raises(Fault):
            parse(stream.reply(), REQUEST, Form("m"), None, Remarks())


def test_streams_of_any_piece_length_give_one_answer() -> None:
    for dialect in answers.DIALECTS:
        answer = answers.think("What is 1 + 2?", 0, None, right=1.0, thought_chars=200, dialect=dialect)
        whole = {"choices": [{"message": answers.message_of(answer, dialect), "finish_reason": "stop"}]}
        expected = parse(whole, REQUEST, Form("m"), None, Remarks())
        for chars in (1, 7, random.Random(0).randint(20, 90), 10_000):
            stream = Stream("chat")
            for delta in answers.deltas(answer, dialect, chars):
                stream.add({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            stream.add({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            got = parse(stream.reply(), REQUEST, Form("m"), None, Remarks())
            assert (got.text, got.reasoning, got.error) == (expected.text, expected.reasoning, expected.error)
