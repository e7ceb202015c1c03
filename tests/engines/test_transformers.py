"""The transformers engine beyond the contract: nothing but the request shapes an answer, and scoring agrees."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.device import Placement
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Keep, Request, ScoreRequest, TokenLogprobs
from distill.core.records import Message, Sampling
from distill.engines import transformers as engine_module
from distill.text.chat import render_prompt
from tests.tiny import make_tiny_model

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=40, top_logprobs=6)


@pytest.fixture(scope="module")
def stopping_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers end by themselves, early or late."""
    return make_tiny_model(tmp_path_factory.mktemp("stopping") / "model", seed=3, layers=3, scale=0.3)


@pytest.fixture(scope="module")
def engine(stopping_model: Path) -> Iterator[Any]:
    built = engine_module.build(engine_module.Config(slots=16), str(stopping_model))
    built.stops = frozenset({*built.stops, *range(40, 56)})  # so that answers end at all kinds of length
    built._stops_V[40:56] = True
    yield built
    built.close()


def requests(n: int) -> list[Request]:
    """Questions of 1 to 7 sentences, some asked several times."""
    rng = random.Random(0)
    made = []
    for i in range(n):
        text = " ".join(f"What is {rng.randint(10, 99)}*{rng.randint(10, 99)}?" for _ in range(1 + i % 7))
        made += [Request(f"request {i}, {j}", (Message("user", text),), SAMPLING) for j in range(1 + i % 3)]
    return made


def same(a: Completion, b: Completion) -> bool:
    """Equal to the last bit."""
    rows = [(vars(a.logprobs)[name], vars(b.logprobs)[name]) for name in vars(a.logprobs)]
    return (a.completion_ids, a.text, a.finish_reason) == (b.completion_ids, b.text, b.finish_reason) and all(
        np.array_equal(x, y) for x, y in rows
    )


@pytest.fixture(scope="module")
def drawn(engine: Any) -> dict[str, Completion]:
    return {completion.key: completion for completion in engine.generate(requests(40))}


def test_the_fixture_has_answers_of_every_kind(drawn):
    lengths = {completion.completion_tokens for completion in drawn.values()}
    assert len(drawn) == 79
    assert len(lengths) > 15
    assert {completion.finish_reason for completion in drawn.values()} == {"stop", "length"}


@pytest.mark.parametrize("slots", [1, 8, 16, 48, None])
@pytest.mark.parametrize("share", ["all", "third", "one"])
def test_an_answer_is_the_same_to_the_last_bit_in_any_company(engine, drawn, slots, share):
    """Kills, resumes and other batch sizes change who sits beside whom; no id and no log-probability may move."""
    rng = random.Random(f"{slots} {share}")
    asked = requests(40)
    rng.shuffle(asked)
    asked = {"all": asked, "third": asked[::3], "one": asked[:1]}[share]
    engine._slots = slots

    again = {completion.key: completion for completion in engine.generate(asked)}

    assert len(again) == len(asked)
    assert [key for key in again if not same(again[key], drawn[key])] == []


def test_two_workers_draw_and_score_the_same_bits(stopping_model, engine, drawn):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pair = engine_module.build(engine_module.Config(slots=16), str(stopping_model))
        pair.stops, pair._stops_V = engine.stops, engine._stops_V
        assert (pair._workers, pair.shapes) == (2, engine.shapes)
        again = {completion.key: completion for completion in pair.generate(requests(40))}
        asked = [ScoreRequest(k, c.prompt_ids + c.prefill_ids, c.completion_ids) for k, c in drawn.items()]
        scored = dict(pair.score(asked, Keep(6)))
    finally:
        torch.set_num_threads(before)

    assert [key for key in drawn if not same(again[key], drawn[key])] == []
    for key, rows in engine.score(asked, Keep(6)):
        assert np.array_equal(rows.logprobs_NK, scored[key].logprobs_NK)


