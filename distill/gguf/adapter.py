"""A LoRA adapter laid over a model's weights while they are read: W + scale * B @ A, tensor by tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distill import nf4
from distill.core.errors import DistillError
from distill.core.models import base_of, resolve
from distill.gguf.nf4 import round_trip
from distill.gguf.weights import FolderWeights, Weights, open_safetensors, read_entry

REFUSED = {
    "layer_replication": "layer replication",
    "fan_in_fan_out": "transposed layers",
    "lora_bias": "LoRA biases",
    "alora_invocation_tokens": "activated LoRA",
    "target_parameters": "adapted raw parameters",
}
"""Adapter settings that change the arithmetic beyond W + scale * B @ A, DoRA's rescaled rows and single token rows."""
WAY_AROUND = "merge with peft's merge_and_unload, then export that folder"


Onto = Literal["trained", "stored"]
"""What an adapter is laid over: the base as it was while the adapter learnt, or as its folder stores it."""


class _Over:
    """A base whose tensors are read otherwise: names, shapes and stored types stay its own."""

    def __init__(self, base: Weights) -> None:
        self._base = base

    def names(self) -> list[str]:
        """All tensor names, as in the base."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._base.shape(name)

    def dtype(self, name: str) -> str:
        """Stored type of the base's tensor."""
        return self._base.dtype(name)


