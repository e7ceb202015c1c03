"""ggml's own quantisers, called in the shared library that the pinned xllamacpp wheel carries.

Without the wheel `gguf`'s encoders still serve F32, F16, BF16 and Q8_0 (the same bytes); K-quants are refused.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from functools import cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

from distill.core.errors import DistillError, MissingExtra

PLAIN = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
WITHOUT_LIBRARY = (*PLAIN, GGMLQuantizationType.Q8_0)
"""Types that `gguf` encodes itself."""


def byte_size(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor of this shape in this type. The row length must divide into the type's blocks."""
    block, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} do not divide into {kind.name} blocks of {block}")
    return math.prod(shape) // int(block) * int(size)


def quantise(values: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """Encode a tensor row by row; the result is the tensor's bytes, flat.

    Raises MissingExtra for a K-quant without the library.
    """
    values = np.ascontiguousarray(values, np.float32)
    found = None if kind in PLAIN else library()
    if found is None:
        require(kind)
        with np.errstate(over="ignore"):  # what does not fit F16 becomes inf, which the proof finds
            plain: NDArray[np.uint8] = quants.quantize(values, kind).reshape(-1).view(np.uint8)
        return plain
    rows, columns = values.size // values.shape[-1], values.shape[-1]
    out = np.empty(byte_size(values.shape, kind), np.uint8)
    wrote = found.ggml_quantize_chunk(int(kind), values.ctypes.data, out.ctypes.data, 0, rows, columns, None)
    if wrote != out.nbytes:
        raise DistillError(f"ggml wrote {wrote} bytes of {kind.name} where {out.nbytes} were due; pin xllamacpp again")
    return out


def dequantise(data: NDArray[np.uint8], kind: GGMLQuantizationType, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 values that a tensor's bytes stand for (gguf's decoders: a second opinion on ggml's encoders)."""
    values: NDArray[np.float32] = quants.dequantize(data.reshape(-1), kind).reshape(shape)
    return values.astype(np.float32, copy=False)


def require(kind: GGMLQuantizationType) -> None:
    """Raise MissingExtra where this type cannot be written on this machine."""
    if kind not in WITHOUT_LIBRARY and library() is None:
        raise MissingExtra(
            f"{kind.name} needs ggml's quantisers, which come with the xllamacpp wheel that this project pins: "
            "pip install xllamacpp, or export f16, bf16 or q8_0"
        )


@cache
def library() -> ctypes.CDLL | None:
    """The wheel's shared library with its functions declared and checked; None where the wheel is not installed.

    Raises DistillError where it is installed but is not the ggml that this code knows.
    """
    path = library_path()
    if path is None:
        return None
    try:
        found = ctypes.CDLL(str(path))
    except OSError:
        import torch  # noqa: F401  its libgomp serves where the system has none

        found = ctypes.CDLL(str(path))
    try:
        found.ggml_quantize_chunk.restype = ctypes.c_size_t
        found.ggml_quantize_chunk.argtypes = [
            ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
            ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
        ]  # fmt: skip
        found.ggml_type_name.restype = ctypes.c_char_p
        found.ggml_blck_size.restype = ctypes.c_int64
        found.ggml_type_size.restype = ctypes.c_size_t
    except AttributeError as error:
        raise DistillError(f"{path.name}: {error}; install the xllamacpp version that this project pins") from error
    for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q6_K):
        number, (block, size) = int(kind), GGML_QUANT_SIZES[kind]
        said = (found.ggml_type_name(number).decode(), found.ggml_blck_size(number), found.ggml_type_size(number))
        if said != (kind.name.lower().replace("_k", "_K"), block, size):
            raise DistillError(f"{path.name}: {kind.name} is {said} there, not {block} values in {size} bytes")
    return found


def library_path() -> Path | None:
    """Where the xllamacpp wheel keeps its library, without importing it."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.submodule_search_locations is None:
        return None
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).iterdir()):
            if path.name.startswith("xllamacpp.") and path.suffix in (".so", ".pyd"):
                return path
    return None
