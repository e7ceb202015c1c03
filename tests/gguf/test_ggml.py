"""ggml's quantisers through ctypes: the same bytes as the reference encoders, stored error of the others, refusals."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from distill.core.errors import DistillError, MissingExtra
from distill.gguf import ggml

KINDS = GGMLQuantizationType
STORED_ERROR = {
    KINDS.Q6_K: 0.017770, KINDS.Q5_K: 0.036414, KINDS.Q5_1: 0.038127, KINDS.Q5_0: 0.042839, KINDS.Q4_K: 0.071389,
    KINDS.Q4_1: 0.078246, KINDS.Q4_0: 0.086484, KINDS.IQ4_NL: 0.076489, KINDS.IQ4_XS: 0.077023, KINDS.Q3_K: 0.152091,
    KINDS.Q2_K: 0.296300,
}  # fmt: skip
"""Relative root mean square error that ggml leaves on `gaussian()`; its encoders must not drift from it."""


def gaussian() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)


def test_q8_0_bytes_are_the_reference_encoders():
    values = gaussian() * np.float32(3.7)

    assert np.array_equal(
        ggml.quantise(values, KINDS.Q8_0), quants.quantize(values, KINDS.Q8_0).reshape(-1).view(np.uint8)
    )


@pytest.mark.parametrize(
    ("kind", "function"), [(KINDS.F16, "ggml_fp32_to_fp16_row"), (KINDS.BF16, "ggml_fp32_to_bf16_row")]
)
def test_f16_and_bf16_bytes_are_ggmls(kind: KINDS, function: str):
    values = np.concatenate([gaussian().reshape(-1), np.float32([0, -0.0, 6e-8, 1e-7, 65504, 65519, 3e38, 1e-40, 0.1])])
    expected = np.empty(values.size, np.uint16)
    library = ggml.library()
    assert library is not None
    getattr(library, function)(
        ctypes.c_void_p(values.ctypes.data), ctypes.c_void_p(expected.ctypes.data), ctypes.c_int64(values.size)
    )

    assert np.array_equal(ggml.quantise(values, kind).view(np.uint16), expected)


@pytest.mark.parametrize("kind", STORED_ERROR)
def test_other_encoders_leave_the_stored_error(kind: KINDS):
    values = gaussian()

    got = ggml.dequantise(ggml.quantise(values, kind), kind, values.shape)

    error = np.sqrt(np.mean((got - values) ** 2) / np.mean(values**2))
    assert error == pytest.approx(STORED_ERROR[kind], rel=0.005)


@pytest.mark.parametrize("kind", [KINDS.Q8_0, KINDS.Q4_K, KINDS.IQ4_XS])
def test_threads_change_no_byte(kind: KINDS, monkeypatch):
    values, importance = gaussian()[:37], np.linspace(0.1, 5, 512, dtype=np.float32)
    alone = ggml.quantise(values, kind, importance)
    monkeypatch.setattr(ggml, "ROWS_APART", 1)

    assert np.array_equal(ggml.quantise(values, kind, importance, threads=5), alone)
    assert np.array_equal(ggml.quantise(values[:2], kind, importance, threads=5), alone[: 2 * alone.size // 37])


def test_importance_of_another_width_is_a_fault():
    with pytest.raises(ValueError, match=r"importance of shape \(4,\) for rows of 512"):
        ggml.quantise(gaussian(), KINDS.Q4_K, np.ones(4, np.float32))


def test_rows_are_encoded_each_for_itself():
    values = gaussian()[:6]

    whole = ggml.quantise(values, KINDS.Q4_K)

    assert np.array_equal(whole, np.concatenate([ggml.quantise(row[None], KINDS.Q4_K) for row in values]))


def test_without_the_library_k_quants_are_refused_in_one_line_and_the_rest_are_the_same_bytes(monkeypatch):
    values, kinds = gaussian() * np.float32(3.7), (KINDS.F32, KINDS.F16, KINDS.BF16, KINDS.Q8_0)
    expected = [ggml.quantise(values, kind) for kind in kinds]
    monkeypatch.setattr(ggml, "library", lambda: None)

    assert all(np.array_equal(ggml.quantise(values, kind), due) for kind, due in zip(kinds, expected, strict=True))
    with pytest.raises(MissingExtra, match="Q4_K needs ggml's quantisers.*pip install xllamacpp, or export f16"):
        ggml.quantise(values, KINDS.Q4_K)


def test_another_library_is_refused_at_the_start(monkeypatch):
    monkeypatch.setattr(ggml.ctypes, "CDLL", lambda _: object())

    with pytest.raises(DistillError, match="install the xllamacpp version that this project pins"):
        ggml.library.__wrapped__()
