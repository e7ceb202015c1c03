"""What the `vllm` engine makes of vLLM's interface, on the stand-in of `fake_vllm`; so does the contract suite."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.errors import DistillError, MissingExtra
from distill.core.protocols import Keep, Request, ScoreRequest
from distill.core.records import Message, Sampling
from distill.engines import vllm
from distill.engines.vllm import Config, VllmEngine
from tests.engines import fake_vllm
from tests.engines.fake_vllm import LLMEngine

ASK = (Message("user", "What is 3*5?"),)
HOT = Sampling(temperature=1.0, top_p=1.0, max_tokens=8)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL", "VLLM_LOGGING_STREAM"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    fake_vllm.install(monkeypatch)
    return monkeypatch


@pytest.fixture
def engine(patch: pytest.MonkeyPatch, tiny_model: Path) -> Iterator[VllmEngine]:
    built = vllm.build(Config(in_flight=4, max_logprobs=32), str(tiny_model))
    yield built
    built.close()


def asked(n: int, sampling: Sampling = HOT) -> list[Request]:
    return [Request(f"key-{i}", ASK, sampling) for i in range(n)]


def test_vllm_holds_no_more_requests_than_set_and_is_closed_once(engine: VllmEngine):
    drawn = list(engine.generate(asked(11)))
    inside = LLMEngine.built[-1]
    engine.close()
    engine.close()

    assert sorted(c.key for c in drawn) == sorted(r.key for r in asked(11))
    assert (inside.most_at_once, inside.running, inside.ended) == (4, {}, 1)


def test_each_answer_has_a_seed_of_its_own(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch):
    seeds = []
    add = LLMEngine.add_request

    def watched(self: LLMEngine, name: str, prompt: Any, params: Any) -> str:
        seeds.append(params.seed)
        return add(self, name, prompt, params)

    monkeypatch.setattr(LLMEngine, "add_request", watched)
    first = {c.key: c.completion_ids for c in engine.generate(asked(6))}
    again = {c.key: c.completion_ids for c in engine.generate(asked(6)[::-1])}

    assert len(set(seeds[:6])) == 6
    assert sorted(seeds[6:]) == sorted(seeds[:6])
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert first == again


def test_leaving_early_aborts_what_is_unfinished(engine: VllmEngine):
    short = Request("short", ASK, Sampling(temperature=1.0, top_p=1.0, max_tokens=2))
    for got in engine.generate([short, *asked(9)]):
        assert got.key == "short"
        break
    inside = LLMEngine.built[-1]

    assert inside.running == {}
    assert len(inside.aborted) == 3
    assert len(list(engine.generate(asked(2)))) == 2


def test_one_refused_request_is_a_failed_answer_and_the_others_stay(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
):
    add = LLMEngine.add_request
    bad = vllm.hashlib.sha256(b"key-1").digest()[:4]

    def picky(self: LLMEngine, name: str, prompt: Any, params: Any) -> str:
        if params.seed == int.from_bytes(bad, "big") & 0x7FFFFFFF:
            raise ValueError("token ids out of\nvocabulary")
        return add(self, name, prompt, params)

    monkeypatch.setattr(LLMEngine, "add_request", picky)
    drawn = {c.key: c for c in engine.generate(asked(4))}

    assert (drawn["key-1"].finish_reason, drawn["key-1"].error) == ("error", "token ids out of vocabulary")
    assert drawn["key-1"].failure == "vllm"
    assert {c.error for key, c in drawn.items() if key != "key-1"} == {None}


def test_vllm_s_own_end_is_one_line(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch):
    def dead(self: LLMEngine) -> Any:
        raise RuntimeError("EngineCore encountered an issue.\nSee stack trace")

    monkeypatch.setattr(LLMEngine, "step", dead)

    with pytest.raises(DistillError, match="vLLM ended .EngineCore encountered an issue. See"):
        list(engine.generate(asked(3)))


def test_an_aborted_answer_has_failed(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LLMEngine, "_advance", lambda *_: "abort")

    (got,) = engine.generate(asked(1))

    assert (got.finish_reason, got.error) == ("error", "vLLM ended it: abort")


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(temperature=None), "needs a temperature and top_p"),
        (Sampling(top_p=None), "needs a temperature and top_p"),
        (Sampling(arguments={"temp": 1}), "takes no argument `temp`; it has min_p"),
        (Sampling(top_logprobs=33), "top_logprobs 33 is over the engine's `max_logprobs` 32"),
    ],
)
def test_what_vllm_cannot_do_is_refused_before_anything_is_drawn(engine: VllmEngine, sampling: Sampling, message: str):
    with pytest.raises(DistillError, match=message):
        next(engine.generate([*asked(2), Request("odd", ASK, sampling)]))
    assert LLMEngine.built[-1].running == {}


def test_arguments_go_to_vllm_under_its_names(engine: VllmEngine):
    params = engine._params(engine._plan(asked(1, Sampling(max_tokens=8, arguments={"min_p": 0.1})))[0])

    assert (params.min_p, params.stop_token_ids, params.detokenize) == (0.1, sorted(engine.stops), False)
    assert params.output_kind is fake_vllm.RequestOutputKind.FINAL_ONLY


@pytest.mark.parametrize("top_k", [0, 1, 5])
def test_scores_are_transformers_own(engine: VllmEngine, tiny_model: Path, top_k: int):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    asks = [ScoreRequest(f"s{n}", tuple(range(9, 12 + n)), tuple(range(40, 46 + n))) for n in range(6)]
    scored = dict(engine.score(asks, Keep(top_k)))

    assert sorted(scored) == [ask.key for ask in asks]
    for ask in asks:
        row = scored[ask.key]
        with torch.inference_mode():
            logits = model(torch.tensor([ask.prompt_ids + ask.completion_ids])).logits[0]
        true_NV = logits[len(ask.prompt_ids) - 1 : -1].double().log_softmax(-1).numpy()
        assert row.ids_NK.shape == (len(ask.completion_ids), top_k)
        assert row.present_N.all()
        np.testing.assert_allclose(row.realised_N, true_NV[np.arange(len(true_NV)), ask.completion_ids], atol=1e-4)
        best = np.sort(true_NV, axis=1)[:, ::-1][:, :top_k]
        np.testing.assert_allclose(row.logprobs_NK, best, atol=1e-4)


def test_scores_stand_at_their_own_token_and_not_beside_it(engine: VllmEngine):
    """The alignment that a shard proves: offset 0 beats its neighbours, for an answer that the model itself drew."""
    (drawn,) = engine.generate([Request("x", ASK, Sampling(temperature=0.0, max_tokens=12))])
    ask = ScoreRequest("x", drawn.prompt_ids + drawn.prefill_ids, drawn.completion_ids)
    ((_, row),) = engine.score([ask], Keep(3))

    assert (row.ids_NK[:, 0] == drawn.completion_ids).all(), "greedy: each token is the most probable of its own row"


def test_rows_that_do_not_fit_the_tokens_are_refused(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch):
    rows = LLMEngine._prompt_rows
    monkeypatch.setattr(LLMEngine, "_prompt_rows", lambda self, running: rows(self, running)[1:])  # type: ignore[index]  # asked for

    with pytest.raises(DistillError, match="vLLM gave 4 rows for the 5 tokens of s"):
        list(engine.score([ScoreRequest("s", (9, 10), (40, 41, 42))], Keep(3)))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ScoreRequest("s", (), (1,)), "cannot score s: 0 prompt"),
        (ScoreRequest("s", (1,), ()), "0 completion"),
        (ScoreRequest("s", (1,) * 300, (1,) * 300), "in a context of 512"),
        (ScoreRequest("s", (1,), (10**6,)), "ids of another tokenizer"),
    ],
)
def test_what_cannot_be_scored_is_refused(engine: VllmEngine, request_: ScoreRequest, message: str):
    with pytest.raises(DistillError, match=message):
        list(engine.score([request_], Keep(3)))


def test_the_drawn_token_outside_the_top_k_keeps_its_own_value(engine: VllmEngine):
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=24, top_logprobs=1)
    outside = 0
    for got in engine.generate(asked(6, sampling)):
        for token, ids_K, row_K, realised, tail in zip(
            got.completion_ids, got.logprobs.ids_NK, got.logprobs.logprobs_NK, got.logprobs.realised_N,
            got.logprobs.tail_N, strict=True,
        ):  # fmt: skip
            if token != ids_K[0]:
                outside += 1
                assert realised < row_K[0]
                assert realised <= tail + 1e-4
            assert math.exp(row_K[0]) + math.exp(tail) == pytest.approx(1.0, abs=1e-4)
    assert outside > 20


def test_its_settings_reach_vllm(patch: pytest.MonkeyPatch, tiny_model: Path):
    config = Config(
        dtype="bfloat16", quantization="fp8", context=256, tensor_parallel=2, gpu_memory_share=0.5, eager=True
    )
    built = vllm.build(config, str(tiny_model))
    given = LLMEngine.built[-1].arguments

    assert (given.dtype, given.quantization, given.max_model_len) == ("bfloat16", "fp8", 256)
    assert (given.tensor_parallel_size, given.gpu_memory_utilization, given.enforce_eager) == (2, 0.5, True)
    assert (given.logprobs_mode, given.trust_remote_code, given.disable_log_stats) == ("raw_logprobs", False, True)
    assert built.context == 256
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"


def test_precision_that_was_asked_for_is_part_of_the_identity(tiny_model: Path):
    ids = {
        vllm.identify(config, str(tiny_model)).id
        for config in (Config(), Config(dtype="float16"), Config(quantization="fp8"))
    }

    assert len(ids) == 3
    assert vllm.identify(Config(in_flight=3, context=99), str(tiny_model)).id in ids


def test_what_it_cannot_load_is_one_line(patch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path):
    def refuses(arguments: Any) -> Any:
        raise ValueError("Model architectures ['X'] are\nnot supported")

    patch.setattr(LLMEngine, "from_engine_args", refuses)
    with pytest.raises(DistillError, match="vLLM cannot load it .Model architectures .'X'. are not supported"):
        vllm.build(Config(), str(tiny_model))
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
    with pytest.raises(DistillError, match="is an adapter"):
        vllm.identify(Config(), str(tmp_path))
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(DistillError, match="needs engine `llamacpp`"):
        vllm.identify(Config(), str(tmp_path / "m.gguf"))


def test_without_the_package_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tiny_model: Path):
    monkeypatch.setitem(sys.modules, "vllm", None)

    with pytest.raises(MissingExtra, match="environment of its own; or run `vllm serve MODEL` there and use engine"):
        vllm.build(Config(), str(tiny_model))


def test_its_settings_import_nothing_heavy():
    code = (
        "import sys, distill.engines.vllm; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'vllm')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
