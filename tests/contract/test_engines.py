"""One suite for every engine: what the stages may rely on, whoever draws the tokens."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core import plugins
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Engine, Request
from distill.core.records import Message, Sampling
from distill.text.chat import load_tokenizer, render_prompt
from tests.engines import fake_vllm

PACKAGE = "distill.engines"
RECORDED = ("replay",)
"""Engines that draw nothing themselves; tests/engines holds them to what they owe."""
SERVED = [name for name in plugins.names(PACKAGE) if getattr(plugins.load(PACKAGE, name), "SERVED", False)]
"""Engines that buy their answers; test_served_engines.py is theirs."""
QUESTIONS = [(Message("user", f"What is {a}*{b}?"),) for a, b in itertools.product((3, 17, 231), (5, 48))]
GREEDY = Sampling(temperature=0.0, max_tokens=24)
HOT = Sampling(temperature=1.0, top_p=1.0, max_tokens=16)


@pytest.fixture(scope="module", params=[name for name in plugins.names(PACKAGE) if name not in (*RECORDED, *SERVED)])
def engine(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    module = plugins.load(PACKAGE, request.param)
    settings: dict[str, Any] = {"llamacpp": {"threads": 1, "slots": 4, "gguf_type": "f32", "exact": True}}.get(
        request.param, {}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))  # converted models stay here
        if request.param == "vllm":
            fake_vllm.install(patch)  # the package itself needs a GPU
        built: Engine = module.build(module.Config(**settings), str(tiny_model))
        built.test_settings = settings  # type: ignore[attr-defined]  # for the tests that build a second one
        yield built
        built.close()
        built.close()  # safe to call twice


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_tokenizer(tiny_model)


def draw(engine: Engine, requests: Sequence[Request]) -> dict[str, Completion]:
    completions = list(engine.generate(requests))
    assert sorted(c.key for c in completions) == sorted(r.key for r in requests), "one completion per request"
    return {completion.key: completion for completion in completions}


def ask(sampling: Sampling, n: int = len(QUESTIONS)) -> list[Request]:
    return [Request(f"key-{i}", messages, sampling) for i, messages in enumerate(QUESTIONS[:n])]


def test_ids_prompt_and_text_belong_together(engine, tokenizer):
    drawn = draw(engine, ask(HOT))

    for request in ask(HOT):
        got = drawn[request.key]
        prompt = render_prompt(tokenizer, request.messages)
        assert got.error is None
        assert (got.prompt_ids, got.prefill_ids, got.opened) == (prompt.prompt_ids, prompt.prefill_ids, True)
        assert (got.prompt_tokens, got.completion_tokens) == (len(prompt.ids), len(got.completion_ids))
        stopped = got.completion_ids[-1] == tokenizer.eos_token_id
        assert got.finish_reason == ("stop" if stopped else "length")
        assert tokenizer.decode(got.completion_ids[: -1 if stopped else None]) == got.text


def test_greedy_equals_a_plain_loop_over_transformers_forward(engine, tokenizer, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for key, got in draw(engine, ask(GREEDY)).items():
        ids = list(got.prompt_ids + got.prefill_ids)
        for token in got.completion_ids:
            with torch.inference_mode():
                logits_V = model(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits_V.argmax()), f"{key}: token {len(ids)}"
            ids.append(token)


def test_the_limit_ends_an_answer(engine):
    for n in (1, 7):
        (got,) = engine.generate([Request("limit", QUESTIONS[0], Sampling(temperature=0.0, max_tokens=n))])
        assert (got.finish_reason, got.completion_tokens) == ("length", n)


def test_keys_give_distinct_samples_and_the_same_key_the_same(engine):
    again = [Request(f"same-question-{i}", QUESTIONS[0], HOT) for i in range(8)]

    first, second = draw(engine, again), draw(engine, again[:1])

    assert len({c.completion_ids for c in first.values()}) == 8
    assert second["same-question-0"].completion_ids == first["same-question-0"].completion_ids


def test_a_prefix_is_continued_as_the_uninterrupted_answer_goes_on(engine):
    whole = draw(engine, ask(GREEDY, 3))

    for cut in (1, 10):
        cut_off = [Request(r.key, r.messages, GREEDY, whole[r.key].completion_ids[:cut]) for r in ask(GREEDY, 3)]
        for key, got in draw(engine, cut_off).items():
            assert got.completion_ids == whole[key].completion_ids[cut:]


def test_a_prefix_as_long_as_the_limit_leaves_nothing_to_draw(engine):
    (got,) = engine.generate([Request("full", QUESTIONS[0], Sampling(max_tokens=3), (70, 71, 72))])

    assert (got.completion_ids, got.text, got.finish_reason) == ((), "", "length")


def test_its_codec_is_the_tokenizer_that_it_draws_with(engine, tokenizer, tiny_model):
    module = plugins.load(PACKAGE, engine.name)
    codec = module.codec(module.Config(**engine.test_settings), str(tiny_model))
    text = "so 3*4=12\n</think>\n\nWait \u00e9"

    ids = codec.encode(text)
    (got,) = engine.generate(ask(HOT, 1))
    codec.close()

    assert ids == tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert codec.decode(ids) == text
    stopped = got.finish_reason == "stop"
    assert codec.decode(got.completion_ids[:-1] if stopped else got.completion_ids) == got.text


def test_what_cannot_fit_the_context_is_refused_before_anything_is_drawn(engine, tokenizer):
    prompt = len(render_prompt(tokenizer, QUESTIONS[-1]).ids)
    requests = [*ask(GREEDY), Request("long", QUESTIONS[-1], Sampling(max_tokens=513 - prompt))]

    with pytest.raises(DistillError, match=rf"{prompt} tokens.*513.*512.*at most {512 - prompt}"):
        next(engine.generate(requests))


@pytest.mark.parametrize("thinking", [True, False])
def test_the_template_s_switch_decides_whether_thinking_is_open(engine, thinking):
    sampling = Sampling(temperature=0.0, max_tokens=2, thinking=thinking)

    (got,) = engine.generate([Request("switch", QUESTIONS[0], sampling)])

    assert got.opened is thinking


def test_recorded_logprobs_are_transformers_own(engine, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for got in draw(engine, ask(Sampling(temperature=0.8, max_tokens=24, top_logprobs=5))).values():
        fed = got.prompt_ids + got.prefill_ids
        with torch.inference_mode():
            logits_TV = model(torch.tensor([fed + got.completion_ids])).logits[0, len(fed) - 1 : -1]
        true_NV = logits_TV.double().log_softmax(-1).numpy()
        row = got.logprobs
        n = len(got.completion_ids)
        assert row.ids_NK.shape == row.logprobs_NK.shape == (n, 5)
        types = [a.dtype.name for a in (row.ids_NK, row.logprobs_NK, row.tail_N, row.realised_N, row.present_N)]
        assert types == ["int32", "float32", "float32", "float32", "bool"]
        assert row.tails == {}
        assert row.present_N.sum() > n // 3
        for j in np.flatnonzero(row.present_N):
            np.testing.assert_allclose(row.logprobs_NK[j], true_NV[j, row.ids_NK[j]], atol=1e-4)
            np.testing.assert_allclose(row.realised_N[j], true_NV[j, got.completion_ids[j]], atol=1e-4)
            outside = np.delete(true_NV[j], row.ids_NK[j])
            np.testing.assert_allclose(row.tail_N[j], np.logaddexp.reduce(outside), atol=1e-4)
            assert row.logprobs_NK[j].tolist() == sorted(row.logprobs_NK[j].tolist(), reverse=True)
            assert outside.max() <= row.logprobs_NK[j].min() + 1e-4


def test_asking_for_logprobs_does_not_change_what_is_drawn(engine):
    bare = draw(engine, ask(HOT, 2))
    asked = draw(engine, ask(Sampling(temperature=1.0, top_p=1.0, max_tokens=16, top_logprobs=3), 2))

    assert {k: c.completion_ids for k, c in bare.items()} == {k: c.completion_ids for k, c in asked.items()}
    assert all(c.logprobs is None for c in bare.values())


def test_a_streamed_answer_is_the_drawn_one_in_pieces(engine):
    sampling = Sampling(temperature=0.0, max_tokens=12)
    (whole,) = engine.generate([Request("", QUESTIONS[1], sampling)])

    pieces = list(engine.stream(QUESTIONS[1], sampling))

    assert len(pieces) > 2
    assert pieces[0] == "<think>\n", "what the template opened comes first"
    assert "".join(pieces[1:]).rstrip("\ufffd") == whole.text.rstrip("\ufffd")


def test_room_is_what_the_prompt_leaves_of_the_context(engine, tokenizer):
    assert engine.room(QUESTIONS[0]) == 512 - len(render_prompt(tokenizer, QUESTIONS[0]).ids)


def test_identity_is_the_content_s_not_the_path_s(engine, tiny_model, tmp_path):
    import shutil

    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    module = plugins.load(PACKAGE, engine.name)

    assert module.identify(module.Config(**engine.test_settings), str(moved)).id == engine.identity.id


def test_a_model_that_is_not_there_is_one_line(engine, tmp_path):
    module = plugins.load(PACKAGE, engine.name)

    with pytest.raises(DistillError, match="no such"):
        module.build(module.Config(), str(tmp_path / "nowhere"))
