"""Which type every tensor of a file gets: llama.cpp's own recipes, and what it falls back to.

The rules are those of llama.cpp's `llama-quant.cpp` (the version inside the pinned wheel) for dense models: everything
that is not a matrix, and every norm, stays F32; the head (or the tied embedding that serves as one) and some layers'
`attn_v` and `ffn_down` get more bits.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from distill.core.errors import ConfigError

F32, F16, BF16 = GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16
Q8_0, Q5_0, Q5_1 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1
Q4_K, Q5_K, Q6_K = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q5_K, GGMLQuantizationType.Q6_K

NARROWER = {Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0}
"""What a 256-wide type becomes where rows divide by 32 only."""


@dataclass(frozen=True)
class FileType:
    """One choice of `type:`: the number that llama.cpp writes into the file, and the type of most matrices."""

    number: LlamaFileType
    most: GGMLQuantizationType


FILE_TYPES = {
    "f32": FileType(LlamaFileType.ALL_F32, F32),
    "f16": FileType(LlamaFileType.MOSTLY_F16, F16),
    "bf16": FileType(LlamaFileType.MOSTLY_BF16, BF16),
    "q8_0": FileType(LlamaFileType.MOSTLY_Q8_0, Q8_0),
    "q6_k": FileType(LlamaFileType.MOSTLY_Q6_K, Q6_K),
    "q4_k_m": FileType(LlamaFileType.MOSTLY_Q4_K_M, Q4_K),
}


def file_type(name: str) -> FileType:
    """The file type of that name, in any case. Raises ConfigError naming the known ones."""
    known = FILE_TYPES.get(name.lower())
    if known is None:
        raise ConfigError(f"no GGUF type `{name}`; known: {', '.join(FILE_TYPES)}")
    return known


@dataclass(frozen=True)
class Shape:
    """What the recipes look at: llama.cpp's name of the architecture, layers, heads, a tied head."""

    architecture: str
    layers: int
    tied: bool
    heads: int
    kv_heads: int

    @property
    def wide_values(self) -> bool:
        """llama.cpp's "70B" class: 80 layers with grouped values, whose small attn_v gets Q5_K for Q4_K."""
        grouped = self.architecture == "qwen2" or self.heads != self.kv_heads
        return self.layers == 80 and self.architecture in ("llama", "qwen2") and grouped


def choose(name: str, shape: tuple[int, ...], layer: int | None, kind: str, model: Shape) -> GGMLQuantizationType:
    """Type of one tensor, fallback included. `name` is its GGUF name, `layer` its layer, `kind` a key of FILE_TYPES."""
    wanted = ideal(name, shape, layer, kind, model)
    return fallback(wanted, shape[-1])


def ideal(name: str, shape: tuple[int, ...], layer: int | None, kind: str, model: Shape) -> GGMLQuantizationType:
    """Type that the recipe asks for, before row lengths are looked at."""
    most = FILE_TYPES[kind].most
    if len(shape) < 2 or name.endswith("_norm.weight") or not name.endswith("weight"):
        return F32
    if most in (F32, F16, BF16, Q8_0):
        return most
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return Q6_K if shape[-1] % GGML_QUANT_SIZES[most][0] == 0 else Q8_0
    if kind == "q4_k_m" and layer is not None:
        if name.endswith(("attn_v.weight", "ffn_down.weight")) and more_bits(layer, model.layers):
            return Q6_K
        if name.endswith("attn_v.weight") and model.wide_values:
            return Q5_K
    return most


def more_bits(layer: int, layers: int) -> bool:
    """The layers that get more bits: the first eighth, the last eighth, and every third in between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def fallback(wanted: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The type that rows of this length allow: the wanted one, its 32-wide stand-in, or F16."""
    for kind in (wanted, NARROWER.get(wanted, wanted)):
        if columns % GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    return F16