def test_the_embedded_teacher_keeps_its_bits_in_any_company():
    """A model that was trained, at quickstart's settings."""
    from distill.sources import embedded

    engine = engine_module.build(engine_module.Config(), "embedded-teacher")
    how = Sampling(temperature=0.6, top_p=0.95, max_tokens=160, top_logprobs=16)
    asked = [
        Request(f"{i}.{j}", (Message("user", item.question),), how)
        for i, item in enumerate(embedded.draw("test", 40, seed=0))
        for j in range(2)
    ]
    drawn = {completion.key: completion for completion in engine.generate(asked)}
    random.Random(1).shuffle(asked)
    for slots, part in ((16, asked), (128, asked[::5]), (8, asked[:1])):
        engine._slots = slots
        assert all(same(completion, drawn[completion.key]) for completion in engine.generate(part))


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("heads", [(4, 1), (4, 4)])
def test_other_architectures_keep_the_bits_too(tmp_path, architecture, heads):
    folder = make_tiny_model(tmp_path / "model", architecture=architecture, heads=heads[0], kv_heads=heads[1])
    engine = engine_module.build(engine_module.Config(), str(folder))
    asked = requests(20)
    drawn = {completion.key: completion for completion in engine.generate(asked)}
    engine._slots = 8

    assert all(same(completion, drawn[completion.key]) for completion in engine.generate(asked[5:12]))


def test_only_shapes_that_agree_are_used(engine):
    """Where this machine's products do depend on the number of rows, no such number is ever a multiple of ours."""
    import torch
    from torch.nn.functional import linear

    weight = next(m.weight for m in engine._model.modules() if isinstance(m, torch.nn.Linear))
    x = torch.randn(64, weight.shape[1])
    moved = [n for n in range(1, 64) if not torch.equal(linear(x[:n], weight), linear(x, weight)[:n])]
    assert all(n % engine.shapes.rows for n in moved)


def test_a_continued_answer_draws_the_noise_of_its_place(engine, drawn):
    """A sampled answer cut anywhere and continued goes on as it would have."""
    wanted = [r for r in requests(40) if drawn[r.key].completion_tokens > 20][:4]
    cut = [Request(r.key, r.messages, r.sampling, drawn[r.key].completion_ids[:9]) for r in wanted]

    for completion in engine.generate(cut):
        assert completion.completion_ids == drawn[completion.key].completion_ids[9:]
        assert completion.finish_reason == drawn[completion.key].finish_reason


def test_a_prefix_that_ended_is_not_continued(engine):
    (got,) = engine.generate([Request("k", (Message("user", "Hi"),), SAMPLING, (70, next(iter(engine.stops))))])

    assert (got.completion_ids, got.finish_reason) == ((), "stop")


def test_scoring_gives_what_was_captured(engine, drawn):
    asked = [
        ScoreRequest(key, completion.prompt_ids + completion.prefill_ids, completion.completion_ids)
        for key, completion in drawn.items()
    ]

    scored = dict(engine.score(asked, Keep(6)))

    assert scored.keys() == drawn.keys()
    for key, completion in drawn.items():
        assert_close(scored[key], completion.logprobs)


def test_scoring_in_pieces_equals_scoring_whole(engine, drawn, monkeypatch):
    asked = [ScoreRequest(k, c.prompt_ids + c.prefill_ids, c.completion_ids) for k, c in list(drawn.items())[:7]]
    whole = dict(engine.score(asked, Keep(6)))

    monkeypatch.setattr(engine_module, "SCORE_LOGITS", 13 * engine.vocab_size)

    for key, rows in engine.score(asked, Keep(6)):
        assert_close(rows, whole[key])


def assert_close(got: TokenLogprobs, expected: TokenLogprobs) -> None:
    np.testing.assert_allclose(got.realised_N, expected.realised_N, atol=1e-4)
    np.testing.assert_allclose(got.tail_N, expected.tail_N, atol=1e-4)
    np.testing.assert_allclose(got.logprobs_NK, expected.logprobs_NK, atol=1e-4)
    assert (got.ids_NK == expected.ids_NK).mean() > 0.99  # two entries of nearly equal probability may change places


