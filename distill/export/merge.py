"""A complete Hugging Face folder of a model: copied byte for byte, or with its adapter merged into the weights.

Merging streams: one tensor at a time is summed in float32 and written in the type that the base stores it in.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill import nf4
from distill.core.files import write_json
from distill.gguf.adapter import Onto, adapter_parts, open_weights
from distill.gguf.weights import Weights, open_safetensors, weight_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "LICENSE", "README.md",
)  # fmt: skip
"""What stands beside the weights, where it is there."""

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", nf4.RECORD)
"""An adapter's own."""
INDEX = "model.safetensors.index.json"

BASE_ONLY = ("config.json", "README.md", "LICENSE")
"""What an adapter's folder does not override: its README is about the adapter."""

Dtype = Literal["stored", "fp32", "bf16", "fp16"]
STORED = {"fp32": "F32", "bf16": "BF16", "fp16": "F16"}
BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def write_folder(
    model: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    onto: Onto = "trained",
    dtype: Dtype = "stored",
    shard_bytes: int = 5 * 10**9,
) -> dict[str, int]:
    """Write the model into the empty folder `out`; returns how many tensors have each type.

    Without an adapter and with `dtype` "stored" every file is copied byte for byte. What is written anew is split into
    files of at most `shard_bytes` (a larger tensor has one of its own) with an index, as transformers does it.
    """
    base, over = adapter_parts(model, adapter)
    _copy_small(base, over, out)
    _, weights = open_weights(model, adapter, onto)
    types: dict[str, int] = {}
    for name in weights.names():
        kind = _kind(weights, name, dtype)
        types[kind] = types.get(kind, 0) + 1
    if over is None and dtype == "stored":
        for path in weight_files(base):
            shutil.copyfile(path, out / path.name)
        if (base / INDEX).exists():
            shutil.copyfile(base / INDEX, out / INDEX)
        return types
    _write_weights(weights, out, dtype, shard_bytes)
    if dtype != "stored":
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = TORCH_NAMES[STORED[dtype]]
        config.pop("torch_dtype", None)
        write_json(out / "config.json", config)
    return types


def copy_adapter(adapter: Path, out: Path) -> dict[str, int]:
    """Copy a peft adapter's own files into the empty folder `out`; returns how many tensors have each type."""
    for name in (*ADAPTER_FILES, *SMALL_FILES):
        if (adapter / name).exists():
            shutil.copyfile(adapter / name, out / name)
    _, header = open_safetensors(out / "adapter_model.safetensors")
    return dict(Counter(str(entry["dtype"]) for entry in header.values()))


def size(model: Path, adapter: Path | None, dtype: Dtype) -> int:
    """Bytes of the weights that `write_folder` would write."""
    _, weights = open_weights(model, adapter)
    return sum(_n_bytes(weights, name, dtype) for name in weights.names())


def _copy_small(base: Path, over: Path | None, out: Path) -> None:
    for name in SMALL_FILES:
        own = over / name if over is not None and name not in BASE_ONLY else base / name
        found = own if own.exists() else base / name
        if found.exists():
            shutil.copyfile(found, out / name)


def _n_bytes(weights: Weights, name: str, dtype: Dtype) -> int:
    return BYTES[_kind(weights, name, dtype)] * math.prod(weights.shape(name))


def _kind(weights: Weights, name: str, dtype: Dtype) -> str:
    return weights.dtype(name) if dtype == "stored" else STORED[dtype]


def _write_weights(weights: Weights, out: Path, dtype: Dtype, shard_bytes: int) -> None:
    shards: list[list[str]] = [[]]
    full = 0
    for name in weights.names():
        n_bytes = _n_bytes(weights, name, dtype)
        if shards[-1] and full + n_bytes > shard_bytes:
            shards.append([])
            full = 0
        shards[-1].append(name)
        full += n_bytes
    if len(shards) == 1:
        _write_file(weights, shards[0], out / "model.safetensors", dtype)
        return
    place: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(weights, names, out / file, dtype)
        place |= dict.fromkeys(names, file)
    total = sum([_n_bytes(weights, name, dtype) for name in place])
    write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": place})


def _write_file(weights: Weights, names: Sequence[str], path: Path, dtype: Dtype) -> None:
    """A safetensors file, written tensor by tensor: the header is known from shapes alone."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        end = offset + _n_bytes(weights, name, dtype)
        shape = list(weights.shape(name))
        header[name] = {"dtype": _kind(weights, name, dtype), "shape": shape, "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # tensors begin at a multiple of 8, as the format asks
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in names:
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
