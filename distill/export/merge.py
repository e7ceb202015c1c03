"""A complete Hugging Face folder of a model: copied byte for byte, or with its adapter merged into the weights.

Merging streams: one tensor at a time is summed in float32 and written in the type that the base stores it in.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.core.files import write_json
from distill.gguf.adapter import adapter_parts, open_weights
from distill.gguf.weights import Weights, weight_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "LICENSE", "README.md",
)  # fmt: skip
"""What stands beside the weights, where it is there."""

BASE_ONLY = ("config.json", "README.md", "LICENSE")
"""What an adapter's folder does not override: its README is about the adapter."""

Dtype = Literal["stored", "fp32", "bf16", "fp16"]
STORED = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def write_folder(model: Path, out: Path, *, adapter: Path | None = None, dtype: Dtype = "stored") -> dict[str, int]:
    """Write the model into the empty folder `out`; returns how many tensors have each type.

    Without an adapter and with `dtype` "stored" every file is copied byte for byte.
    """
    base, over = adapter_parts(model, adapter)
    _copy_small(base, over, out)
    _, weights = open_weights(model, adapter)
    types: dict[str, int] = {}
    for name in weights.names():
        kind = _kind(weights, name, dtype)
        types[kind] = types.get(kind, 0) + 1
    if over is None and dtype == "stored":
        for path in weight_files(base):
            shutil.copyfile(path, out / path.name)
        if (base / "model.safetensors.index.json").exists():
            shutil.copyfile(base / "model.safetensors.index.json", out / "model.safetensors.index.json")
        return types
    _write_weights(weights, out / "model.safetensors", dtype)
    if dtype != "stored":
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = TORCH_NAMES[STORED[dtype]]
        config.pop("torch_dtype", None)
        write_json(out / "config.json", config)
    return types


def _copy_small(base: Path, over: Path | None, out: Path) -> None:
    for name in SMALL_FILES:
        own = over / name if over is not None and name not in BASE_ONLY else base / name
        found = own if own.exists() else base / name
        if found.exists():
            shutil.copyfile(found, out / name)


def _kind(weights: Weights, name: str, dtype: Dtype) -> str:
    return weights.dtype(name) if dtype == "stored" else STORED[dtype]


def _write_weights(weights: Weights, path: Path, dtype: Dtype) -> None:
    """A safetensors file, written tensor by tensor: the header is known from shapes alone."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in weights.names():
        kind, shape = _kind(weights, name, dtype), weights.shape(name)
        size = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}[kind]
        for length in shape:
            size *= length
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # tensors begin at a multiple of 8, as the format asks
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in weights.names():
            file.write(encode(weights.read(name), _kind(weights, name, dtype)).data)


def encode(values: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """The bytes of a tensor in one of safetensors' float types, rounded to the nearest."""
    import numpy as np
    from gguf import GGMLQuantizationType, quants

    values = np.ascontiguousarray(values)
    if kind == "BF16":
        rounded: NDArray[np.uint8] = quants.quantize(values, GGMLQuantizationType.BF16).reshape(-1).view(np.uint8)
        return rounded
    return values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[kind]).reshape(-1).view(np.uint8)