def test_tail_terms_at_other_temperatures_are_captured_and_scored_alike(engine, drawn):
    """And requests that ask for one of them, or none, sit beside others: each gets its own."""
    wanted = [(), (2.0,), (0.7, 2.0)]
    asked = [
        replace(r, sampling=replace(SAMPLING, logprob_temperatures=wanted[i % 3]))
        for i, r in enumerate(requests(40)[:12])
    ]
    captured = {completion.key: completion for completion in engine.generate(asked)}
    again = [ScoreRequest(c.key, c.prompt_ids + c.prefill_ids, c.completion_ids) for c in captured.values()]
    scored = dict(engine.score(again, Keep(6, temperatures=(0.7, 2.0))))

    for request in asked:
        got, expected = captured[request.key], scored[request.key]
        assert got.completion_ids == drawn[request.key].completion_ids
        assert tuple(got.logprobs.tails) == request.sampling.logprob_temperatures
        assert tuple(expected.tails) == (0.7, 2.0)
        for temperature, tail_N in got.logprobs.tails.items():
            np.testing.assert_allclose(tail_N, expected.tails[temperature], atol=1e-4)
            inside_N = np.logaddexp.reduce(got.logprobs.logprobs_NK / temperature, axis=1)
            whole_N = np.logaddexp(inside_N, tail_N)  # log sum of p^(1/T): 0 at T = 1, more above, less below
            assert ((whole_N > 0) == (temperature > 1)).all()


def test_draws_depend_on_the_key_and_nothing_else(engine, drawn):
    asked = [ScoreRequest(k, c.prompt_ids + c.prefill_ids, c.completion_ids) for k, c in drawn.items()]
    keep = Keep(draws=30, temperatures=(2.0,))
    whole = dict(engine.score(asked, keep))
    few = dict(engine.score(asked[::7][::-1], keep))

    for key, got in few.items():
        assert got.present_N.all()
        assert len(got.realised_N) == len(drawn[key].completion_ids)
        np.testing.assert_allclose(got.realised_N, drawn[key].logprobs.realised_N, atol=1e-4)
        for name, values in vars(got).items():
            if isinstance(values, np.ndarray):
                assert np.array_equal(values, getattr(whole[key], name)), (key, name)
        ids = {name: ScoreRequest(name, r.prompt_ids, r.completion_ids) for r in asked[:1] for name in ("a", "b")}
    one, two = (got for _, got in sorted(engine.score(ids.values(), keep)))
    assert not np.array_equal(one.ids_E, two.ids_E)


def test_weights_in_4_bits_are_another_model(tmp_path, stopping_model):
    pytest.importorskip("bitsandbytes")
    config = engine_module.Config(quantization="nf4")
    plain = engine_module.build(engine_module.Config(), str(stopping_model))
    built = engine_module.build(config, str(stopping_model))
    asked = [ScoreRequest("k", (1, 3), (70, 80, 90, 100))]
    ((_, rough),) = built.score(asked, Keep(4))
    ((_, exact),) = plain.score(asked, Keep(4))

    assert built.identity.id != plain.identity.id
    assert built.identity == engine_module.identify(config, str(stopping_model))
    difference = np.abs(rough.realised_N - exact.realised_N).max()
    assert 1e-4 < difference < 3


def test_an_adapter_cannot_be_loaded_in_4_bits(tmp_path, stopping_model):
    placement = Placement("cpu", "float32", "asked for")
    with pytest.raises(DistillError, match="an adapter, and `quantization` takes whole models"):
        engine_module._load(tmp_path, str(stopping_model), placement, quantised=True)


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ((), (70,), "0 prompt"),
        ((1, 3), (), "0 completion"),
        ((1,), (320,), "another tokenizer"),
        ((1,), (9,) * 512, "512"),
    ],
)
def test_what_cannot_be_scored_is_refused(engine, prompt, completion, message):
    with pytest.raises(DistillError, match=message):
        list(engine.score([ScoreRequest("key", prompt, completion)], Keep(2)))


def test_a_padded_vocabulary_is_cut_to_the_tokenizer(tmp_path):
    folder = make_tiny_model(tmp_path / "model", padded_vocab=512, temperature=1.0)
    engine = engine_module.build(engine_module.Config(), str(folder))
    everything = Sampling(temperature=5.0, top_p=1.0, max_tokens=30, top_logprobs=320)

    for got in engine.generate([Request(f"k{i}", (Message("user", "Hi"),), everything) for i in range(8)]):
        assert max(got.completion_ids) < 320
        assert np.allclose(np.exp(got.logprobs.logprobs_NK.astype(np.float64)).sum(axis=1), 1.0, atol=1e-5)
        assert np.isneginf(got.logprobs.tail_N).all()


def test_a_tokenizer_longer_than_the_model_is_refused(tmp_path):
    folder = make_tiny_model(tmp_path / "model", padded_vocab=316)

    with pytest.raises(DistillError, match=r"320 entries.*316 rows"):
        engine_module.build(engine_module.Config(), str(folder))


