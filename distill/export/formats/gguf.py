"""One GGUF file for llama.cpp and what builds on it, straight from the weights in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator, model_validator

from distill.core.config import Settings

if TYPE_CHECKING:
    from distill.export.divergence import Text
    from distill.export.proof import Check
    from distill.export.source import Bounds, Source, Written
    from distill.gguf.imatrix import ImportanceMatrix

PRIMARY = "type"
UNWEIGHED = ("f32", "f16", "bf16", "q8_0")
"""Types without a choice to weigh."""


class Config(Settings):
    """Settings of the format `gguf`."""

    type: Literal[
        "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
        "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
    ] = "q4_k_m"  # fmt: skip
    """How weights are stored: f32, f16 and bf16 as they are, the others in about as many bits each as their name says.
    Of two types of one width the K one is the better where rows divide by 256, `_m` better than `_s`."""
    imatrix: str = "none"
    """What weighs the columns of quantised matrices: `traces` measures it on the kept traces, a path names a file of
    llama-imatrix (.gguf or .dat), `none` weighs all alike."""

    @field_validator("type", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _weighs_something(self) -> Config:
        if self.imatrix != "none" and self.type in UNWEIGHED:
            raise ValueError(f"`imatrix` has no effect on {self.type}, which stores every column alike; leave it out")
        return self


class GgufFormat:
    """Writes `NAME-TYPE.gguf`, and a Modelfile for Ollama beside it."""

    def __init__(self, config: Config) -> None:
        self._type, self._imatrix = config.type, config.imatrix
        self.name = f"gguf-{config.type}" + ("" if config.imatrix == "none" else "-imatrix")

    def needs(self, source: Source) -> str:
        """Disk of the file and its twin, memory of the writer and of the proof."""
        from distill.export.proof import SLICE_LAYERS, WHOLE_UP_TO
        from distill.gguf.convert import plan

        given = None if self._imatrix == "traces" else self._importance(source)
        made = plan(source.model, self._type, adapter=source.adapter, importance=given)
        twin = plan(
            source.model, "f32", adapter=source.adapter, layers=SLICE_LAYERS if made.n_weights > WHOLE_UP_TO else None
        )
        largest = 4 * max(math.prod(entry.tensor.shape) for entry in made.tensors)
        return (
            f"{made.n_bytes / 1e6:,.1f} MB of disk and {3 * largest / 1e6:,.1f} MB of memory; its proof "
            f"{twin.n_bytes / 1e6:,.1f} MB more of disk and {2 * twin.n_bytes / 1e6:,.1f} MB of memory"
        )

    def write(self, source: Source, folder: Path) -> Written:
        """Convert; see `distill.gguf.convert`."""
        from transformers import AutoTokenizer

        from distill.core.files import write_text
        from distill.export.ollama import modelfile
        from distill.export.source import Written
        from distill.gguf.convert import convert, sampling_defaults

        file = folder / f"{source.name}-{self._type}.gguf"
        importance = self._importance(source)
        if self._imatrix == "traces" and importance is not None:
            importance.write(folder / "imatrix.gguf")
        plan = convert(
            source.model,
            file,
            self._type,
            adapter=source.adapter,
            onto=source.onto,
            metadata=source.metadata,
            importance=importance,
        )
        vocabulary = plan.vocabulary
        text, note = modelfile(
            file.name,
            AutoTokenizer.from_pretrained(source.tokenizer, trust_remote_code=False),
            adds_bos=vocabulary.add_bos,
            stops=[vocabulary.pieces[stop] for stop in vocabulary.stops],
            sampling=sampling_defaults(source.model),
            context=int(plan.model.config["max_position_embeddings"]),
        )
        write_text(folder / "Modelfile", text)
        return Written(
            name=self.name,
            path=file,
            n_bytes=file.stat().st_size,
            bits_per_weight=plan.bits_per_weight,
            types=plan.types_used,
            run=f"distill chat {file.relative_to(folder.parent)}",
            runs_on="llamacpp",
            notes=(*plan.notes, *filter(None, (note,))),
            fallback=plan.n_fallback,
            detail=plan,
        )

    def _importance(self, source: Source) -> ImportanceMatrix | None:
        from distill.gguf.imatrix import read

        if self._imatrix == "none":
            return None
        return source.importance if self._imatrix == "traces" else read(Path(self._imatrix).expanduser())

    def prove(self, source: Source, written: Written) -> list[Check]:
        """Read it back, open it in llama.cpp, and compare its F32 twin with transformers."""
        from distill.export import proof

        checks = proof.read_back(written.path, written.detail)
        log = source.logs / f"{self.name}.log"
        return [*checks, *proof.opens(written.path, source.tokenizer, written.detail, log), source.twin]

    def compare(self, source: Source, written: Written, texts: Sequence[Text], *, held_out: bool) -> list[Check]:
        """KL to the model and agreement of the most probable token."""
        from distill.export.divergence import compare, other_base
        from distill.export.proof import plain_token

        plan = written.detail
        against = source.reference_on(texts, plan.model.rows)
        log = source.logs / f"{self.name}-divergence.log"
        found = compare(written.path, self._type, against, held_out=held_out, plain=plain_token(plan), log=log)
        return [found, *filter(None, [other_base(source, texts, plan.model.rows)])]

    def bounds(self) -> Bounds:
        """Q8_0 stays within 2 points; F16 and F32 say the same on at least 95% of problems."""
        from distill.export.source import Bounds

        if self._type in ("f32", "f16"):
            return Bounds(points=2.0, equal_share=0.95)
        return Bounds(points=2.0) if self._type == "q8_0" else Bounds()


def build(config: Config) -> GgufFormat:
    """The format."""
    return GgufFormat(config)
