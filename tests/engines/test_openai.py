"""The `openai` engine against servers: stubs for one behaviour each, and llama.cpp's own."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from distill.core.errors import ConfigError, DistillError
from distill.core.protocols import Completion, Metered, Request
from distill.core.records import Message, Sampling
from distill.engines import openai
from distill.engines.openai import Config, build, identify
from distill.served.engine import ServedEngine
from tests.served.stub_server import Answer, Stub, good, refusal, requests, serving

SECRET = "sk-test-0123456789abcdef"


def engine(stub: Stub, model: str = "m", **settings: Any) -> ServedEngine:
    return build(Config(**{"url": stub.url, "concurrency": 8, "retries": 3, **settings}), model)


def ask(built: ServedEngine, n: int = 4, **sampling: Any) -> list[Completion]:
    return list(built.generate(requests(n, **sampling)))


# ---- settings and identity


def test_the_identity_is_what_is_declared_and_never_the_address(tiny_model: Path):
    plain = identify(Config(url="http://127.0.0.1:1/v1"), "org/m")

    elsewhere = identify(
        Config(url=["http://a/v1", "http://b/v1"], concurrency=9, served_name="x", stream=True), "org/m"
    )
    others = [
        identify(Config(), "org/n"),
        identify(Config(), "org/m", "v2"),
        identify(Config(precision="fp8"), "org/m"),
    ]
    known = identify(Config(tokenizer=str(tiny_model)), "org/m")

    assert elsewhere == plain
    assert plain.name == "org/m"
    assert len({plain.id, *(other.id for other in others)}) == 4
    assert known.id == plain.id
    assert (known.vocab_size, bool(known.tokenizer), plain.vocab_size) == (320, True, None)


def test_where_and_how_fast_is_no_part_of_a_stage_s_key():
    assert set(Config(url="http://127.0.0.1:1").keyed()) == {"api", "precision", "tokenizer", "send_seed"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "localhost:8000"}, "not an address"),
        ({"url": "http://me:secret@host/v1"}, "holds no password"),
        ({"url": ["http://a/v1", "http://a/v1/"]}, "the same address twice"),
        ({"url": []}, "at least 1"),
        ({"concurency": 4}, "Did you mean `concurrency`"),
        ({"api_key": "sk-x"}, "Did you mean `api_key_env`"),
        ({"tokenizer": "/nowhere"}, "no tokenizer.json"),
    ],
)
def test_wrong_settings_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Config(**settings)


def test_a_bare_host_gets_the_version():
    assert Config(url="http://127.0.0.1:8000").urls == ["http://127.0.0.1:8000/v1"]
    assert Config(url="http://127.0.0.1:8000/v1/").urls == ["http://127.0.0.1:8000/v1"]
    assert Config(url="https://h/api/openai").urls == ["https://h/api/openai"]


def test_settings_load_no_heavy_module():
    import subprocess
    import sys

    code = (
        "import sys; import distill.engines.openai, distill.engines.litellm; "
        "print([m for m in ('torch', 'transformers', 'httpx2', 'litellm', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


# ---- keys


def test_a_missing_key_is_one_line_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(ConfigError, match=r"environment variable OPENAI_API_KEY is not set \(export"):
        build(Config(), "m")
    build(Config(url="https://api.example.com/v1"), "m")  # no key of another host is looked for
    with serving() as stub:
        with pytest.raises(ConfigError, match="MY_KEY is not set"):
            engine(stub, api_key_env="MY_KEY")
        with pytest.raises(ConfigError, match="OTHER is not set"):
            engine(stub, headers_env={"X-Key": "OTHER"})
        assert stub.asked == []


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OTHER", "another-secret-value")

    with serving() as stub:
        ask(engine(stub), 1)
        ask(engine(stub, api_key_env="OPENAI_API_KEY", headers_env={"X-Key": "OTHER"}), 1)
        plain, with_key = stub.asked[1], stub.asked[-1]

    assert "authorization" not in plain[2], "this machine's servers get no key unless one is named"
    assert with_key[2]["authorization"] == f"Bearer {SECRET}"
    assert with_key[2]["x-key"] == "another-secret-value"
    assert SECRET not in json.dumps(with_key[1])


def test_openai_s_key_is_never_sent_to_another_host_by_itself(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    assert openai._headers(Config())[0] == {"authorization": f"Bearer {SECRET}"}
    for url in ("http://127.0.0.1:1", "https://api.example.com/v1", "https://api.openai.com.example.com/v1"):
        assert openai._headers(Config(url=url)) == ({}, [])
    assert openai._headers(Config(url=["https://api.openai.com/v1", "https://evil.example/v1"])) == ({}, [])


@pytest.mark.parametrize("listed", [401, 404])
def test_a_key_that_was_not_sent_is_named(listed):
    said = r"401: who are you\? \(no key was sent: .* `api_key_env`\)"
    with (
        serving(lambda path, body: refusal(401 if body else listed, "who are you?")) as stub,
        pytest.raises(DistillError, match=said),
    ):
        ask(engine(stub), 3)


def test_a_key_that_may_not_list_models_may_still_answer():
    with serving(lambda path, body: good() if body else refusal(403, "missing scope")) as stub:
        assert ask(engine(stub), 1)[0].error is None


def test_an_echoed_key_never_reaches_the_error(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)

    with serving(lambda path, body: refusal(401, f"wrong key {SECRET}")) as stub:
        built = engine(stub, api_key_env="OPENAI_API_KEY")
        with pytest.raises(DistillError, match=r"401: wrong key \*\*\*") as caught:
            ask(built)
    assert "0123456789" not in str(caught.value)
    assert SECRET not in repr(built.sender.config)


# ---- answers


def test_answers_come_once_each_over_few_connections_and_no_more_at_once_than_allowed():
    with serving(delay_s=0.005) as stub:
        built = engine(stub)
        got = ask(built, 60)

    assert isinstance(built, Metered)
    assert sorted(c.key for c in got) == sorted(r.key for r in requests(60))
    assert {(c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens) for c in got} == {("42", "stop", 9, 4)}
    assert all(c.latency_s >= 0.005 for c in got)
    assert stub.most_at_once <= 8
    assert len({body["seed"] for body in stub.bodies}) == 60


def test_proxies_of_the_environment_are_not_for_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there

    with serving() as stub:
        assert ask(engine(stub), 1)[0].error is None


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(status):
    tries: Counter[int] = Counter()

    def answer(path: str, body: Any) -> Answer:
        if body is None:
            return refusal(404)
        tries[body["seed"]] += 1
        return refusal(status, retry_after_ms="1") if tries[body["seed"]] == 1 else good()

    with serving(answer) as stub:
        got = ask(engine(stub), 3)

    assert [c.error for c in got] == [None] * 3
    assert set(tries.values()) == {2}


def raw(content_type: str, body: bytes, **headers: str) -> Answer:
    return 200, {"content-type": content_type, **headers}, body


WHOLE = good()[2]


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        ("content type", raw("text/html", b"<p>Please log in")),
        ("bad JSON", raw("application/json", WHOLE[:-4])),
        ("bad body", raw("application/json", b'{"choices": []}')),
        ("bad body", raw("application/json", b'{"error": {"message": "worker died"}}')),
        ("half body", (200, {"content-type": "application/json", "content-length": str(len(WHOLE) + 9),
                             "connection": "close"}, WHOLE)),
        ("bad body", raw("application/json", b"no gzip", **{"content-encoding": "gzip"})),
    ],
)  # fmt: skip
def test_a_reply_that_cannot_be_used_is_asked_for_again_and_named(kind, broken):
    class Kinds:
        def __init__(self) -> None:
            self.kinds: Counter[str] = Counter()
            self.settled: list[int] = []

        def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> bool:
            return True

        def settle(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
            self.settled.append(completion_tokens)

        def failed(self, kind: str) -> None:
            self.kinds[kind] += 1

    first = iter([True])
    with serving(lambda path, body: broken if body and next(first, False) else good()) as stub:
        built = engine(stub, total_s=1.0)
        built.meter = Kinds()
        (got,) = ask(built, 1)

    assert got.error is None
    expected = {kind} if kind != "half body" else {"half body", "timeout", "reset"}  # the stub keeps the connection
    assert set(built.meter.kinds) <= expected
    assert built.meter.settled == [64, 4], "a lost reply may be billed in full"


def test_too_slow_is_a_timeout():
    with serving(delay_s=0.6) as stub:
        (got,) = ask(engine(stub, total_s=0.2, retries=0), 1)

    assert (got.failure, got.error) == ("timeout", "no whole answer within 0.2 s")


@pytest.mark.parametrize("status", [400, 422])
def test_what_every_request_gets_wrong_ends_the_run_with_the_server_s_words(status):
    with serving(lambda path, body: refusal(status, "unknown field top_kk") if body else refusal(404)) as stub:
        with pytest.raises(DistillError, match=rf"the first 8 tries were all refused: {status}: unknown field top_kk"):
            ask(engine(stub, concurrency=2), 100)
        assert len(stub.bodies) <= 10


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_model_ends_the_run_at_once(status):
    with serving(lambda path, body: refusal(status, "not you")) as stub:
        with pytest.raises(DistillError, match=f"{status}: not you"):
            ask(engine(stub, concurrency=2), 100)
        assert len(stub.bodies) <= 3


def test_a_cap_on_log_probabilities_is_one_line_that_says_what_to_do():
    def answer(path: str, body: Any) -> Answer:
        return refusal(400, "top_logprobs must be at most 20") if body else refusal(404)

    with serving(answer) as stub, pytest.raises(DistillError, match=r"at most 20; set `top_logprobs` to what"):
        ask(engine(stub), 50, top_logprobs=64)


def test_a_server_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(openai, "FIRST_CONTACT", 1)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with pytest.raises(DistillError, match=r"cannot connect .*; is the server running\?"):
        list(build(Config(url=f"http://127.0.0.1:{port}"), "m").generate(requests(2)))


def test_several_endpoints_share_the_load_and_one_that_is_gone_is_done_without(monkeypatch):
    monkeypatch.setattr(openai, "FIRST_CONTACT", 1)
    with serving(delay_s=0.002) as one, serving(delay_s=0.002) as two:
        got = ask(engine(one, url=[one.url, two.url, "http://127.0.0.1:9"], retries=8), 60)

    assert all(c.error is None for c in got)
    assert min(len(one.bodies), len(two.bodies)) > 15


def test_a_client_that_leaves_early_leaves_nothing_behind():
    before = set(threading.enumerate())
    with serving(delay_s=0.05) as stub:
        inside = set(threading.enumerate()) - before
        run = engine(stub).generate(requests(100))
        next(run)
        run.close()
        assert set(threading.enumerate()) - before == inside


# ---- streams


def events(*chunks: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> Answer:
    lines = b"".join(b": still here\n\ndata: " + json.dumps(chunk).encode() + b"\r\n\r\n" for chunk in chunks)
    return 200, {"content-type": "text/event-stream"}, lines + end


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


COST = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}


def test_a_streamed_answer():
    with serving(lambda path, body: events(piece("4"), piece("2", "stop"), COST) if body else refusal(404)) as stub:
        (got,) = ask(engine(stub, stream=True), 1)

    assert (got.text, got.finish_reason, got.prompt_tokens, got.completion_tokens) == ("42", "stop", 3, 2)
    assert stub.bodies[0]["stream_options"] == {"include_usage": True}


def test_a_server_that_does_not_stream_is_read_whole():
    with serving() as stub:
        assert ask(engine(stub, stream=True), 1)[0].text == "42"


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (events(piece("4"), piece("2")), "half body"),
        (events(piece("4"), end=b""), "half body"),
        (events(piece("4"), end=b'data: {"choices": [\n\ndata: [DONE]\n\n'), "bad JSON"),
        (events(piece("4"), {"error": {"message": "the worker died"}}), "bad body"),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(broken, kind):
    with serving(lambda path, body: broken if body else refusal(404)) as stub:
        (got,) = ask(engine(stub, stream=True, retries=0), 1)

    assert got.failure == kind


# ---- what a server says of itself


def listing(owner: str, name: str = "m", **more: Any) -> Answer:
    body = {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner, **more}]}
    return raw("application/json", json.dumps(body).encode())


@pytest.mark.parametrize(
    ("owner", "more", "asked"),
    [
        ("vllm", {"max_model_len": 4096}, True),
        ("sglang", {"max_model_len": 4096}, True),
        ("llamacpp", {"meta": {"n_ctx": 4096}}, False),
        ("openai", {"context_length": 4096}, False),
    ],
)
def test_the_server_s_kind_and_context_are_asked_once(owner, more, asked):
    with serving(lambda path, body: good() if body else listing(owner, **more)) as stub:
        built = engine(stub)
        ask(built, 2)
        ask(built, 2)

    assert [path for path, *_ in stub.asked].count("/v1/models") == 1
    assert all(("return_token_ids" in body) is asked for body in stub.bodies)
    assert built.sender.context == 4096


def test_a_model_that_the_server_does_not_have_is_refused_before_anything_is_sent():
    with serving(lambda path, body: listing("vllm", "org/real")) as stub:
        with pytest.raises(DistillError, match=r"serves no model `m`; set `served_name` to one that it has: org/real"):
            ask(engine(stub), 1)
        assert stub.bodies == []
        assert not ask(engine(stub, served_name="org/real", retries=0), 0)


def test_what_cannot_fit_the_context_is_refused_with_the_numbers_before_anything_is_sent():
    def answer(path: str, body: Any) -> Answer:
        if path == "/tokenize":
            return raw("application/json", json.dumps({"count": 280, "max_model_len": 300, "tokens": []}).encode())
        return good() if body else listing("vllm", max_model_len=300)

    with serving(answer) as stub:
        with pytest.raises(DistillError, match=r"280 tokens and max_tokens 64 need a context of 344.*300.*at most 20"):
            ask(engine(stub), 3)
        with pytest.raises(DistillError, match=r"a prompt and max_tokens 600 need a context of 601"):
            ask(engine(stub, context=600, server="openai"), 3, max_tokens=600)
        assert stub.bodies == []
        assert len(ask(engine(stub), 3, max_tokens=20)) == 3


def test_length_is_kept_and_asked_once():
    cut = json.loads(WHOLE)
    cut["choices"][0]["finish_reason"] = "length"

    with serving(lambda path, body: raw("application/json", json.dumps(cut).encode())) as stub:
        got = ask(engine(stub), 5)

    assert {c.finish_reason for c in got} == {"length"}
    assert len(stub.bodies) == 5


# ---- llama.cpp's own server


@pytest.fixture(scope="module")
def llama(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, key) of llama.cpp's server with the tiny model."""
    from distill.gguf.convert import convert
    from distill.gguf.runtime import Runtime, RuntimeSettings

    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    convert(tiny_model, file, "f32")
    with Runtime(file, RuntimeSettings(context=512, slots=4, threads=1, exact=True)) as runtime:
        yield f"http://127.0.0.1:{runtime.port}/v1", runtime._key


