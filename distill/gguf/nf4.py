"""What is left of a weight that went through 4 bits: bitsandbytes' NF4 with double quantisation and back, in numpy.

An adapter that was trained on such a base fits what 4 bits left of it, not the weights before: merged into those, a
tiny model is over a hundred times farther from the trained graph (tests/gguf/test_adapter.py).

Dettmers et al. 2023 (arXiv 2305.14314): blocks of 64 weights share a scale, their largest absolute value; a weight is
the nearest of 16 quantiles of a normal distribution times it; the scales, less their mean, are stored in 8 bits in
blocks of 256 (Dettmers et al. 2021, arXiv 2110.02861).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

BLOCK, SCALES_BLOCK = 64, 256

LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
        0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ], np.float32,
)  # fmt: skip
"""The 16 values of NF4 (the paper's appendix E)."""


def round_trip(weight: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """A weight as a base in 4 bits has it. `dtype` is the precision (`bfloat16`) in which it was handed over and in
    which it is handed back.

    As bitsandbytes 0.50 on a CPU makes it, but for the last bit of the scales; its GPU kernels may take the other level
    for a value in the middle between two.
    """
    flat = _rounded(np.ascontiguousarray(weight, np.float32), dtype).reshape(-1)
    blocks = np.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1)
    inverse = np.float32(1) / np.maximum(scales, np.float32(1e-38))
    places = np.searchsorted((LEVELS[1:] + LEVELS[:-1]) / np.float32(2), np.clip(blocks * inverse[:, None], -1, 1))
    values = LEVELS[places] * _scales(scales)[:, None]
    return _rounded(values.reshape(-1)[: len(flat)].reshape(weight.shape), dtype)


def _scales(scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """The blocks' scales after their own 8 bits."""
    offset = np.float32(scales.mean(dtype=np.float64))
    rest = scales - offset
    blocks = np.pad(rest, (0, -len(rest) % SCALES_BLOCK)).reshape(-1, SCALES_BLOCK)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    inverse = np.float32(1) / np.where(largest == 0, np.float32(1), largest)
    levels = _dynamic_levels()
    # Looked up in a table of 65,536: what lies closer to a border between levels than its steps may take the other one.
    steps = np.floor((np.clip(blocks * inverse, -1, 1) + np.float32(1)) * np.float32(32767.5) + np.float32(0.5))
    near = steps / np.float32(32767.5) - np.float32(1)
    places = np.searchsorted((levels[1:] + levels[:-1]) / np.float32(2), near)
    kept: NDArray[np.float32] = (levels[places] * largest).reshape(-1)[: len(rest)] + offset
    return kept


@cache
def _dynamic_levels() -> NDArray[np.float32]:
    """The 256 levels of the signed dynamic type: seven decades, each with twice the steps of the one below."""
    found = [0.0, 1.0]
    for decade in range(7):
        edges = np.linspace(0.1, 1, 2**decade + 1, dtype=np.float32)
        middles = (edges[:-1] + edges[1:]) / np.float32(2) * np.float32(10.0 ** (decade - 6))
        found += [*middles.tolist(), *(-middles).tolist()]
    return np.sort(np.array(found, np.float32))


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Float32 values rounded to the nearest of a shorter type, ties to even."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        return values.astype(np.float16).astype(np.float32)
    if dtype != "bfloat16":
        raise ValueError(f"a base in 4 bits is float32, float16 or bfloat16 before it, not {dtype}")
    bits = values.view(np.uint32)
    return (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
