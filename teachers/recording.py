"""What sampling and scoring share when they record the teacher's distributions: settings, limits of engines, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, PositiveFloat

from distill.core.plugins import Choice

SHARD_TOKENS = 1_000_000
"""Token rows of a stage's logit shard, as nearly as whole samples allow."""


def _others(temperatures: list[float]) -> list[float]:
    """In order and once each; temperature 1 is always there."""
    return sorted({float(t) for t in temperatures} - {1.0})


Temperatures = Annotated[list[PositiveFloat], AfterValidator(_others)]
"""Loss temperatures other than 1. Each needs a figure a token that only the whole distribution gives."""


def unable(engine: Choice, temperatures: Sequence[float]) -> str:
    """Why an engine cannot record for these temperatures; empty: it can, or nobody knows."""
    if temperatures and getattr(engine.module(), "LARGEST_ONLY", False):
        return (
            f"engine `{engine.name}` sees only the largest log-probabilities of a token, and a temperature of "
            f"{temperatures[0]:g} needs the whole distribution; take them with `score:` on engine `transformers`"
        )
    return ""


def shard_path(folder: Path, number: int) -> Path:
    """Name of a stage's logit shard."""
    return folder / f"logits-{number:05d}.safetensors"