PLAIN = {"samplers": ["temperature"], "cache_prompt": False}


def llama_engine(llama: tuple[str, str], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> ServedEngine:
    monkeypatch.setenv("LLAMA_KEY", llama[1])
    return build(Config(**{"url": llama[0], "api_key_env": "LLAMA_KEY", "concurrency": 4, **settings}), "tiny")


@pytest.mark.parametrize("stream", [False, True])
def test_completions_of_llama_cpp_have_ids_and_true_log_probabilities(llama, tiny_model, monkeypatch, stream):
    import torch
    from transformers import AutoModelForCausalLM

    from distill.text.chat import load_tokenizer, render_prompt

    built = llama_engine(llama, monkeypatch, api="completions", tokenizer=str(tiny_model), stream=stream)
    sampling = {"temperature": 1.0, "top_p": None, "max_tokens": 12, "top_logprobs": 5, "arguments": PLAIN}
    got = {c.key: c for c in ask(built, 6, **sampling)}

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(tiny_model)
    rows = 0
    for request in requests(6, **sampling):
        c = got[request.key]
        prompt = render_prompt(tokenizer, request.messages)
        assert (c.error, c.prompt_ids, c.prefill_ids, c.opened) == (None, prompt.prompt_ids, prompt.prefill_ids, True)
        assert c.prompt_tokens == len(prompt.ids)
        if c.completion_ids is None:
            continue  # a half character or an end token: the server left its row out
        assert len(c.completion_ids) == c.completion_tokens
        assert c.logprobs is not None
        with torch.inference_mode():
            logits_TV = model(torch.tensor([prompt.ids + c.completion_ids])).logits[0, len(prompt.ids) - 1 : -1]
        true_NV = logits_TV.double().log_softmax(-1).numpy()
        for j in np.flatnonzero(c.logprobs.present_N):
            rows += 1
            np.testing.assert_allclose(c.logprobs.logprobs_NK[j], true_NV[j, c.logprobs.ids_NK[j]], atol=1e-4)
            np.testing.assert_allclose(c.logprobs.realised_N[j], true_NV[j, c.completion_ids[j]], atol=1e-4)
            outside = np.delete(true_NV[j], c.logprobs.ids_NK[j])
            np.testing.assert_allclose(c.logprobs.tail_N[j], np.logaddexp.reduce(outside), atol=1e-4)
    assert rows > 10


def test_chat_with_llama_cpp_streams_the_same_as_whole_and_seeds_are_kept(llama, monkeypatch):
    sampling = {"temperature": 1.0, "top_p": None, "max_tokens": 12, "arguments": PLAIN}

    whole = {c.key: c for c in ask(llama_engine(llama, monkeypatch, concurrency=1), 4, **sampling)}
    again = {c.key: c for c in ask(llama_engine(llama, monkeypatch, stream=True, concurrency=1), 4, **sampling)}

    assert all(c.error is None for c in whole.values())
    assert {k: (c.text, c.reasoning, c.completion_tokens) for k, c in whole.items()} == {
        k: (c.text, c.reasoning, c.completion_tokens) for k, c in again.items()
    }
    assert len({c.reasoning for c in whole.values()}) == 4


def test_llama_cpp_counts_prompts_exactly_before_anything_is_sent(llama, tiny_model, monkeypatch):
    from distill.text.chat import load_tokenizer, render_prompt

    (request,) = requests(1)
    prompt = len(render_prompt(load_tokenizer(tiny_model), request.messages).ids)

    with pytest.raises(DistillError, match=rf"{prompt} tokens.*513.*512.*at most {512 - prompt}"):
        ask(llama_engine(llama, monkeypatch), 1, max_tokens=513 - prompt)


def test_a_prefix_is_continued_over_completions_only(llama, tiny_model, monkeypatch):
    built = llama_engine(llama, monkeypatch, api="completions", tokenizer=str(tiny_model))
    greedy = Sampling(temperature=0.0, max_tokens=12, top_logprobs=1)
    messages = (Message("user", "What is 3*5?"),)
    (whole,) = built.generate([Request("whole", messages, greedy)])
    assert whole.completion_ids is not None

    (rest,) = built.generate([Request("rest", messages, greedy, whole.completion_ids[:5])])

    assert rest.completion_ids == whole.completion_ids[5:]
    with pytest.raises(DistillError, match="can continue an answer"):
        list(llama_engine(llama, monkeypatch).generate([Request("x", messages, greedy, (1,))]))


def test_only_what_continues_has_a_codec(tiny_model):
    from distill.text.chat import load_tokenizer

    codec = openai.codec(Config(api="completions", tokenizer=str(tiny_model)), "m")

    ids = tuple(load_tokenizer(tiny_model)("a</think>b", add_special_tokens=False)["input_ids"])
    assert (codec.encode("a</think>b"), codec.decode(ids)) == (ids, "a</think>b")
    for settings in ({}, {"api": "completions"}, {"tokenizer": str(tiny_model)}):
        with pytest.raises(DistillError, match="model m: only `api: completions` with a `tokenizer` can continue"):
            openai.codec(Config(**settings), "m")