class DequantisedWeights(_Over):
    """`base` as an adapter saw it that was trained on 4 bits: its linear layers after their way through NF4.

    `record` is what `distill.nf4.record_of` reads: precision, and the linear layers that were left out.
    """

    def __init__(self, base: Weights, record: dict[str, Any]) -> None:
        super().__init__(base)
        self._dtype, self._kept = str(record["dtype"]), set(record["kept"])

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor, dequantised where it was held in 4 bits."""
        values, module = self._base.read(name), name.removesuffix(".weight")
        linear = values.ndim == 2 and module != name and "embed" not in module.rpartition(".")[2]
        return round_trip(values, self._dtype) if linear and module not in self._kept else values


class MergedWeights(_Over):
    """`base` with a LoRA (or rsLoRA, or DoRA) adapter folder laid over it. Sums are done in float32.

    Raises DistillError for an adapter of another kind, for tensors that are in no base weight, and for one adapted on
    tied embeddings (the head would need weights of its own).
    """

    def __init__(self, base: Weights, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(base)
        path = folder / "adapter_config.json"
        self.settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if self.settings.get("peft_type") != "LORA":
            raise DistillError(f"{path}: adapter type {self.settings.get('peft_type')}; only LORA can be merged here")
        for setting, words in REFUSED.items():
            if self.settings.get(setting):
                raise DistillError(f"{path}: {words} ({setting}) cannot be merged here; {WAY_AROUND}")
        if self.settings.get("bias", "none") != "none":
            raise DistillError(f"{path}: bias={self.settings['bias']!r} cannot be merged here; use bias='none'")
        self._parts = _read_adapter(folder)
        self._pairs: dict[str, tuple[str, str]] = {}
        self._replaced: dict[str, str] = {}
        self._lengths: dict[str, str] = {}
        self._rows: dict[str, str] = {}
        for name in self._parts:
            self._place(name, path)
        tied = bool(config.get("tie_word_embeddings"))
        touched = {*self._pairs, *self._replaced} & {"model.embed_tokens.weight", "lm_head.weight"}
        if tied and touched:
            raise DistillError(f"{path}: adapts {sorted(touched)[0]}, but the base ties embedding and head; untie them")

    def _place(self, name: str, path: Path) -> None:
        inner = name.removeprefix("base_model.model.")
        pair = re.fullmatch(r"(.+)\.lora_([AB])\.weight", inner)
        if length := re.fullmatch(r"(.+)\.lora_magnitude_vector(\.weight)?", inner):
            target = f"{length[1]}.weight"
            self._lengths[target] = name
        elif row := re.fullmatch(r"(.+)\.token_adapter\.trainable_tokens_delta", inner):
            target = f"{row[1]}.weight"
            self._rows[target] = name
        elif pair:
            target = f"{pair[1]}.weight"
            known = self._pairs.get(target, ("", ""))
            self._pairs[target] = (name, known[1]) if pair[2] == "A" else (known[0], name)
        else:
            target = inner.replace(".base_layer.", ".").replace(".modules_to_save.", ".").replace(".default.", ".")
            if not target.endswith(".weight") or "lora_" in target:
                raise DistillError(f"{path}: the adapter's tensor {name} cannot be merged here; {WAY_AROUND}")
            self._replaced[target] = name
        if target not in self._base.names():
            raise DistillError(f"{path}: adapts {target}, which the base model does not have")
        if target in self._replaced and self._parts[name].shape != self._base.shape(target):
            got, there = self._parts[name].shape, self._base.shape(target)
            raise DistillError(f"{path}: {target} is {got} in the adapter, {there} in its base; {WAY_AROUND}")

    def read(self, name: str) -> NDArray[np.float32]:
        """The merged tensor."""
        if name in self._replaced:
            return self._parts[self._replaced[name]]
        values = self._base.read(name)
        if name in self._rows:
            values = values.copy()
            values[self._token_ids(name)] = self._parts[self._rows[name]]
        if name not in self._pairs:
            return values
        down, up = (self._parts[part] for part in self._pairs[name])
        values = values + np.float32(self._scale(name, down.shape[0])) * (up @ down)
        if name in self._lengths:  # DoRA: each row keeps the direction of the sum and has the length that was learnt
            lengths = self._parts[self._lengths[name]].reshape(-1, 1)
            values *= lengths / np.linalg.norm(values, axis=1, keepdims=True)
        return values

    def _token_ids(self, name: str) -> list[int]:
        """The rows of an embedding or head that learnt by themselves."""
        asked, module = self.settings["trainable_token_indices"], name.removesuffix(".weight")
        if not isinstance(asked, dict):
            return list(asked)
        return list(next(ids for ending, ids in asked.items() if module == ending or module.endswith(f".{ending}")))

    def _scale(self, name: str, rank: int) -> float:
        module = name.removesuffix(".weight")
        alpha = _by_pattern(self.settings.get("alpha_pattern") or {}, module, self.settings.get("lora_alpha", rank))
        return float(alpha) / (rank**0.5 if self.settings.get("use_rslora") else rank)


def open_weights(model: Path, adapter: Path | None = None, onto: Onto = "trained") -> tuple[Path, Weights]:
    """The folder whose config.json describes `model`, and its weights with the adapter, if there is one, laid over.

    `onto` counts where the adapter learnt on a base in 4 bits: it is laid over what 4 bits left of the base, which is
    the graph that was trained, or over the base as it is stored.
    """
    base, over = adapter_parts(model, adapter)
    weights: Weights = FolderWeights(base)
    if over is None:
        return base, weights
    record = nf4.record_of(over) if onto == "trained" else None
    if record is not None:
        weights = DequantisedWeights(weights, record)
    return base, MergedWeights(weights, over, _config(base))


def adapter_parts(model: Path, adapter: Path | None = None) -> tuple[Path, Path | None]:
    """(base folder, adapter folder or None). `model` may itself be an adapter: its base is found by the name in it.

    Raises DistillError for an adapter on top of an adapter.
    """
    base = base_of(model)
    if base is None:
        return model, adapter
    if adapter is not None:
        raise DistillError(f"{model} is an adapter itself; give its base model's folder, or leave --adapter out")
    return resolve(base), model


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _by_pattern(patterns: dict[str, Any], module: str, default: Any) -> Any:
    """peft's per-module setting: a pattern matches the end of the module's name, or all of it as an expression."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _read_adapter(folder: Path) -> dict[str, NDArray[np.float32]]:
    path = folder / "adapter_model.safetensors"
    if not path.exists():
        raise DistillError(f"{folder}: no adapter_model.safetensors there")
    data, header = open_safetensors(path)
    return {name: read_entry(data, entry, name) for name, entry in header.items()}
