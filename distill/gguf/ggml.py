"""ggml's own quantisers, called in the shared library that the pinned xllamacpp wheel carries.

Without the wheel `gguf`'s encoders still serve F32, F16, BF16 and Q8_0 (the same bytes); K-quants are refused.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

from distill.core.device import usable_cores
from distill.core.errors import DistillError, MissingExtra

PLAIN = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
WITHOUT_LIBRARY = (*PLAIN, GGMLQuantizationType.Q8_0)
"""Types that `gguf` encodes itself."""

LIBRARY = tuple(
    GGMLQuantizationType[name]
    for name in ["Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K"]
)
"""Types that ggml encodes: their names and block sizes are checked when its library is opened."""

ROWS_APART = 1 << 20
"""Values from which the rows of a tensor are encoded on several threads."""

PIECES_A_THREAD = 8


def byte_size(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Bytes of a tensor of this shape in this type. The row length must divide into the type's blocks."""
    block, size = GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise ValueError(f"rows of {shape[-1]} do not divide into {kind.name} blocks of {block}")
    return math.prod(shape) // int(block) * int(size)


def quantise(
    values: NDArray[np.float32],
    kind: GGMLQuantizationType,
    importance: NDArray[np.float32] | None = None,
    *,
    threads: int | None = None,
) -> NDArray[np.uint8]:
    """Encode a tensor row by row; the result is the tensor's bytes, flat.

    `importance` float32, one value a column, weighs the errors of the types that look at it (an importance matrix's
    mean squares). `threads` None is every core this process may use; rows are independent, so it changes no byte.
    Raises MissingExtra for a K-quant without the library.
    """
    values = np.ascontiguousarray(values, np.float32)
    found = None if kind == GGMLQuantizationType.F32 else library()
    if found is None:
        require(kind)
        with np.errstate(over="ignore"):  # what does not fit F16 becomes inf, which the proof finds
            plain: NDArray[np.uint8] = quants.quantize(values, kind).reshape(-1).view(np.uint8)
        return plain
    columns = values.shape[-1]
    rows = values.size // columns
    if importance is not None:
        if importance.shape != (columns,):
            raise ValueError(f"importance of shape {importance.shape} for rows of {columns}")
        importance = np.ascontiguousarray(importance, np.float32)
    weights = None if importance is None else importance.ctypes.data
    out = np.empty(byte_size(values.shape, kind), np.uint8)

    def encode(first: int, last: int) -> int:
        return int(
            found.ggml_quantize_chunk(
                int(kind), values.ctypes.data, out.ctypes.data, first * columns, last - first, columns, weights
            )
        )

    parts = min(threads or usable_cores(), rows) if values.size >= ROWS_APART else 1
    if parts == 1:
        wrote = encode(0, rows)
    else:
        pieces = min(PIECES_A_THREAD * parts, rows)  # a thread that is held up leaves its share to the others
        edges = [rows * piece // pieces for piece in range(pieces + 1)]
        with ThreadPoolExecutor(parts) as pool:
            wrote = sum(pool.map(encode, edges[:-1], edges[1:]))
    if wrote != out.nbytes:
        raise DistillError(f"ggml wrote {wrote} bytes of {kind.name} where {out.nbytes} were due; pin xllamacpp again")
    return out


def dequantise(data: NDArray[np.uint8], kind: GGMLQuantizationType, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The float32 values that a tensor's bytes stand for (gguf's decoders: a second opinion on ggml's encoders)."""
    with np.errstate(over="ignore", invalid="ignore"):  # what a broken file holds is the caller's to find
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
    for kind in LIBRARY:
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
