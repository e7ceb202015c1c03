"""A Hugging Face folder: weights (an adapter merged in), tokenizer, chat template and generation config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.core.config import Settings

if TYPE_CHECKING:
    from distill.export.proof import Check
    from distill.export.source import Bounds, Source, Written


class Config(Settings):
    """Settings of the format `safetensors`."""

    dtype: Literal["stored", "fp32", "bf16", "fp16"] = "stored"
    """Type of the weights. `stored` keeps the base's own: with nothing to merge, files are then copied as they are."""


class SafetensorsFormat:
    """Writes a folder `model`."""

    def __init__(self, config: Config) -> None:
        self._dtype = config.dtype
        self.name = "safetensors" if config.dtype == "stored" else f"safetensors-{config.dtype}"

    def write(self, source: Source, folder: Path) -> Written:
        """Copy or merge; see `distill.export.merge`."""
        from distill.core.files import atomic, crash_point
        from distill.export.merge import write_folder
        from distill.export.source import Written
        from distill.gguf.weights import FolderWeights

        out = folder / source.name
        with atomic(out) as partial:
            partial.mkdir()
            types = write_folder(source.model, partial, adapter=source.adapter, dtype=self._dtype)
            crash_point("export.before-rename")
        crash_point("export.file-written")
        weights = FolderWeights(out)
        n_weights = 0
        for name in weights.names():
            count = 1
            for length in weights.shape(name):
                count *= length
            n_weights += count
        n_bytes = sum(path.stat().st_size for path in out.iterdir() if path.suffix == ".safetensors")
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
        from distill.export.proof import same_folder

        return same_folder(source, written.path)

    def bounds(self) -> Bounds:
        """Nothing beyond tiers 1 and 2: it is the same model in the same engine."""
        from distill.export.source import Bounds

        return Bounds()


def build(config: Config) -> SafetensorsFormat:
    """The format."""
    return SafetensorsFormat(config)
