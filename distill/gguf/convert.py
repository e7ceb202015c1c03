"""A model folder to one GGUF file: one pass, tensor by tensor, memory bounded by the two largest tensors.

The file appears under its name only when it is whole and synced. No torch: weights are read from the mapped files.
"""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from distill.core.errors import DistillError
from distill.core.files import atomic, crash_point
from distill.gguf import ggml, types
from distill.gguf.adapter import Onto, open_weights
from distill.gguf.architectures import ModelFolder, Tensor
from distill.gguf.imatrix import ImportanceMatrix
from distill.gguf.tokenizer import Vocabulary, read_vocabulary

logging.getLogger("gguf").setLevel(logging.WARNING)

SAMPLING = {
    "temperature": "add_sampling_temp", "top_p": "add_sampling_top_p", "top_k": "add_sampling_top_k",
    "min_p": "add_sampling_min_p", "repetition_penalty": "add_sampling_penalty_repeat",
}  # fmt: skip
"""The family's sampling defaults: names in generation_config.json, and the writer's method for each."""


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file: where it comes from, which type it gets, and which one the recipe asked for."""

    tensor: Tensor
    kind: GGMLQuantizationType
    wanted: GGMLQuantizationType

    @property
    def n_bytes(self) -> int:
        """Its size in the file, without padding."""
        return ggml.byte_size(self.tensor.shape, self.kind)


@dataclass(frozen=True)
class Plan:
    """What the file holds, known before a byte is written."""

    architecture: str
    type: str
    tensors: tuple[PlannedTensor, ...]
    vocabulary: Vocabulary
    model: ModelFolder
    notes: tuple[str, ...] = field(default=())
    importance: ImportanceMatrix | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(planned.n_bytes for planned in self.tensors)

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(planned.tensor.shape)) for planned in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits of tensor data a weight."""
        return 8 * self.n_bytes / self.n_weights

    @property
    def types_used(self) -> dict[str, int]:
        """How many tensors have each type, most first."""
        counts: dict[str, int] = {}
        for planned in self.tensors:
            counts[planned.kind.name] = counts.get(planned.kind.name, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def column_weights(self, name: str) -> NDArray[np.float32] | None:
        """What the importance matrix says of a tensor's columns; None where it says nothing."""
        entry = self.importance.entries.get(name) if self.importance is not None else None
        return None if entry is None else entry.mean

    @property
    def n_fallback(self) -> int:
        """How many tensors have rows too short for the type that the recipe asked for."""
        return sum(planned.kind != planned.wanted for planned in self.tensors)


def plan(
    model: Path,
    type: str,
    *,
    adapter: Path | None = None,
    onto: Onto = "trained",
    layers: int | None = None,
    importance: ImportanceMatrix | None = None,
) -> Plan:
    """What `convert` would write; reads headers and the tokenizer, no weights.

    `model` may be a peft adapter folder (its base is then found by name); `adapter` lays one over `model`, `onto` what
    it says in `open_weights`. `layers` keeps only the first so many layers: the slice of a large model that still
    proves its conversion. `importance` weighs the errors of quantised columns.
    Raises DistillError for an architecture, tokenizer, type or importance matrix that does not fit exactly.
    """
    name = type.lower()
    types.file_type(name)
    folder, weights = open_weights(model, adapter, onto)
    described = ModelFolder(folder, layers)
    vocabulary = read_vocabulary(model if (model / "tokenizer.json").exists() else folder, described.rows)
    shape, planned = described.shape(), []
    for tensor in described.tensors(weights):
        wanted = types.ideal(tensor.name, tensor.shape, tensor.layer, name, shape, importance=importance is not None)
        kind = types.fallback(wanted, tensor.shape[-1])
        ggml.require(kind)
        planned.append(PlannedTensor(tensor, kind, wanted))
    if importance is not None:
        importance.check({p.tensor.name: p.tensor.shape[-1] for p in planned if len(p.tensor.shape) > 1})
    made = Plan(described.architecture, name, tuple(planned), vocabulary, described, vocabulary.notes, importance)
    if not made.n_fallback:
        return made
    note = (
        f"{made.n_fallback} of {len(planned)} tensors have rows that do not divide by 256 (or 32) and fall back to "
        f"other types: {made.bits_per_weight:.2f} bits a weight"
    )
    return replace(made, notes=(*made.notes, note))


def convert(
    model: Path,
    out: Path,
    type: str,
    *,
    adapter: Path | None = None,
    onto: Onto = "trained",
    layers: int | None = None,
    metadata: Mapping[str, str] | None = None,
    importance: ImportanceMatrix | None = None,
    threads: int | None = None,
) -> Plan:
    """Write `model` as the GGUF file `out` and return its plan. See `plan` for the arguments.

    `threads` that encode; None is every core this process may use.
    `metadata` may hold name, licence, base_model, base_model_url, description, quantised_by; what is None or missing is
    taken from the folder where it says so, and left out otherwise.
    """
    made = plan(model, type, adapter=adapter, onto=onto, layers=layers, importance=importance)
    try:
        _write(made, model, out, metadata or {}, threads)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise DistillError(f"{out}: {error.strerror} (it needs {made.n_bytes / 1e6:,.2f} MB)") from error
    return made


def _write(made: Plan, model: Path, out: Path, metadata: Mapping[str, str], threads: int | None) -> None:
    with atomic(out) as partial:
        writer = GGUFWriter(partial, made.architecture)
        try:
            _write_header(writer, made, model, metadata)
            for planned in made.tensors:
                writer.add_tensor_info(
                    planned.tensor.name, planned.tensor.shape, np.dtype(np.float32), planned.n_bytes, planned.kind
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            with ThreadPoolExecutor(1) as reader:  # the next tensor is read while one is encoded and written
                coming = reader.submit(made.tensors[0].tensor.make)
                for planned, following in zip(made.tensors, (*made.tensors[1:], None), strict=True):
                    values = coming.result()
                    if following is not None:
                        coming = reader.submit(following.tensor.make)
                    weights = made.column_weights(planned.tensor.name)
                    writer.write_tensor_data(ggml.quantise(values, planned.kind, weights, threads=threads))
                    crash_point("gguf.tensor-written")
        finally:
            writer.close()
        crash_point("export.before-rename")
    crash_point("export.file-written")


def _write_header(writer: GGUFWriter, made: Plan, model: Path, metadata: Mapping[str, str]) -> None:
    writer.add_type("model")
    writer.add_name(metadata.get("name") or model.resolve().name)
    if licence := metadata.get("licence"):
        writer.add_license(licence)
    if base := metadata.get("base_model"):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
        if url := metadata.get("base_model_url"):
            writer.add_base_model_repo_url(0, url)
    if description := metadata.get("description"):
        writer.add_description(description)
    writer.add_quantized_by(metadata.get("quantised_by") or "reasoning-distill")
    writer.add_file_type(int(types.file_type(made.type).number))
    writer.add_quantization_version(GGML_QUANT_VERSION)
    if made.importance is not None and types.file_type(made.type).most not in ggml.PLAIN:
        writer.add_string("quantize.imatrix.file", Path(made.importance.source).name)
        writer.add_string("quantize.imatrix.dataset", made.importance.dataset)
        writer.add_uint32("quantize.imatrix.entries_count", len(made.importance.entries))
        writer.add_uint32("quantize.imatrix.chunks_count", made.importance.chunks)
    made.model.write_settings(writer)
    _write_sampling(writer, model)
    made.vocabulary.write(writer)


def sampling_defaults(model: Path) -> dict[str, Any]:
    """What a model folder's generation_config.json says of sampling; empty where it says nothing."""
    path = model / "generation_config.json"
    stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {name: stated[name] for name in SAMPLING if stated.get(name) is not None}


def _write_sampling(writer: GGUFWriter, model: Path) -> None:
    for name, value in sampling_defaults(model).items():
        getattr(writer, SAMPLING[name])(value)
