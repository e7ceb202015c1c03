"""What is exported, what an export format is, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill.core.errors import DistillError
from distill.export.proof import Check, twin

if TYPE_CHECKING:
    from distill.export.divergence import Reference, Text
    from distill.gguf.adapter import Onto
    from distill.gguf.imatrix import ImportanceMatrix


@dataclass(frozen=True)
class Source:
    """A model to export: a folder (or an adapter's folder, its base then found by name), maybe with an adapter over it.

    `logs` is a folder for the runtime's logs. `metadata` goes into headers: name, licence, base_model.
    """

    model: Path
    name: str
    logs: Path
    adapter: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    onto: Onto = "trained"
    """What an adapter that learnt on a base in 4 bits is laid over."""
    traces: Path | None = None
    """Kept traces (`traces.parquet`), what an importance matrix is measured on."""
    calibration_tokens: int = 100_000
    _references: dict[tuple[Text, ...], Reference] = field(default_factory=dict, repr=False)

    @cached_property
    def importance(self) -> ImportanceMatrix:
        """The importance matrix of the kept traces, measured once a model. Raises DistillError where there are none."""
        from distill.core import tables
        from distill.core.records import Trace
        from distill.export.importance import drawn, ids_of, measure

        if self.traces is None:
            raise DistillError(
                "imatrix: there are no traces to measure it on outside an experiment; name a file of llama-imatrix"
            )
        chosen = drawn(tables.stream(self.traces, Trace), self.calibration_tokens)
        return measure(
            self.model,
            ids_of(chosen, self.tokenizer),
            adapter=self.adapter,
            onto=self.onto,
            dataset="kept traces",
            most_tokens=self.calibration_tokens,
        )

    def reference_on(self, texts: Sequence[Text], vocabulary: int) -> Reference:
        """The model's own distributions on these texts, computed once."""
        from distill.export.divergence import reference

        known = self._references.get(tuple(texts))
        if known is None:
            known = self._references[tuple(texts)] = reference(self.model, self.adapter, texts, vocabulary, self.onto)
        return known

    @cached_property
    def twin(self) -> Check:
        """Tier 2, done once a model: it proves the weights' way into GGUF, whatever type they are then stored in."""
        return twin(self.model, adapter=self.adapter, onto=self.onto, log=self.logs / "twin.log")

    @cached_property
    def own_texts(self) -> list[Text]:
        """The model's own answers to a few questions, for comparing distributions where no problems are at hand."""
        from distill.export.divergence import own_texts

        return own_texts(self)

    @cached_property
    def n_weights(self) -> int:
        """Number of weights, as they are stored."""
        from distill.gguf.adapter import open_weights

        _, weights = open_weights(self.model, self.adapter)
        return sum(math.prod(weights.shape(name)) for name in weights.names())

    @property
    def tokenizer(self) -> Path:
        """The folder whose tokenizer the model is used with: the adapter's where it carries one."""
        from distill.gguf.adapter import adapter_parts

        base, over = adapter_parts(self.model, self.adapter)
        return over if over is not None and (over / "tokenizer.json").exists() else base

    @property
    def reference(self) -> Path:
        """The folder that an engine can run as it is. Raises DistillError where an adapter lies apart from its base."""
        if self.adapter is not None:
            raise DistillError(f"{self.adapter}: an adapter given apart from its base has no folder that runs as it is")
        return self.model


@dataclass(frozen=True)
class Written:
    """One exported file or folder. `run` is the command that runs it from the folder above."""

    name: str
    path: Path
    n_bytes: int
    bits_per_weight: float
    types: Mapping[str, int]
    run: str
    runs_on: str
    """The engine that runs it."""
    notes: tuple[str, ...] = ()
    fallback: int = 0
    """Tensors whose rows forced another type than the recipe's."""
    detail: Any = None
    """What the format's own `prove` needs again."""


class Format(Protocol):
    """A way to write a model. `name` is its folder's name, such as `gguf-q8_0`."""

    name: str

    def needs(self, source: Source) -> str:
        """What writing and proving it takes, in a few words: disk and memory."""

    def write(self, source: Source, folder: Path) -> Written:
        """Write into `folder`, which is made; the result appears under its name only when it is whole."""

    def prove(self, source: Source, written: Written) -> list[Check]:
        """Tiers 1 and 2."""

    def compare(self, source: Source, written: Written, texts: Sequence[Text], *, held_out: bool) -> list[Check]:
        """The part of tier 3 that compares distributions on texts; nothing where tier 2 did so over the whole model.

        `held_out` says that they are accepted answers to problems the model was not trained on.
        """

    def bounds(self) -> Bounds:
        """What tier 3 holds its answers to."""


@dataclass(frozen=True)
class Bounds:
    """Limits on the file's greedy answers, None where nothing is promised."""

    points: float | None = None
    """Most percentage points of accuracy that it may differ from the model's own."""
    equal_share: float | None = None
    """Least share of problems answered with the very same text."""


def licence_of(folder: Path) -> str | None:
    """The licence that a model card (README.md) states in its head."""
    import yaml

    card = folder / "README.md"
    if not card.exists():
        return None
    parts = card.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        return None
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None  # a card that nobody can read states no licence
    stated = head.get("license") if isinstance(head, dict) else None
    return stated if isinstance(stated, str) else None
