"""The architectures that can be exported: their names, settings and tensors in GGUF. Any other is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, get_tensor_name_map
from numpy.typing import NDArray

from distill.core.errors import DistillError
from distill.gguf.types import Shape
from distill.gguf.weights import Weights


@dataclass(frozen=True)
class Architecture:
    """How one `architectures` entry of config.json becomes GGUF."""

    gguf: MODEL_ARCH
    interleaved: bool
    """llama.cpp turns neighbouring pairs of a head (rope type "normal") where transformers turns its halves: the rows
    of q and k are put in that order. Qwen's graph turns halves, as transformers does."""
    scaled_rope: bool = False
    """Whether its graph reads `rope_freqs`, the factors of llama3's rope scaling."""
    biases: tuple[str, ...] = ()
    """Projections whose bias its graph reads."""


QKV = ("q_proj", "k_proj", "v_proj")
SUPPORTED = {
    "Qwen2ForCausalLM": Architecture(MODEL_ARCH.QWEN2, interleaved=False, biases=QKV),
    "Qwen3ForCausalLM": Architecture(MODEL_ARCH.QWEN3, interleaved=False, biases=QKV),
    "LlamaForCausalLM": Architecture(MODEL_ARCH.LLAMA, interleaved=True, scaled_rope=True, biases=(*QKV, "o_proj")),
    "SmolLM3ForCausalLM": Architecture(MODEL_ARCH.SMOLLM3, interleaved=True, biases=QKV),
}
WAY_AROUND = "export `safetensors` and convert that folder with llama.cpp's convert_hf_to_gguf.py"
YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
"""What its loader reads no other value of, for these architectures."""
SKIPPED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Buffers that old checkpoints store and the runtime computes."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: its GGUF name, layer, shape (as torch has it), and how its float32 values are made."""

    name: str
    layer: int | None
    shape: tuple[int, ...]
    make: Callable[[], NDArray[np.float32]]
    source: str


