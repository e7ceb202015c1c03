"""Bodies and replies in the dialects that servers speak; no network."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Request
from distill.core.records import Message, Sampling
from distill.served import wire
from distill.served.faults import Fault
from distill.served.logprobs import Row, as_logprobs, chat_rows, completion_rows
from distill.served.wire import Form, Remarks, Rendered

MESSAGES = (Message("system", "Be brief."), Message("user", "What is 6*7?"))
CHAT, COMPLETIONS = Form("m"), Form("m", api="completions")
USAGE = {"prompt_tokens": 20, "completion_tokens": 12, "total_tokens": 32}


def request(key: str = "0" * 64, prefix: tuple[int, ...] = (), **sampling: Any) -> Request:
    return Request(key, MESSAGES, Sampling(**{"max_tokens": 100, **sampling}), prefix)


def reply(message: dict[str, Any], reason: Any = "stop", usage: Any = USAGE, **choice: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason, **choice}], "usage": usage}


def read(body: Any, form: Form = CHAT, asked: Request | None = None, rendered: Rendered | None = None) -> Completion:
    return wire.parse(body, asked or request(), form, rendered, Remarks())


# ---- bodies


def test_a_body_says_what_was_asked_and_nothing_else():
    body = wire.body(request(key=f"ffffffff{'0' * 56}", temperature=0.6, top_p=0.95), CHAT)

    assert body == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6*7?"}],
        "max_tokens": 100,
        "seed": 0x7FFFFFFF,
        "temperature": 0.6,
        "top_p": 0.95,
    }


@pytest.mark.parametrize(
    ("sampling", "sent"),
    [
        ({"temperature": None, "top_p": None}, set()),
        ({"temperature": 0.0, "top_p": 0.5, "top_k": 4}, {"temperature"}),
        ({"temperature": 1.0, "top_p": 1.0, "top_k": 20}, {"temperature", "top_p", "top_k"}),
        ({"temperature": 1.0, "top_p": None}, {"temperature"}),
    ],
)
def test_what_is_none_is_not_sent(sampling, sent):
    body = wire.body(request(**sampling), CHAT)

    assert set(body) - {"model", "messages", "max_tokens", "seed"} == sent


def test_every_sample_has_its_own_seed_and_keeps_it():
    keys = [digest(i) for i in range(200)]

    seeds = [wire.body(request(key), CHAT)["seed"] for key in keys]

    assert len(set(seeds)) == 200
    assert seeds == [int(key[:8], 16) & 0x7FFFFFFF for key in keys]
    assert 0 <= wire.seed_of("a key that is no hash") <= 0x7FFFFFFF
    assert "seed" not in wire.body(request(), Form("m", send_seed=False))


def test_arguments_are_merged_and_never_win_in_silence():
    body = wire.body(request(thinking=True, arguments={"min_p": 0, "chat_template_kwargs": {"effort": "high"}}), CHAT)

    assert body["min_p"] == 0
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "effort": "high"}
    with pytest.raises(DistillError, match=r"arguments: `temperature` is 1.0 there, but a setting makes it 0.6"):
        wire.body(request(arguments={"temperature": 1.0}), CHAT)
    with pytest.raises(DistillError, match=r"`chat_template_kwargs.enable_thinking` is False"):
        wire.body(request(thinking=True, arguments={"chat_template_kwargs": {"enable_thinking": False}}), CHAT)


@pytest.mark.parametrize(
    ("form", "more"),
    [
        (Form("m", server="vllm"), {"logprobs": True, "top_logprobs": 4, "return_tokens_as_token_ids": True,
                                    "return_token_ids": True}),
        (Form("m", server="sglang"), {"logprobs": True, "top_logprobs": 4, "return_token_ids": True}),
        (Form("m", server="llamacpp"), {"logprobs": True, "top_logprobs": 4}),
        (Form("m", limit_field="max_completion_tokens"), {"logprobs": True, "top_logprobs": 4}),
        (Form("m", stream=True), {"logprobs": True, "top_logprobs": 4, "stream": True,
                                  "stream_options": {"include_usage": True}}),
    ],
)  # fmt: skip
def test_each_server_is_asked_for_ids_in_its_own_way(form, more):
    body = wire.body(request(top_logprobs=4), form)

    assert {name: body[name] for name in body if name not in wire.body(request(), CHAT)} == (
        more | ({"max_completion_tokens": 100} if form.limit_field == "max_completion_tokens" else {})
    )


def test_the_completions_api_gets_ids_with_the_prefix_or_text():
    ids = Rendered("", (1, 2), (3,), True)

    body = wire.body(request(prefix=(8, 9), top_logprobs=3), COMPLETIONS, ids)

    assert (body["prompt"], body["max_tokens"], body["logprobs"]) == ([1, 2, 3, 8, 9], 98, 3)
    assert wire.body(request(), COMPLETIONS, Rendered("Q: 6*7?"))["prompt"] == "Q: 6*7?"


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5))
def test_bytes_bound_the_tokens_of_a_prompt(tiny_texts):
    from distill.embedded import make_tokenizer
    from tests.tiny import CORPUS

    tokenizer = _TOKENIZER.setdefault("it", make_tokenizer(CORPUS, 300))
    messages = tuple(Message("user", text) for text in tiny_texts)

    assert sum(len(tokenizer.encode(m.content).ids) for m in messages) <= wire.prompt_bound(messages)


_TOKENIZER: dict[str, Any] = {}


# ---- whole replies


def test_a_plain_answer():
    got = read(reply({"role": "assistant", "content": "<think>6*7</think>42"}))

    assert (got.text, got.finish_reason, got.reasoning, got.error) == ("<think>6*7</think>42", "stop", None, None)
    assert (got.prompt_tokens, got.completion_tokens, got.prompt_ids, got.completion_ids) == (20, 12, None, None)


THOUGHT = "six times seven"
DIALECTS: dict[str, dict[str, Any]] = {
    "deepseek, sglang, llama.cpp": {"content": "42", "reasoning_content": THOUGHT},
    "vllm, openrouter": {"content": "42", "reasoning": THOUGHT},
    "ollama": {"content": "42", "thinking": THOUGHT},
    "both alike": {"content": "42", "reasoning": THOUGHT, "reasoning_content": f"{THOUGHT}\n"},
    "anthropic-like parts": {"content": [{"type": "thinking", "thinking": THOUGHT, "signature": "x"},
                                         {"type": "text", "text": "42"}]},
    "mistral parts": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
                                  {"type": "text", "text": "42"}]},
    "reasoning part": {"content": [{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": "42"}]},
    "openrouter details": {"content": "42", "reasoning": THOUGHT,
                           "reasoning_details": [{"type": "reasoning.text", "text": THOUGHT}]},
    "details alone": {"content": "42", "reasoning_details": [{"type": "reasoning.text", "text": THOUGHT}]},
    "litellm blocks": {"content": "42", "reasoning_content": THOUGHT,
                       "thinking_blocks": [{"type": "thinking", "thinking": THOUGHT, "signature": "x"}]},
    "summary": {"content": "42", "reasoning_details": [{"type": "reasoning.summary", "summary": THOUGHT}]},
    "gemini": {"content": f"<thought>{THOUGHT}</thought>42", "extra_content": {"google": {"thought": True}}},
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_of_reasoning_gives_the_same_record(dialect):
    got = read(reply({"role": "assistant", **DIALECTS[dialect]}))

    assert got.error is None
    assert (got.text, (got.reasoning or "").strip()) == ("42", THOUGHT)
    assert got.reasoning_kind == ("summary" if dialect in ("summary", "gemini") else None)


def test_two_fields_with_different_reasoning_are_an_error_that_names_them():
    got = read(reply({"content": "42", "reasoning": "one way", "reasoning_content": "another"}))

    assert (got.finish_reason, got.failure) == ("error", "two reasonings")
    assert "`reasoning_content` and `reasoning`" in (got.error or "")
    assert got.completion_tokens == 12, "it was paid for"


def test_hidden_reasoning_is_told_from_none():
    hidden = USAGE | {"completion_tokens_details": {"reasoning_tokens": 9}}

    got = read(reply({"content": "42"}, usage=hidden))
    inline = read(reply({"content": "so</think>42"}, usage=hidden))
    none = read(reply({"content": "42"}, usage=USAGE | {"completion_tokens_details": {"reasoning_tokens": 0}}))
    sealed = read(reply({"content": "42", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}))

    assert (got.reasoning_kind, got.reasoning_tokens) == ("hidden", 9)
    assert (inline.reasoning_kind, none.reasoning_kind) == (None, None)
    assert sealed.reasoning_kind == "hidden"


def test_thinking_that_gemini_counts_in_the_total_alone_is_billed():
    got = read(reply({"content": "42"}, usage={"prompt_tokens": 23, "completion_tokens": 5, "total_tokens": 126}))

    assert (got.prompt_tokens, got.completion_tokens) == (23, 103)


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("eos_token", "stop"), ("stop_sequence", "stop"),
                                                ("length", "length"), ("max_tokens", "length")])  # fmt: skip
def test_ends_of_an_answer(reason, finish):
    assert read(reply({"content": "42"}, reason)).finish_reason == finish


@pytest.mark.parametrize(
    ("message", "reason", "failure"),
    [
        ({"content": ""}, "content_filter", "content_filter"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls", "tool_calls"),
        ({"content": "", "tool_calls": [{"id": "1"}]}, "stop", "tool_calls"),
        ({"content": None, "refusal": "I cannot\nhelp"}, "stop", "refusal"),
        ({"content": "42"}, "because", "finish_reason"),
    ],
)
def test_a_whole_reply_that_is_no_answer_is_paid_and_not_asked_again(message, reason, failure):
    got = read(reply(message, reason))

    assert (got.finish_reason, got.failure, got.completion_tokens) == ("error", failure, 12)
    assert got.error
    assert "\n" not in got.error


@pytest.mark.parametrize(
    "broken",
    [
        reply({"content": "42"}, None),
        reply({"content": "42"}, "abort"),
        reply({"content": 42}),
        reply({"content": [{"type": "text", "text": 1}]}),
        reply({"content": ["a", "b"]}),
        reply("42"),  # type: ignore[arg-type]  # that is what is wrong
        {"choices": []},
        {"choices": None},
        {"error": {"message": "out of\nmemory"}},
        {},
        [],
        None,
        "42",
    ],
)
def test_a_broken_reply_is_a_fault_that_is_tried_again(broken):
    with pytest.raises(Fault) as caught:
        read(broken)

    assert caught.value.again
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["choices", "message", "content", "finish_reason", "usage", "prompt_tokens", "logprobs", "type",
                         "completion_tokens", "reasoning", "token_ids", "text", "top_logprobs", "tokens", "google",
                         "extra_content", "reasoning_details", "completion_tokens_details", "delta", "error"]),
        inner, max_size=4),
    max_leaves=14,
)  # fmt: skip


@settings(max_examples=300)
@given(JSON, JSON, JSON, st.booleans())
def test_any_json_is_an_answer_or_a_fault(message, usage, logprobs, chat):
    form = CHAT if chat else COMPLETIONS
    body = {"choices": [{"message": message, "text": message, "finish_reason": "stop", "logprobs": logprobs,
                         "token_ids": usage}], "usage": usage}  # fmt: skip
    for whole in (body, message):
        try:
            got = read(whole, form, request(top_logprobs=2), Rendered("x"))
        except Fault:
            continue
        assert isinstance(got.text, str)
        assert got.completion_tokens >= 0


@settings(max_examples=200)
@given(st.lists(JSON, max_size=5), st.booleans())
def test_any_events_are_an_answer_or_a_fault(events, chat):
    form = CHAT if chat else COMPLETIONS
    with contextlib.suppress(Fault):
        read(wire.assembled([e if isinstance(e, dict) else {"choices": [e]} for e in events], form.api), form)


# ---- usage


def test_without_usage_tokens_are_counted_from_ids_and_else_bounded_from_above():
    remarks = Remarks()

    with_ids = wire.parse(reply({"content": "42"}, usage=None, token_ids=[5, 6, 7]), request(), CHAT, None, remarks)
    bare = wire.parse(reply({"content": "4²", "reasoning": "abc"}, usage={}), request(), CHAT, None, remarks)
    cut = wire.parse(reply({"content": "4"}, "length", usage=None), request(), CHAT, None, remarks)

    assert with_ids.completion_tokens == 3
    assert bare.completion_tokens == len("4²abc".encode()) + wire.MESSAGE_TOKENS
    assert bare.prompt_tokens == wire.prompt_bound(MESSAGES)
    assert cut.completion_tokens == 100
    assert remarks.counted == {"answers came without usage: their tokens were counted": 1, wire.ESTIMATED: 2}
    assert remarks.told()
    assert remarks.told() == []


# ---- ids and log-probabilities


def entry(token: int, value: float, top: dict[int, float], style: str = "vllm") -> dict[str, Any]:
    def one(i: int, v: float) -> dict[str, Any]:
        return {"token": f"token_id:{i}", "logprob": v} if style == "vllm" else {"id": i, "token": "x", "logprob": v}

    return {**one(token, value), "top_logprobs": [one(i, v) for i, v in top.items()]}


TRUE_V = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05]))


COLUMNS = ("ids", "logprobs", "tail", "realised", "present")


@pytest.mark.parametrize("style", ["vllm", "llamacpp"])
def test_rows_of_a_chat_reply(style):
    ids = [0, 4, 2]
    top = {0: TRUE_V[0], 1: TRUE_V[1]}
    entries = [entry(0, TRUE_V[0], top, style), entry(4, TRUE_V[4], top | {4: TRUE_V[4]}, style),
               entry(2, TRUE_V[2], dict(reversed(top.items())), style)]  # fmt: skip
    usage = USAGE | {"completion_tokens": 3}
    form = Form("m", server="vllm" if style == "vllm" else "llamacpp", vocab_size=5)
    given_ids = {"token_ids": ids} if style == "vllm" else {}

    got = read(reply({"content": "x"}, usage=usage, logprobs={"content": entries}, **given_ids), form,
               request(top_logprobs=2))  # fmt: skip

    assert got.completion_ids == (0, 4, 2)
    assert got.logprobs is not None
    assert got.logprobs.ids_NK.tolist() == [[0, 1]] * 3, "the extra rank of the drawn token is no entry"
    np.testing.assert_allclose(got.logprobs.realised_N, TRUE_V[ids], atol=1e-6)
    np.testing.assert_allclose(got.logprobs.tail_N, np.log(0.3), atol=1e-6)
    assert got.logprobs.present_N.all()
    columns = [getattr(got.logprobs, f"{name}_N{'K' * (name in ('ids', 'logprobs'))}").dtype.name for name in COLUMNS]
    assert columns == ["int32", "float32", "float32", "float32", "bool"]
    assert got.logprobs.tails == {}, "a server's k values say nothing of other temperatures"


def test_rows_of_a_completions_reply():
    logprobs = {
        "tokens": ["token_id:0", "token_id:4"],
        "token_logprobs": [float(TRUE_V[0]), float(TRUE_V[4])],
        "top_logprobs": [{"token_id:1": float(TRUE_V[1]), "token_id:0": float(TRUE_V[0])},
                         {f"token_id:{i}": float(TRUE_V[i]) for i in (0, 1, 4)}],
    }  # fmt: skip
    body = {"choices": [{"text": "x", "finish_reason": "stop", "logprobs": logprobs, "token_ids": [0, 4],
                         "prompt_token_ids": [7, 8, 9]}], "usage": USAGE}  # fmt: skip

    got = read(body, Form("m", api="completions", vocab_size=5), request(top_logprobs=2),
               Rendered("", (7, 8), (9,), True))  # fmt: skip

    assert (got.prompt_ids, got.prefill_ids, got.opened) == ((7, 8), (9,), True)
    assert got.logprobs is not None
    assert got.logprobs.ids_NK.tolist() == [[0, 1], [0, 1]]
    np.testing.assert_allclose(np.exp(got.logprobs.tail_N), 0.3, atol=1e-6)


def rows_for(ids: list[int]) -> list[Row]:
    return [Row(i, float(TRUE_V[i]), ((0, float(TRUE_V[0])), (1, float(TRUE_V[1])))) for i in ids]


def test_rows_that_are_not_as_many_as_the_tokens_are_never_guessed():
    ids = [0, 1, 2]

    assert as_logprobs(ids, rows_for(ids)[1:], 2, 5) == (None, "the server sent fewer rows than tokens")
    assert as_logprobs(ids, [*rows_for(ids), *rows_for([0])], 2, 5) == (None, "the server sent more rows than tokens")
    assert as_logprobs(ids, None, 2, 5)[0] is None
    assert "tokenizer" in as_logprobs(ids, rows_for(ids), 2, None)[1]


@pytest.mark.parametrize(
    "odd",
    [
        Row(2, -1.0, ((0, -1.0), (1, -2.0))),  # another token's row
        Row(None, -1.0, ((0, -1.0), (1, -2.0))),
        Row(1, None, ((0, -1.0), (1, -2.0))),
        Row(1, -1.0, ((0, -1.0),)),  # fewer entries than asked for
        Row(1, -1.0, ((0, -1.0), (0, -1.0))),  # one twice
        Row(1, -1.0, ((0, -1.0), (0, -2.0), (1, -2.0))),  # one twice, with two values
        Row(1, -1.0, ((0, -0.1), (1, -0.1))),  # more than all the mass
        Row(1, -1.0, ((0, -1.0), (9, -2.0))),  # no such token
        Row(1, -1.0, ((0, float("nan")), (1, -2.0))),
        Row(1, 0.5, ((0, -1.0), (1, -2.0))),
        Row(1, -1.0, ()),
    ],
)
def test_a_row_that_does_not_fit_is_absent_and_its_siblings_stay(odd):
    rows, _ = as_logprobs([0, 1, 2], [*rows_for([0]), odd, *rows_for([2])], 2, 5)

    assert rows is not None
    assert rows.present_N.tolist() == [True, False, True]


def test_ties_are_ordered_by_id_and_floor_values_are_finite():
    row = Row(3, -9999.0, ((4, -1.0), (2, -1.0), (1, -9999.0)))

    rows, _ = as_logprobs([3], [row], 2, 5)

    assert rows is not None
    assert rows.ids_NK.tolist() == [[2, 4]]
    assert np.isfinite(rows.realised_N).all()


@given(st.lists(st.floats(-12, 3), min_size=2, max_size=12), st.data())
def test_mass_and_rows_agree_with_the_distribution(logits, data):
    true_V = np.array(logits) - np.logaddexp.reduce(logits)
    k = data.draw(st.integers(1, len(logits)))
    token = data.draw(st.integers(0, len(logits) - 1))
    order = sorted(range(len(logits)), key=lambda i: (-true_V[i], i))
    shown = dict.fromkeys([*order[:k], token])
    row = Row(token, float(true_V[token]), tuple((i, float(true_V[i])) for i in shown))

    rows, _ = as_logprobs([token], [row], k, len(logits))

    assert rows is not None
    assert rows.ids_NK[0].tolist() == order[:k]
    inside = np.logaddexp.reduce(true_V[order[:k]])
    total = np.logaddexp(inside, rows.tail_N[0])
    assert abs(total) < 1e-3
    assert rows.realised_N[0] == pytest.approx(true_V[token], abs=1e-5)


def test_strings_alone_give_no_ids_and_no_rows():
    shown = {"token": "42", "logprob": -0.1, "bytes": [52, 50], "top_logprobs": [{"token": "42", "logprob": -0.1}]}
    remarks = Remarks()

    got = wire.parse(reply({"content": "42"}, logprobs={"content": [shown]}), request(top_logprobs=1),
                     Form("m", vocab_size=5), None, remarks)  # fmt: skip

    assert (got.completion_ids, got.logprobs) == (None, None)
    assert remarks.counted == {"answers keep no log-probabilities: the server gave no token ids": 1}
    assert chat_rows([shown])[0].id is None
    assert completion_rows({"tokens": ["4", "2"], "token_logprobs": [-1, -1]})[0].id is None


def test_llama_cpp_ids_count_only_when_no_row_was_left_out():
    entries = [entry(i, -1.0, {0: -1.0}, "llamacpp") for i in (3, 4)]
    form = Form("m", server="llamacpp", vocab_size=9)

    short = read(reply({"content": "x"}, usage=USAGE | {"completion_tokens": 3}, logprobs={"content": entries}), form,
                 request(top_logprobs=1))  # fmt: skip

    assert (short.completion_ids, short.logprobs) == (None, None)


def test_prompt_ids_of_the_server_are_split_where_the_folder_s_tokenizer_agrees_and_kept_where_not():
    ours = Rendered("", (1, 2), (3, 4), True)
    body = reply({"content": "x"}, token_ids=[5]) | {"prompt_token_ids": [1, 2, 3, 4]}
    other = body | {"prompt_token_ids": [1, 9]}

    same, differs, without = (read(b, rendered=ours) for b in (body, other, reply({"content": "x"})))

    assert (same.prompt_ids, same.prefill_ids, same.opened) == ((1, 2), (3, 4), True)
    assert (differs.prompt_ids, differs.prefill_ids, differs.opened) == ((1, 9), (), False)
    assert (without.prompt_ids, without.prefill_ids, without.opened) == (None, None, False)


# ---- streams


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason, **more}]}


@given(st.text(max_size=40), st.text(max_size=40), st.integers(1, 7))
def test_a_stream_is_its_whole_reply_in_pieces(thought, text, width):
    def pieces(name: str, whole: str) -> list[dict[str, Any]]:
        return [chunk({name: whole[i : i + width]}) for i in range(0, len(whole), width)]

    events = [chunk({"role": "assistant", "content": None}), *pieces("reasoning_content", thought),
              *pieces("content", text), chunk({}, "stop"), {"choices": [], "usage": USAGE}]  # fmt: skip

    streamed = read(wire.assembled(events, "chat"))

    assert streamed == read(reply({"content": text, "reasoning_content": thought}))


def test_ids_and_rows_of_a_stream_are_joined():
    events = [
        {"prompt_token_ids": [1, 2], **chunk({"role": "assistant", "content": ""})},
        chunk({"content": "a"}, token_ids=[0], logprobs={"content": [entry(0, -0.7, {0: -0.7})]}),
        chunk({"content": "b"}, token_ids=[4], logprobs={"content": [entry(4, -3.0, {0: -0.7, 4: -3.0})]}),
        chunk({}, "length", token_ids=[]),
        {"choices": [], "usage": USAGE | {"completion_tokens": 2}},
    ]

    got = read(wire.assembled(events, "chat"), Form("m", server="vllm", vocab_size=5), request(top_logprobs=1))

    assert (got.text, got.finish_reason, got.prompt_ids, got.completion_ids) == ("ab", "length", (1, 2), (0, 4))
    assert got.logprobs is not None
    assert got.logprobs.present_N.all()


def test_a_stream_of_completions_and_of_gemini_s_thoughts():
    texts = [{"choices": [{"text": t, "finish_reason": r}]} for t, r in (("4", None), ("2", None), ("", "stop"))]
    flag = {"extra_content": {"google": {"thought": True}}}
    gemini = [chunk({"content": "<thought>six times ", **flag}), chunk({"content": "seven", **flag}),
              chunk({"content": "</thought>42"}, "stop")]  # fmt: skip

    assert read(wire.assembled(texts, "completions"), COMPLETIONS, rendered=Rendered("x")).text == "42"
    got = read(wire.assembled(gemini, "chat"))
    assert (got.text, got.reasoning, got.reasoning_kind) == ("42", THOUGHT, "summary")


def test_parts_in_a_stream_and_an_error_in_its_middle():
    parts = [chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}]}),
             chunk({"content": "4"}), chunk({"content": "2"}, "stop")]  # fmt: skip

    got = read(wire.assembled(parts, "chat"))

    assert (got.text, got.reasoning) == ("42", THOUGHT)
    with pytest.raises(Fault, match="the worker died"):
        wire.assembled([chunk({"content": "4"}), {"error": {"message": "the worker died"}}], "chat")


def test_other_choices_of_a_stream_are_left_out():
    events = [chunk({"content": "a"}), {"choices": [{"index": 1, "delta": {"content": "zzz"}}]}, chunk({}, "stop")]

    assert read(wire.assembled(events, "chat")).text == "a"


# ---- content types


def test_only_json_that_says_so_is_read():
    body = json.dumps(reply({"content": "42"})).encode()

    assert wire.decoded(body, "application/json; charset=utf-8") == json.loads(body)
    assert wire.decoded(b"{}", "application/problem+json") == {}
    for kind in ("text/html", "", "application/octet-stream"):
        with pytest.raises(Fault, match="not JSON") as caught:
            wire.decoded(body, kind)
        assert caught.value.kind == "content type"
    with pytest.raises(Fault) as caught:
        wire.decoded(body[:-3], "application/json")
    assert caught.value.kind == "bad JSON"