def test_a_request_may_record_fewer_logprobs_than_its_neighbours(engine, drawn):
    asked = requests(40)[:6]
    few = Sampling(temperature=0.7, top_p=0.9, max_tokens=40, top_logprobs=2)
    mixed = [Request(r.key, r.messages, few if i % 2 else SAMPLING) for i, r in enumerate(asked)]

    for completion in engine.generate(mixed):
        expected, k = drawn[completion.key].logprobs, completion.logprobs.ids_NK.shape[1]
        assert (completion.logprobs.ids_NK == expected.ids_NK[:, :k]).all()
        mass = np.logaddexp.reduce(np.c_[completion.logprobs.logprobs_NK, completion.logprobs.tail_N], axis=1)
        np.testing.assert_allclose(mass, 0.0, atol=1e-5)
    assert {2, 6} == {c.logprobs.ids_NK.shape[1] for c in engine.generate(mixed)}


def test_sliding_windows_are_respected(tmp_path):
    """Layers that look 8 tokens back: greedy as transformers' own generate has it, far beyond the window."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(
        tmp_path / "model", layers=2, sliding_window=8, use_sliding_window=True,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    engine = engine_module.build(engine_module.Config(), str(folder))
    assert engine._windows == {"full_attention": None, "sliding_attention": 8}
    question = (Message("user", "What is 17*23? " * 4),)
    (got,) = engine.generate([Request("k", question, Sampling(temperature=0.0, max_tokens=24))])

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = list(render_prompt(engine.tokenizer, question).ids)
    for token in got.completion_ids:
        assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_other_kinds_of_layers_are_refused(tmp_path, tiny_model, monkeypatch):
    from types import SimpleNamespace

    with pytest.raises(DistillError, match="linear_attention"):
        engine_module._attention_windows(
            SimpleNamespace(layer_types=["linear_attention", "full_attention"]), tiny_model
        )


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, stopping_model: Path) -> Path:
    """A LoRA adapter with weights that matter, on top of `stopping_model`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(stopping_model, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(folder)
    return folder


def test_an_adapter_folder_is_its_base_with_the_adapter(adapter, stopping_model):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    engine = engine_module.build(engine_module.Config(), str(adapter))
    base = engine_module.identify(engine_module.Config(), str(stopping_model))
    question = (Message("user", "What is 17*23?"),)
    (got,) = engine.generate([Request("k", question, Sampling(temperature=0.0, max_tokens=16))])

    model = AutoModelForCausalLM.from_pretrained(stopping_model, dtype=torch.float32)
    plain = model(torch.tensor([got.prompt_ids])).logits
    tuned = PeftModel.from_pretrained(model, adapter).eval()
    assert not torch.allclose(tuned(torch.tensor([got.prompt_ids])).logits, plain, atol=1e-2)
    ids = list(got.prompt_ids + got.prefill_ids)
    for token in got.completion_ids:
        assert token == int(tuned(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)
    assert engine.identity.id != base.id
    assert (engine.identity.tokenizer, engine.identity.vocab_size) == (base.tokenizer, base.vocab_size)


def test_a_model_without_a_stop_token_is_refused(tmp_path):
    import json

    folder = make_tiny_model(tmp_path / "model")
    (folder / "generation_config.json").write_text("{}")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")

    with pytest.raises(DistillError, match="token to stop at"):
        engine_module.build(engine_module.Config(), str(folder))


def test_a_gguf_file_is_sent_to_the_other_engine(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")

    with pytest.raises(DistillError, match="needs engine `llamacpp`"):
        engine_module.build(engine_module.Config(), str(file))


def test_pickled_weights_are_not_read(tmp_path, tiny_model):
    import shutil

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    with pytest.raises(DistillError, match="safetensors"):
        engine_module.build(engine_module.Config(), str(folder))


def test_ledger_style_resume_redraws_nothing_else(engine, drawn):
    """What a killed run leaves: take the first answers that came, ask for the rest alone, and get the same table."""
    asked = requests(40)
    stream = engine.generate(asked)
    before = {completion.key: completion for completion, _ in zip(stream, range(23), strict=False)}
    stream.close()

    rest = [request for request in asked if request.key not in before]
    after = {completion.key: completion for completion in engine.generate(rest)}

    whole = before | after
    assert len(whole) == len(drawn)
    assert all(same(whole[key], drawn[key]) for key in drawn)
