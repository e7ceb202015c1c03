"""Which type each tensor gets: snapshots of llama.cpp's own files, and what short rows force."""

from __future__ import annotations

from collections import Counter

import pytest

from distill.core.errors import ConfigError
from distill.gguf import types
from distill.gguf.types import Shape, choose, more_bits

QWEN3_06B = Shape("qwen3", layers=28, tied=True, heads=16, kv_heads=8)
QWEN25_05B = Shape("qwen2", layers=24, tied=True, heads=14, kv_heads=2)
LLAMA_70B = Shape("llama", layers=80, tied=False, heads=64, kv_heads=8)


def matrices(model: Shape, hidden: int, feed_forward: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all matrices of a dense model, and one norm."""
    found = {"token_embd.weight": (1000, hidden), "output_norm.weight": (hidden,)}
    if not model.tied:
        found["output.weight"] = (1000, hidden)
    for layer in range(model.layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"):
            found[f"blk.{layer}.{part}.weight"] = (hidden, hidden)
        found[f"blk.{layer}.ffn_down.weight"] = (hidden, feed_forward)
    return found


def chosen(model: Shape, hidden: int, feed_forward: int, kind: str) -> dict[str, str]:
    layer = {name: int(name.split(".")[1]) if name.startswith("blk") else None for name in matrices(model, 1, 1)}
    return {
        name: choose(name, shape, layer[name], kind, model).name
        for name, shape in matrices(model, hidden, feed_forward).items()
    }


def test_q4_k_m_of_28_layers_is_llama_cpps_own_snapshot():
    more = {0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 24, 25, 26, 27}  # as in the published Qwen3-0.6B file

    got = chosen(QWEN3_06B, 1024, 3072, "q4_k_m")

    assert {layer for layer in range(28) if got[f"blk.{layer}.attn_v.weight"] == "Q6_K"} == more
    assert {layer for layer in range(28) if got[f"blk.{layer}.ffn_down.weight"] == "Q6_K"} == more
    assert got["token_embd.weight"] == "Q6_K"  # it serves as head
    assert got["output_norm.weight"] == "F32"
    assert Counter(got.values()) == {"Q6_K": 29, "Q4_K": 7 * 28 - 28, "F32": 1}


def test_rows_of_896_fall_back_as_llama_cpps_do():
    got = Counter(chosen(QWEN25_05B, 896, 4864, "q4_k_m").values())

    assert got == {
        "Q5_0": 132,
        "Q8_0": 13,
        "Q6_K": 12,
        "Q4_K": 12,
        "F32": 1,
    }  # llama-quantize's counts for Qwen2.5-0.5B


def test_an_untied_head_gets_more_bits_and_the_embedding_does_not():
    got = chosen(LLAMA_70B, 8192, 28672, "q4_k_m")

    assert (got["output.weight"], got["token_embd.weight"]) == ("Q6_K", "Q4_K")
    assert Counter(got[f"blk.{layer}.attn_v.weight"] for layer in range(80)) == {"Q6_K": 40, "Q5_K": 40}


@pytest.mark.parametrize(
    ("kind", "columns", "expected"),
    [
        ("f32", 31, "F32"), ("f16", 31, "F16"), ("bf16", 31, "BF16"), ("q8_0", 64, "Q8_0"), ("q8_0", 33, "F16"),
        ("q6_k", 256, "Q6_K"), ("q6_k", 96, "Q8_0"), ("q4_k_m", 96, "Q5_0"), ("q4_k_m", 33, "F16"),
    ],
)  # fmt: skip
def test_row_lengths_decide_what_a_type_becomes(kind: str, columns: int, expected: str):
    assert choose("blk.4.attn_q.weight", (8, columns), 4, kind, QWEN3_06B).name == expected


@pytest.mark.parametrize("kind", types.FILE_TYPES)
def test_norms_and_biases_are_float32_in_every_file(kind: str):
    for name, shape in (("output_norm.weight", (64,)), ("blk.0.attn_q.bias", (64,)), ("rope_freqs.weight", (32,))):
        assert choose(name, shape, None, kind, QWEN3_06B).name == "F32"


def test_few_layers_still_get_their_share():
    assert [layer for layer in range(4) if more_bits(layer, 4)] == [2, 3]


def test_an_unknown_type_is_refused_by_name():
    with pytest.raises(ConfigError, match="no GGUF type `q4_k`; known: f32, f16, bf16, q8_0, q6_k, q5_k_m, q5_k_s"):
        types.file_type("q4_k")
