"""The tensors of a safetensors folder, read one at a time from the mapped files, as numpy float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from distill.core.errors import DistillError

FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
"""Stored types that can be read, as numpy's (bfloat16 as its bits)."""


class Weights(Protocol):
    """A model's tensors by their Hugging Face names. Reading one costs that one's memory."""

    def names(self) -> list[str]:
        """All tensor names, in the order of the files."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""

    def dtype(self, name: str) -> str:
        """Stored type of a tensor, in safetensors' words (`BF16`)."""

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32. It may be a read-only view of the file."""


class FolderWeights:
    """The weights in a model folder: `model.safetensors`, or the files that its index names."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, tuple[NDArray[np.uint8], dict[str, Any]]] = {}
        for path in weight_files(folder):
            data, header = open_safetensors(path)
            for name, entry in header.items():
                if name in self._where:
                    raise DistillError(f"{path}: tensor {name} is in two weight files")
                self._where[name] = (data, entry)
        index = folder / "model.safetensors.index.json"
        if index.exists():
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            if lost := sorted(named - set(self._where)):
                raise DistillError(f"{index}: {len(lost)} tensors of the index are in no file, first {lost[0]}")

    def names(self) -> list[str]:
        """All tensor names."""
        return list(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self._where[name][1]["shape"])

    def dtype(self, name: str) -> str:
        """Stored type of a tensor."""
        return str(self._where[name][1]["dtype"])

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as float32."""
        return read_entry(*self._where[name], name)


def read_entry(data: NDArray[np.uint8], entry: dict[str, Any], name: str) -> NDArray[np.float32]:
    """One tensor of an opened safetensors file as float32; `entry` is its part of the header."""
    if entry["dtype"] not in FLOATS:
        raise DistillError(f"tensor {name} is stored as {entry['dtype']}; only {', '.join(FLOATS)} can be exported")
    begin, end = entry["data_offsets"]
    raw = data[begin:end].view(FLOATS[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        wide = raw.astype(np.uint32)
        wide <<= 16  # in place: a shifted copy would double the memory
        return wide.view(np.float32)
    return raw.astype(np.float32, copy=False)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, in order. Raises DistillError if there are none."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if missing := [name for name in names if not (folder / name).exists()]:
            raise DistillError(f"{index}: the file {missing[0]} that it names is not there")
        return [folder / name for name in names]
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    raise DistillError(f"{folder}: no model.safetensors there (nor an index of several); pickled weights are not read")


def open_safetensors(path: Path) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """The mapped data bytes of a safetensors file and its header: name to dtype, shape, data_offsets."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise DistillError(f"{path}: not a safetensors file, or cut short")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise DistillError(f"{path}: the safetensors header cannot be read ({error})") from error
    header.pop("__metadata__", None)
    end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if 8 + length + end != size:
        raise DistillError(f"{path}: {size:,} bytes where its header promises {8 + length + end:,}: it is cut short")
    data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length) if end else np.zeros(0, np.uint8)
    return data, header
