"""One GGUF file for llama.cpp and what builds on it, straight from the weights in one pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from distill.core.config import Settings

if TYPE_CHECKING:
    from distill.export.proof import Check
    from distill.export.source import Bounds, Source, Written

PRIMARY = "type"


class Config(Settings):
    """Settings of the format `gguf`."""

    type: Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q4_k_m"] = "q4_k_m"
    """How weights are stored: f32, f16 and bf16 as they are; q8_0, q6_k, q4_k_m in about 8.5, 6.6, 4.8 bits each."""

    @field_validator("type", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class GgufFormat:
    """Writes `NAME-TYPE.gguf`."""

    def __init__(self, config: Config) -> None:
        self._type = config.type
        self.name = f"gguf-{config.type}"

    def write(self, source: Source, folder: Path) -> Written:
        """Convert; see `distill.gguf.convert`."""
        from distill.export.source import Written
        from distill.gguf.convert import convert

        file = folder / f"{source.name}-{self._type}.gguf"
        plan = convert(source.model, file, self._type, adapter=source.adapter, metadata=source.metadata)
        return Written(
            name=self.name,
            path=file,
            n_bytes=file.stat().st_size,
            bits_per_weight=plan.bits_per_weight,
            types=plan.types_used,
            run=f"distill chat {file.relative_to(folder.parent)}",
            runs_on="llamacpp",
            notes=plan.notes,
            detail=plan,
        )

    def prove(self, source: Source, written: Written) -> list[Check]:
        """Read it back, open it in llama.cpp, and compare its F32 twin with transformers."""
        from distill.export import proof

        checks = proof.read_back(written.path, written.detail)
        log = source.logs / f"{self.name}.log"
        return [*checks, *proof.opens(written.path, source.tokenizer, written.detail, log), source.twin]

    def bounds(self) -> Bounds:
        """Q8_0 stays within 2 points; F16 and F32 say the same on at least 95% of problems."""
        from distill.export.source import Bounds

        if self._type in ("f32", "f16"):
            return Bounds(points=2.0, equal_share=0.95)
        return Bounds(points=2.0) if self._type == "q8_0" else Bounds()


def build(config: Config) -> GgufFormat:
    """The format."""
    return GgufFormat(config)
