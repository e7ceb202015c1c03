"""Tensor data is llama.cpp's own, byte for byte: digests of what its convert_hf_to_gguf.py made of the same weights.

The digests in golden/gguf_tensors.json were recorded with the converter in the source package of the pinned xllamacpp
(`python convert_hf_to_gguf.py FOLDER --outtype TYPE`, its table of known pre-tokenizer hashes overridden, since these
vocabularies are in no table), over the folders that `reference_model` writes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from distill.gguf.convert import convert
from tests.tiny import tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "gguf_tensors.json"
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 100,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "attention_bias": True,
        "tie_word_embeddings": False, "rope_parameters": LLAMA3,
    },
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 96, "intermediate_size": 200,
    },
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 256, "head_dim": 32},
    "smollm3": {"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3", "hidden_size": 128},
}  # fmt: skip


def reference_model(folder: Path, name: str) -> Path:
    """Write a model folder whose weights depend on numpy's generator alone."""
    from safetensors.numpy import save_file

    tiny_tokenizer(folder)
    config: dict[str, Any] = {
        "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 352, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, **MODELS[name],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim", hidden // 4)
    shapes = {"model.embed_tokens.weight": (352, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (352, hidden)
    rows = {"q_proj": 4 * width, "k_proj": 2 * width, "v_proj": 2 * width, "o_proj": hidden}
    for layer in range(3):
        head = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{head}.{norm}.weight"] = (hidden,)
        for part, size in rows.items():
            shapes[f"{head}.self_attn.{part}.weight"] = (size, 4 * width if part == "o_proj" else hidden)
            if (name == "qwen2" and part != "o_proj") or config.get("attention_bias"):
                shapes[f"{head}.self_attn.{part}.bias"] = (size,)
        if name == "qwen3":
            for norm in ("q_norm", "k_norm"):
                shapes[f"{head}.self_attn.{norm}.weight"] = (width,)
        for part, shape in {
            "gate_proj": (wide, hidden),
            "up_proj": (wide, hidden),
            "down_proj": (hidden, wide),
        }.items():
            shapes[f"{head}.mlp.{part}.weight"] = shape
    rng = np.random.default_rng(7)
    tensors = {key: rng.standard_normal(shape, np.float32) for key, shape in sorted(shapes.items())}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def digests(file: Path) -> dict[str, str]:
    """Type and SHA-256 (16 digits) of every tensor's bytes."""
    return {
        tensor.name: f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]}"
        for tensor in sorted(GGUFReader(file).tensors, key=lambda tensor: tensor.name)
    }


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_tensor_bytes_are_those_of_llama_cpps_converter(tmp_path: Path, name: str, kind: str):
    folder = reference_model(tmp_path / "model", name)

    convert(folder, tmp_path / "x.gguf", kind)

    assert digests(tmp_path / "x.gguf") == json.loads(GOLDEN.read_text(encoding="utf-8"))[name][kind]
