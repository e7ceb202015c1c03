"""What every optimizer step measured: kept for the report, shown while it trains, sent to trackers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill.core.progress import Progress

SUMS = ("loss", "ce", "kd", "covered", "tokens", "kd_tokens")


class History:
    """One record a step. Sums stay on the device until the step's end, where they are read once."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.records: list[dict[str, Any]] = []
        """step, epoch, lr, grad_norm, tokens, kd_tokens, and means over tokens: loss, ce, kd and covered."""
        self._sums: Tensor | None = None
        self._read: dict[str, float] = {}

    def add(self, *sums: Tensor) -> None:
        """Add one forward pass: the sums named in `SUMS`, in that order."""
        together = torch.stack([value.double() for value in sums])
        self._sums = together if self._sums is None else self._sums + together

    def read(self, grad_norm: Tensor | float, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The step's sums over all processes and its gradient norm, as numbers: the one wait for the device."""
        assert self._sums is not None
        norm = torch.as_tensor(grad_norm, dtype=torch.float64, device=self._sums.device).reshape(1)
        values = torch.cat([reduce(self._sums), norm]).tolist()
        self._read, self._sums = dict(zip((*SUMS, "grad_norm"), values, strict=True)), None
        return self._read

    def step(self, step: int, epoch: float, lr: float) -> dict[str, Any]:
        """Close one optimizer step that was read; returns its record."""
        got = self._read
        tokens, kd_tokens = int(got["tokens"]), int(got["kd_tokens"])
        record = {
            "step": step,
            "epoch": epoch,
            "lr": lr,
            "grad_norm": got["grad_norm"],
            "loss": got["loss"] / max(tokens, 1),
            "ce": got["ce"] / max(tokens, 1),
            "kd": got["kd"] / kd_tokens if kd_tokens else None,
            "covered": got["covered"] / kd_tokens if kd_tokens else None,
            "tokens": tokens,
            "kd_tokens": kd_tokens,
        }
        self.records.append(record)
        self.progress.note(*shown(record), f"peak {peak_memory_gib():.1f} GiB")
        self.progress.advance(1, tokens=tokens)
        return record

    def restore(self, records: Sequence[dict[str, Any]]) -> None:
        """Go on from the records of a checkpoint."""
        self.records = list(records)
        self.progress.skip(len(self.records))


def shown(record: Mapping[str, Any]) -> list[str]:
    """A step in words: its loss, cross-entropy and divergence apart, and the teacher's mass inside the top k."""
    parts = [f"loss {record['loss']:.3f}", f"CE {record['ce']:.3f}"]
    if record["kd"] is not None:
        parts += [f"KL {record['kd']:.3f}", f"covered {record['covered']:.1%}"]
    return parts


def mean(records: Sequence[Mapping[str, Any]], name: str, weight: str = "tokens") -> float | None:
    """Mean of one figure over the tokens of some steps; None if there are none."""
    tokens = sum(record[weight] for record in records)
    return sum(record[name] * record[weight] for record in records if record[weight]) / tokens if tokens else None


def peak_memory_gib() -> float:
    """Most memory so far: the GPU's that torch allocated, where it is in use, else the process's resident set."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
