"""Models whose weights depend on numpy's generator alone, and digests of what llama.cpp's own tools make of them.

    python -m tests.gguf.reference LLAMA_QUANTIZE        # records golden/gguf_quantised.json anew

LLAMA_QUANTIZE is the tool built from llama.cpp's source, such as the one inside the llama-cpp-python source package
(`cmake -B build && cmake --build build --target llama-quantize`; 0.3.36, llama.cpp 0c1e57098, made the stored ones).
It is given the F32 file of each model, which tests/gguf/test_reference.py holds to llama.cpp's converter.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from distill.gguf.convert import convert
from distill.gguf.imatrix import Entry, ImportanceMatrix
from distill.gguf.types import FILE_TYPES
from tests.tiny import tiny_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
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
"""Three layers each: rows of 256 and 512, rows of 96 and 200, heads wider than the rows, rows of 128."""

SMALL: dict[str, dict[str, Any]] = {
    "rows-256": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 256,
        "num_hidden_layers": 2, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""What the encoders of all types are tried on in every run of the tests."""

DEEP: dict[str, dict[str, Any]] = {
    "llama-16": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 16, "num_key_value_heads": 1, "tie_word_embeddings": False,
    },
    "qwen3-28": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 28,
    },
    "llama-80": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 80, "tie_word_embeddings": False,
    },
    "qwen2-80": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 32,
        "num_hidden_layers": 80, "num_key_value_heads": 4,
    },
}  # fmt: skip
"""Layers enough that every rule of the recipes shows: the first eighth and sixteenth, grouped values, the 70B class."""

QUANTISED = [name for name in FILE_TYPES if name not in ("f32", "f16", "bf16")]


def reference_model(folder: Path, name: str) -> Path:
    """Write the model folder of that name."""
    from safetensors.numpy import save_file

    tiny_tokenizer(folder)
    config: dict[str, Any] = {
        "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 352, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, **(MODELS | SMALL | DEEP)[name],
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    hidden, wide, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim", hidden // heads)
    shapes = {"model.embed_tokens.weight": (352, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (352, hidden)
    rows = {"q_proj": heads * width, "k_proj": groups * width, "v_proj": groups * width, "o_proj": hidden}
    for layer in range(config["num_hidden_layers"]):
        head = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{head}.{norm}.weight"] = (hidden,)
        for part, size in rows.items():
            shapes[f"{head}.self_attn.{part}.weight"] = (size, heads * width if part == "o_proj" else hidden)
            if (kind == "qwen2" and part != "o_proj") or config.get("attention_bias"):
                shapes[f"{head}.self_attn.{part}.bias"] = (size,)
        if kind == "qwen3":
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


def reference_importance(columns: dict[str, int]) -> ImportanceMatrix:
    """An importance matrix of the layers' matrices with these columns: mean squares over three decades."""
    rng = np.random.default_rng(11)
    entries = {
        name: Entry((1000 * 10 ** rng.uniform(-1.5, 1.5, columns[name])).astype(np.float32), 1000)
        for name in sorted(columns)
    }
    return ImportanceMatrix(entries, "made", 2, 512, "made")


def layer_columns(file: Path) -> dict[str, int]:
    """Row length of every matrix in the layers of a GGUF file."""
    return {t.name: int(t.shape[0]) for t in GGUFReader(file).tensors if t.name.startswith("blk.") and len(t.shape) > 1}


def digests(file: Path) -> dict[str, str]:
    """Type and SHA-256 (16 digits) of every tensor's bytes."""
    return {
        tensor.name: f"{tensor.tensor_type.name} {hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]}"
        for tensor in sorted(GGUFReader(file).tensors, key=lambda tensor: tensor.name)
    }


def of_data(found: dict[str, str]) -> str:
    """One digest of all tensors' names, types and bytes."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def of_types(found: dict[str, str]) -> str:
    """One digest of all tensors' names and types."""
    return of_data({name: entry.split()[0] for name, entry in found.items()})


def _record(llama_quantize: Path) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name in (*MODELS, *SMALL, *DEEP):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            source, out, matrix = folder / "f32.gguf", folder / "out.gguf", folder / "imatrix.gguf"
            convert(reference_model(folder / "model", name), source, "f32")
            reference_importance(layer_columns(source)).write(matrix)
            for kind in QUANTISED:
                for weighed in (False, True):
                    options = ["--imatrix", str(matrix)] if weighed else []
                    command = [str(llama_quantize), *options, str(source), str(out), kind.upper(), "1"]
                    subprocess.run(command, check=True, capture_output=True)
                    found = digests(out)
                    said = of_types(found) if name in DEEP else of_data(found)
                    record.setdefault(name, {})[f"{kind} imatrix" if weighed else kind] = said
    return record


if __name__ == "__main__":
    stored = json.dumps(_record(Path(sys.argv[1])), indent=1)
    (GOLDEN / "gguf_quantised.json").write_text(stored + "\n", encoding="utf-8")
