"""A Hugging Face folder: weights (an adapter merged in) or the adapter alone, tokenizer, template, settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat, model_validator

from distill.core.config import Settings

if TYPE_CHECKING:
    from distill.export.proof import Check
    from distill.export.source import Bounds, Source, Written


class Config(Settings):
    """Settings of the format `safetensors`."""

    dtype: Literal["stored", "fp32", "bf16", "fp16", "nf4"] = "stored"
    """Type of the weights. `stored` keeps the base's own: with nothing to merge, files are then copied as they are.
    `nf4` is bitsandbytes' 4 bits for the linear layers, the head aside (extra `qlora`)."""
    adapter: Literal["merged", "alone"] = "merged"
    """`alone` writes the LoRA adapter itself, for use beside its base; `merged` lays it over the weights."""
    shard_gb: PositiveFloat = 5.0
    """Files of weights that are written anew hold at most so many GB; several have an index."""

    @model_validator(mode="after")
    def _has_weights(self) -> Config:
        if self.adapter == "alone" and self.dtype != "stored":
            raise ValueError(f"an adapter alone is copied as it is; leave `dtype: {self.dtype}` out")
        return self


class SafetensorsFormat:
    """Writes a folder `model`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.name = "safetensors" if config.dtype == "stored" else f"safetensors-{config.dtype}"
        if config.adapter == "alone":
            self.name += "-adapter"

    def needs(self, source: Source) -> str:
        """Disk of the weights."""
        from distill import nf4
        from distill.export.merge import size

        if self._config.adapter == "alone":
            return f"{(_adapter_of(source) / 'adapter_model.safetensors').stat().st_size / 1e6:,.1f} MB of disk"
        if self._config.dtype == "nf4":
            nf4.require()
            whole = size(source.model, source.adapter, "bf16")
            disk, memory = 1.3 * whole / 1e6, 2 * whole / 1e6
            return f"about {disk:,.1f} MB of disk while it is written, and {memory:,.1f} MB of memory"
        return f"{size(source.model, source.adapter, self._config.dtype) / 1e6:,.1f} MB of disk"

    def write(self, source: Source, folder: Path) -> Written:
        """Copy or merge; see `distill.export.merge`."""
        from distill.core.files import atomic, crash_point
        from distill.export.four_bits import write_nf4
        from distill.export.merge import copy_adapter, write_folder
        from distill.export.source import Written

        out, shard_bytes = folder / source.name, int(self._config.shard_gb * 10**9)
        with atomic(out) as partial:
            partial.mkdir()
            if self._config.adapter == "alone":
                types = copy_adapter(_adapter_of(source), partial)
            elif self._config.dtype == "nf4":
                types = write_nf4(source, partial, shard_bytes)
            else:
                types = write_folder(
                    source.model, partial, adapter=source.adapter, onto=source.onto, dtype=self._config.dtype,
                    shard_bytes=shard_bytes,
                )  # fmt: skip
            crash_point("export.before-rename")
        crash_point("export.file-written")
        n_bytes = _stored_bytes(out)
        alone = self._config.adapter == "alone"
        n_weights = _n_weights(out) if alone else source.n_weights
        return Written(
            name=self.name,
            path=out,
            n_bytes=n_bytes,
            bits_per_weight=8 * n_bytes / n_weights,
            types=types,
            run=f"distill chat {out.relative_to(folder.parent)}",
            runs_on="transformers",
        )

    def prove(self, source: Source, written: Written) -> list[Check]:
        """The folder loads and gives the model's own log-probabilities."""
        from distill.export.four_bits import same_in_4_bits
        from distill.export.proof import same_adapter, same_folder

        if self._config.adapter == "alone":
            return same_adapter(source, _adapter_of(source), written.path)
        if self._config.dtype == "nf4":
            return same_in_4_bits(source, written.path)
        return same_folder(source, written.path)

    def compare(self, *_: object, **__: object) -> list[Check]:
        """Nothing: it runs in the engine that made the model, and tier 2 compared them."""
        return []

    def bounds(self) -> Bounds:
        """Nothing beyond tiers 1 and 2: it is the same model in the same engine."""
        from distill.export.source import Bounds

        return Bounds()


def build(config: Config) -> SafetensorsFormat:
    """The format."""
    return SafetensorsFormat(config)


def _adapter_of(source: Source) -> Path:
    from distill.core.errors import DistillError
    from distill.gguf.adapter import adapter_parts

    _, over = adapter_parts(source.model, source.adapter)
    if over is None:
        raise DistillError(f"{source.model}: is no adapter and has none, so there is none to write alone")
    return over


def _stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors")


def _n_weights(adapter: Path) -> int:
    from distill.gguf.weights import open_safetensors

    _, header = open_safetensors(adapter / "adapter_model.safetensors")
    return sum(math.prod(entry["shape"]) for entry in header.values())
