"""Settings and tensors of the architectures, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError
from distill.gguf.architectures import ModelFolder, interleave
from distill.gguf.weights import FolderWeights
from tests.tiny import make_tiny_model

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 100,
}  # fmt: skip


def described(folder: Path, **changes: Any) -> ModelFolder:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    return ModelFolder(folder)


def test_a_heads_halves_become_neighbours():
    rows = np.arange(12, dtype=np.float32)[:, None]  # two heads of six

    assert interleave(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_llama3_rope_factors_are_transformers_own(tmp_path: Path):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=16, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 500000.0 ** -(torch.arange(0, 16, 2) / 16)

    factors = described(tmp_path, rope_parameters=LLAMA3).rope_factors()

    assert factors == pytest.approx((plain / scaled).numpy(), rel=1e-5)
    assert 1.0 < factors[1] < 8.0  # one of them is in the blend


@pytest.mark.parametrize(
    "where",
    [
        {"rope_theta": 1e6},
        {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}},
        {"rope_scaling": {"rope_theta": 1e6}},
    ],
)
def test_rope_theta_is_found_wherever_it_is_written(tmp_path: Path, where: dict[str, Any]):
    assert described(tmp_path, **where).rope_theta == 1e6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"architectures": ["GemmaForCausalLM"]},
            "architecture GemmaForCausalLM cannot be written as GGUF .known: Llama",
        ),
        ({"architectures": None}, "architecture none"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope type `longrope`"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope type `dynamic`"),
        (
            {"architectures": ["Qwen3ForCausalLM"], "rope_parameters": LLAMA3},
            "Qwen3ForCausalLM with rope type `llama3`",
        ),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 1]}, None),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32, "truncate": True}}, None),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [0, 1]}, "no_rope_layers"),
    ],
)
def test_what_the_graph_cannot_do_is_refused_with_the_way_around(
    tmp_path: Path, changes: dict[str, Any], words: str | None
):
    if words is None:
        described(tmp_path, **changes)
        return
    with pytest.raises(DistillError, match=f"{words}.*export `safetensors` and convert that folder with llama.cpp's"):
        described(tmp_path, **changes)


@pytest.mark.parametrize(("setting", "value"), [("beta_fast", 16.0), ("beta_slow", 2), ("truncate", False)])
def test_a_yarn_that_llama_cpp_does_not_run_is_refused(tmp_path: Path, setting: str, value: object):
    with pytest.raises(DistillError, match=f"yarn's {setting}={value} has no form in GGUF: llama.cpp's graph knows"):
        described(tmp_path, rope_parameters={"rope_type": "yarn", "factor": 4.0, setting: value})


def test_a_missing_and_a_foreign_tensor_are_named(tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    folder = make_tiny_model(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    without = {name: value for name, value in tensors.items() if name != "model.layers.1.mlp.up_proj.weight"}
    save_file(without, folder / "model.safetensors")
    with pytest.raises(DistillError, match="1 tensors are missing from the weights, first blk.1.ffn_up.weight"):
        ModelFolder(folder).tensors(FolderWeights(folder))

    save_file({**tensors, "model.layers.0.mlp.up_proj.bias": np.zeros(8, np.float32)}, folder / "model.safetensors")
    with pytest.raises(DistillError, match="qwen3 has no place for tensor model.layers.0.mlp.up_proj.bias"):
        ModelFolder(folder).tensors(FolderWeights(folder))


def test_rows_that_do_not_match_the_config_are_refused(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 400}), encoding="utf-8")

    with pytest.raises(DistillError, match=r"vocab_size 400, but token_embd.weight has shape \(320, 64\)"):
        ModelFolder(folder).tensors(FolderWeights(folder))
