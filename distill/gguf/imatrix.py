"""llama.cpp's importance matrices: for every matrix of a model, the mean square of each of its input columns.

Quantisers weigh a column's error by it. Both formats of llama-imatrix are read, the GGUF file and the older `.dat`;
the GGUF one is written. C columns.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter
from numpy.typing import NDArray

from distill.core.errors import DistillError
from distill.core.files import atomic

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
LONGEST_NAME = 1024
"""Bytes; a longer one in a `.dat` file means that it is no such file."""


@dataclass(frozen=True)
class Entry:
    """One matrix: `sums_C` float32, the sum of each input column's squares over `count` tokens."""

    sums_C: NDArray[np.float32]
    count: int

    @property
    def mean(self) -> NDArray[np.float32]:
        """What quantisers take, [C] float32 as in llama-quantize: ones where no token was seen."""
        if self.count <= 0:
            return np.ones_like(self.sums_C)
        return self.sums_C / np.float32(self.count)


@dataclass(frozen=True)
class ImportanceMatrix:
    """Entries by GGUF tensor name; `dataset` says what they were measured on, `chunks` in how many pieces of text."""

    entries: Mapping[str, Entry]
    dataset: str = ""
    chunks: int = 0
    chunk_size: int = 512
    source: str = ""
    """The file that it was read from, or what it was made from: for messages and the header of a GGUF file."""

    def check(self, columns: Mapping[str, int]) -> None:
        """Raise DistillError unless it is a matrix of the model whose layers' matrices have these columns.

        One for another model would be taken where names agree by chance, and left out in silence elsewhere.
        """
        where = self.source or "importance matrix"
        layers = {name for name in columns if name.startswith("blk.")}
        if unknown := sorted(set(self.entries) - set(columns)):
            raise DistillError(f"{where}: has {unknown[0]}, which this model does not have; it is of another model")
        if lost := sorted(layers - set(self.entries)):
            raise DistillError(f"{where}: nothing about {lost[0]} ({len(lost)} matrices); it is of another model")
        for name, entry in self.entries.items():
            if (got := entry.sums_C.size) != columns[name]:
                raise DistillError(
                    f"{where}: {got} columns of {name}, which has {columns[name]}; it is of another model"
                )

    def write(self, path: Path) -> None:
        """Write it as llama-imatrix's GGUF file, under its name only when it is whole."""
        with atomic(path) as partial:
            writer = _Writer(partial, "")
            try:
                writer.add_type("imatrix")
                writer.add_array(DATASETS, [self.dataset or "unnamed"])
                writer.add_uint32(CHUNK_COUNT, self.chunks)
                writer.add_uint32(CHUNK_SIZE, self.chunk_size)
                for name in sorted(self.entries):
                    entry = self.entries[name]
                    writer.add_tensor(name + SUMS, entry.sums_C.astype(np.float32))
                    writer.add_tensor(name + COUNTS, np.array([entry.count], np.float32))
                writer.write_header_to_file()
                writer.write_kv_data_to_file()
                writer.write_tensors_to_file()
            finally:
                writer.close()


class _Writer(GGUFWriter):  # type: ignore[misc]  # gguf ships no types
    def add_architecture(self) -> None:
        """An importance matrix states none."""


def read(path: Path) -> ImportanceMatrix:
    """Read a matrix in either format. Raises DistillError, one line, for anything else."""
    if not path.is_file():
        raise DistillError(f"{path}: no such importance matrix")
    with path.open("rb") as file:
        magic = file.read(4)
    found = _read_gguf(path) if magic == b"GGUF" else _read_legacy(path)
    for name, entry in found.entries.items():
        if not np.all(np.isfinite(entry.sums_C)) or np.any(entry.sums_C < 0):
            raise DistillError(f"{path}: {name} holds values that are no mean squares (negative or not finite)")
    return found


def _read_gguf(path: Path) -> ImportanceMatrix:
    try:
        reader = GGUFReader(path)
        tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
        said = {name: value.contents() for name, value in reader.fields.items() if name.startswith("imatrix.")}
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise DistillError(f"{path}: cannot be read as GGUF ({error})") from error
    names = {name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)}
    entries: dict[str, Entry] = {}
    for name in sorted(names):
        sums, counts = tensors[name + SUMS], tensors.get(name + COUNTS)
        if counts is None or sums.dtype != np.float32 or counts.dtype != np.float32:
            raise DistillError(f"{path}: {name} lacks its float32 sums or counts; llama-imatrix writes both")
        if counts.size != 1:
            raise DistillError(f"{path}: {name} has {counts.size} experts; only dense models can be exported here")
        entries[name] = Entry(sums.reshape(-1).copy(), round(float(counts.reshape(-1)[0])))
    if not entries:
        raise DistillError(f"{path}: a GGUF file, but no importance matrix (no tensor `*{SUMS}`)")
    datasets = said.get(DATASETS) or [""]
    return ImportanceMatrix(
        entries, str(datasets[0]), int(said.get(CHUNK_COUNT, 0)), int(said.get(CHUNK_SIZE, 0)), str(path)
    )


def _read_legacy(path: Path) -> ImportanceMatrix:
    """The `.dat` format: count of entries; each with name, calls, values (mean square times calls); calls, data set."""
    content = path.read_bytes()
    place = 0

    def number() -> int:
        nonlocal place
        (value,) = struct.unpack_from("<i", content, place)
        place += 4
        return int(value)

    def text(length: int) -> str:
        nonlocal place
        if not 0 <= length <= LONGEST_NAME or place + length > len(content):
            raise ValueError(f"a name of {length} bytes")
        place += length
        return content[place - length : place].decode()

    entries: dict[str, Entry] = {}
    chunks, dataset = 0, ""
    try:
        for _ in range(number()):
            name, calls, size = text(number()), number(), number()
            if size < 1 or place + 4 * size > len(content):
                raise ValueError(f"{size} values of {name}")
            entries[name] = Entry(np.frombuffer(content, "<f4", size, place).copy(), calls)
            place += 4 * size
        if place < len(content):
            chunks, dataset = number(), text(number())
    except (struct.error, ValueError) as error:
        raise DistillError(f"{path}: no importance matrix of llama-imatrix, or cut short ({error})") from error
    if not entries:
        raise DistillError(f"{path}: an importance matrix without an entry")
    return ImportanceMatrix(entries, dataset, chunks, 0, str(path))