class ModelFolder:
    """config.json of a model, read once and checked against what the graph in llama.cpp can do."""

    def __init__(self, folder: Path, layers: int | None = None) -> None:
        """`layers` describes the model cut to its first so many layers."""
        path = folder / "config.json"
        if not path.exists():
            raise DistillError(f"{folder}: no config.json there, so it is not a model folder")
        self.path = path
        self.config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name = (self.config.get("architectures") or ["none"])[0]
        if name not in SUPPORTED:
            known = ", ".join(sorted(SUPPORTED))
            raise DistillError(f"{path}: architecture {name} cannot be written as GGUF (known: {known}); {WAY_AROUND}")
        self.spec = SUPPORTED[name]
        self.all_layers = int(self.config["num_hidden_layers"])
        self.layers = min(layers or self.all_layers, self.all_layers)
        self._check(name)

    def _check(self, name: str) -> None:
        """Refuse, by name, every setting that the graph does not know: a wrong file is worse than none."""
        config = self.config
        refused = {
            "quantization_config": config.get("quantization_config") is not None,
            "hidden_act": config.get("hidden_act", "silu") != "silu",
            "use_sliding_window": bool(config.get("use_sliding_window")),
            "mlp_bias": bool(config.get("mlp_bias")),
            "partial_rotary_factor": self._rope().get("partial_rotary_factor", 1.0) != 1.0,
            "pretraining_tp": config.get("pretraining_tp", 1) not in (None, 1),
        }
        if self.spec.gguf == MODEL_ARCH.SMOLLM3:
            expected = [int((layer + 1) % 4 != 0) for layer in range(self.all_layers)]
            refused["no_rope_layers"] = (config.get("no_rope_layers") or expected) != expected
            refused["no_rope_layer_interval"] = config.get("no_rope_layer_interval", 4) != 4
        for setting, is_set in refused.items():
            if is_set:
                shown = str(config.get(setting))[:60]
                raise DistillError(f"{self.path}: {name} with {setting}={shown} has no form in GGUF; {WAY_AROUND}")
        kind = self.rope_type
        if kind not in ("default", "linear", "llama3", "yarn") or (kind == "llama3" and not self.spec.scaled_rope):
            raise DistillError(f"{self.path}: {name} with rope type `{kind}` cannot be written as GGUF; {WAY_AROUND}")
        for setting, usual in YARN.items() if kind == "yarn" else ():
            if (set_to := self._rope().get(setting)) not in (None, usual):
                raise DistillError(
                    f"{self.path}: {name} with yarn's {setting}={set_to} has no form in GGUF: llama.cpp's graph knows "
                    f"{usual} alone"
                )

    @property
    def heads(self) -> int:
        """Query heads."""
        return int(self.config["num_attention_heads"])

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return int(self.config.get("num_key_value_heads") or self.heads)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return int(self.config.get("head_dim") or self.config["hidden_size"] // self.heads)

    @property
    def tied(self) -> bool:
        """Whether the embedding serves as head."""
        return bool(self.config.get("tie_word_embeddings", self.spec.gguf == MODEL_ARCH.SMOLLM3))

    @property
    def rows(self) -> int:
        """Embedding rows: the vocabulary with its padding."""
        return int(self.config["vocab_size"])

    @property
    def rope_type(self) -> str:
        """Kind of rope scaling; `default` is none."""
        rope = self._rope()
        return str(rope.get("rope_type") or rope.get("type") or "default")

    @property
    def rope_theta(self) -> float:
        """Base of the rope, wherever this version of transformers writes it."""
        rope = self._rope()
        if rope.get("rope_theta") is not None:
            return float(rope["rope_theta"])
        if self.config.get("rope_theta") is not None:
            return float(self.config["rope_theta"])
        if self.spec.gguf == MODEL_ARCH.SMOLLM3:
            return 2_000_000.0  # transformers' default for SmolLM3
        return 10_000.0  # transformers' default for Llama and Qwen

    def _rope(self) -> dict[str, Any]:
        """Rope settings: `rope_parameters` (transformers 5) or `rope_scaling` (before)."""
        return {**(self.config.get("rope_scaling") or {}), **(self.config.get("rope_parameters") or {})}

    def shape(self) -> Shape:
        """What the type recipes look at."""
        return Shape(self.architecture, self.layers, self.tied, self.heads, self.kv_heads)

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(MODEL_ARCH_NAMES[self.spec.gguf])

    def write_settings(self, writer: GGUFWriter) -> None:
        """The architecture's keys of the header."""
        config = self.config
        writer.add_block_count(self.layers)
        writer.add_context_length(int(config["max_position_embeddings"]))
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_feed_forward_length(int(config["intermediate_size"]))
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.kv_heads)
        writer.add_key_length(self.head_dim)
        writer.add_value_length(self.head_dim)
        writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
        writer.add_rope_freq_base(self.rope_theta)
        writer.add_rope_dimension_count(self.head_dim)
        writer.add_vocab_size(self.rows)
        if self.rope_type == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(self._rope()["factor"]))
        elif self.rope_type == "yarn":
            self._write_yarn(writer)

    def _write_yarn(self, writer: GGUFWriter) -> None:
        """llama.cpp multiplies its own attention factor, 1 + 0.1 log(factor), with what the header states; it takes no
        notice of `yarn_attn_factor`, where its converter puts one that the model states itself.
        """
        rope = self._rope()
        old_context = int(rope.get("original_max_position_embeddings") or self.config["max_position_embeddings"])
        factor = float(rope.get("factor") or self.config["max_position_embeddings"] / old_context)
        stated = rope.get("attention_factor")
        if stated is None and rope.get("mscale") and rope.get("mscale_all_dim"):
            stated = _magnitude(factor, rope["mscale"]) / _magnitude(factor, rope["mscale_all_dim"])
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(old_context)
        if stated is not None:
            writer.add_rope_scaling_attn_factors(float(stated) / _magnitude(factor, 1.0))

    def tensors(self, weights: Weights) -> list[Tensor]:
        """Every tensor of the file in llama.cpp's order: what is outside the layers, then layer by layer.

        Raises DistillError for a tensor that the graph does not know, or one that it needs and does not find.
        """
        names = get_tensor_name_map(self.spec.gguf, self.all_layers)
        found: list[Tensor] = []
        for source in weights.names():
            if source.endswith(SKIPPED) or (self.tied and source == "lm_head.weight"):
                continue
            name = names.get_name(source, try_suffixes=(".weight", ".bias"))
            if name is None or (source.endswith(".bias") and source.split(".")[-2] not in self.spec.biases):
                where = f"{self.path.parent}: {self.architecture}"
                raise DistillError(f"{where} has no place for tensor {source}; {WAY_AROUND}")
            layer = int(name.split(".")[1]) if name.startswith("blk.") else None
            if layer is not None and layer >= self.layers:
                continue  # cut off on purpose: the name map knows no layer beyond the model's own
            found.append(Tensor(name, layer, weights.shape(source), self._maker(weights, source), source))
        self._check_complete({tensor.name for tensor in found})
        self._check_rows({tensor.name: tensor.shape for tensor in found})
        if self.rope_type == "llama3":
            factors = self.rope_factors()
            found.append(Tensor("rope_freqs.weight", None, factors.shape, lambda: factors, "rope_parameters"))
        return sorted(found, key=lambda tensor: (-1 if tensor.layer is None else tensor.layer, tensor.name))

    def _maker(self, weights: Weights, source: str) -> Callable[[], NDArray[np.float32]]:
        part = source.split(".")[-2]
        if self.spec.interleaved and part in ("q_proj", "k_proj"):
            heads = self.heads if part == "q_proj" else self.kv_heads
            return lambda: interleave(weights.read(source), heads)
        return lambda: weights.read(source)

    def _check_complete(self, names: set[str]) -> None:
        parts = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"]
        if self.spec.gguf == MODEL_ARCH.QWEN3:
            parts += ["attn_q_norm", "attn_k_norm"]
        needed = {"token_embd.weight", "output_norm.weight"} | (set() if self.tied else {"output.weight"})
        needed |= {f"blk.{layer}.{part}.weight" for layer in range(self.layers) for part in parts}
        if lost := sorted(needed - names):
            raise DistillError(f"{self.path.parent}: {len(lost)} tensors are missing from the weights, first {lost[0]}")

    def _check_rows(self, shapes: dict[str, tuple[int, ...]]) -> None:
        for name in ("token_embd.weight", "output.weight"):
            if name in shapes and shapes[name] != (self.rows, self.config["hidden_size"]):
                raise DistillError(f"{self.path}: vocab_size {self.rows}, but {name} has shape {shapes[name]}")

    def rope_factors(self) -> NDArray[np.float32]:
        """By how much llama3's rope scaling slows each frequency: `head_dim / 2` factors.

        As in transformers' `_compute_llama3_parameters`: long wavelengths by `factor`, short ones not, a blend between.
        """
        import torch  # its float32 power differs from numpy's in the last bit, and llama.cpp's converter has torch's

        rope, theta = self._rope(), self.rope_theta
        factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        old_context = float(rope["original_max_position_embeddings"])
        places = torch.arange(0, self.head_dim, 2, dtype=torch.float32)
        wavelengths = 2 * math.pi / (1.0 / theta ** (places / self.head_dim))
        blend = (old_context / wavelengths - low) / (high - low)
        factors = 1 / ((1 - blend) / factor + blend)
        factors[wavelengths < old_context / high] = 1.0
        factors[wavelengths > old_context / low] = factor
        return factors.numpy()


def _magnitude(factor: float, scale: float) -> float:
    """Yarn's attention factor, as transformers' `get_mscale`."""
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def interleave(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a q or k projection (or entries of its bias) from halves to neighbouring pairs, head by head.

    Of a head with rows 0..5, rows 0, 3, 1, 4, 2, 5.
    """
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
