"""Which type every tensor of a file gets: llama.cpp's own recipes, and what it falls back to.

The rules are those of llama.cpp's `llama-quant.cpp` (the version inside the pinned wheel) for dense models: everything
that is not a matrix, and every norm, stays F32; the head (or the tied embedding that serves as one) and some layers'
`attn_v`, `attn_output` and `ffn_down` get more bits. Layers are counted in their order, as llama.cpp counts tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from distill.core.errors import ConfigError

Type = GGMLQuantizationType
F32, F16, BF16, Q8_0 = Type.F32, Type.F16, Type.BF16, Type.Q8_0
Q2_K, Q3_K, Q4_K, Q5_K, Q6_K = Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K
Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, IQ4_XS = Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.IQ4_NL, Type.IQ4_XS

NARROWER = {Q2_K: Q4_0, Q3_K: Q4_0, Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, IQ4_XS: IQ4_NL}
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
    "q5_k_m": FileType(LlamaFileType.MOSTLY_Q5_K_M, Q5_K),
    "q5_k_s": FileType(LlamaFileType.MOSTLY_Q5_K_S, Q5_K),
    "q5_1": FileType(LlamaFileType.MOSTLY_Q5_1, Q5_1),
    "q5_0": FileType(LlamaFileType.MOSTLY_Q5_0, Q5_0),
    "q4_k_m": FileType(LlamaFileType.MOSTLY_Q4_K_M, Q4_K),
    "q4_k_s": FileType(LlamaFileType.MOSTLY_Q4_K_S, Q4_K),
    "q4_1": FileType(LlamaFileType.MOSTLY_Q4_1, Q4_1),
    "q4_0": FileType(LlamaFileType.MOSTLY_Q4_0, Q4_0),
    "iq4_nl": FileType(LlamaFileType.MOSTLY_IQ4_NL, IQ4_NL),
    "iq4_xs": FileType(LlamaFileType.MOSTLY_IQ4_XS, IQ4_XS),
    "q3_k_l": FileType(LlamaFileType.MOSTLY_Q3_K_L, Q3_K),
    "q3_k_m": FileType(LlamaFileType.MOSTLY_Q3_K_M, Q3_K),
    "q3_k_s": FileType(LlamaFileType.MOSTLY_Q3_K_S, Q3_K),
    "q2_k": FileType(LlamaFileType.MOSTLY_Q2_K, Q2_K),
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
        """llama.cpp's "70B" class: 80 layers with grouped values, whose small attn_v gets Q5_K for Q3_K and Q4_K."""
        grouped = self.architecture == "qwen2" or self.heads != self.kv_heads
        return self.layers == 80 and self.architecture in ("llama", "qwen2") and grouped

    @property
    def shared_values(self) -> bool:
        """Whether four query heads or more share each attn_v, which is then small enough for more bits."""
        return self.heads // self.kv_heads >= 4


def choose(
    name: str, shape: tuple[int, ...], layer: int | None, kind: str, model: Shape, *, importance: bool = False
) -> GGMLQuantizationType:
    """Type of one tensor, fallback included; see `ideal`."""
    return fallback(ideal(name, shape, layer, kind, model, importance=importance), shape[-1])


def ideal(
    name: str, shape: tuple[int, ...], layer: int | None, kind: str, model: Shape, *, importance: bool = False
) -> GGMLQuantizationType:
    """Type that the recipe asks for, before row lengths are looked at.

    `name` is the tensor's GGUF name, `layer` its layer, `kind` a key of FILE_TYPES; `importance` says whether the file
    is quantised with an importance matrix, which some recipes look at.
    """
    most = FILE_TYPES[kind].most
    if len(shape) < 2 or name.endswith("_norm.weight") or not name.endswith("weight"):
        return F32
    if most in (F32, F16, BF16, Q8_0):
        return most
    if name == "output.weight" or (model.tied and name == "token_embd.weight"):
        return Q6_K if shape[-1] % GGML_QUANT_SIZES[most][0] == 0 else Q8_0
    if layer is None:
        return most
    match name.split(".")[-2]:
        case "attn_v":
            chosen = _values(kind, layer, model)
            return Q5_K if model.wide_values and chosen in (Q3_K, Q4_K) else chosen
        case "attn_output":
            return {"q2_k": Q3_K, "q3_k_m": Q4_K, "q3_k_l": Q5_K}.get(kind, most)
        case "ffn_down":
            return _down(kind, layer, model.layers, importance)
    return most


def _values(kind: str, layer: int, model: Shape) -> GGMLQuantizationType:
    """What a recipe gives `attn_v` of a layer."""
    match kind:
        case "q2_k":
            return Q4_K if model.shared_values else Q3_K
        case "q3_k_m":
            return Q5_K if layer < 2 else Q4_K
        case "q3_k_l":
            return Q5_K
        case "q4_k_s" if layer < 4:
            return Q5_K
        case "q4_k_m" | "q5_k_m" if more_bits(layer, model.layers):
            return Q6_K
        case "iq4_nl" | "iq4_xs" if model.shared_values:
            return Q5_K
    return FILE_TYPES[kind].most


def _down(kind: str, layer: int, layers: int, importance: bool) -> GGMLQuantizationType:
    """What a recipe gives `ffn_down` of a layer."""
    first_eighth = layer < layers // 8
    match kind:
        case "q2_k":
            return Q3_K
        case "q3_k_m":
            return Q5_K if layer < layers // 16 else Q4_K
        case "q3_k_l":
            return Q5_K
        case "q4_k_s" if first_eighth:
            return Q5_K
        case "q4_k_m" | "q5_k_m" if more_bits(layer, layers):
            return Q6_K
        case "iq4_nl" | "iq4_xs" if first_eighth and not importance:
            return Q5_K
        case "q4_0" | "q5_0" if first_eighth and importance:
            return Q4_1 if kind == "q4_0" else Q5_1
    return FILE_TYPES[kind].most


def more_bits(layer: int, layers: int) -> bool:
    """The layers that get more bits: the first eighth, the last eighth, and every third in between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def fallback(wanted: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    """The type that rows of this length allow: the wanted one, its 32-wide stand-in, or F16."""
    for kind in (wanted, NARROWER.get(wanted, wanted)):
        if columns % GGML_QUANT_SIZES[kind][0] == 0:
            return kind
    return F16
