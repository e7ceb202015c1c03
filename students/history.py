"""What every optimizer step measured: kept for the report, shown while it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill.core.errors import DistillError
from distill.core.progress import Progress

SUMS = ("loss", "ce", "kd", "covered", "tokens", "kd_tokens")


class History:
    """What every optimizer step measured. Sums stay on the device until `logging_every` steps have come together."""

    def __init__(self, progress: Progress, logging_every: int) -> None:
        self.progress, self.logging_every = progress, logging_every
        self._records: list[dict[str, Any]] = []
        self._sums: Tensor | None = None
        self._waiting: list[tuple[dict[str, Any], Tensor]] = []

    def add(self, *sums: Tensor) -> None:
        """Add one micro-batch: the sums named in `SUMS`, in that order."""
        together = torch.stack([value.double() for value in sums])
        self._sums = together if self._sums is None else self._sums + together

    def step(self, step: int, epoch: float, lr: float) -> None:
        """Close one optimizer step."""
        assert self._sums is not None
        self._waiting.append(({"step": step, "epoch": epoch, "lr": lr}, self._sums))
        self._sums = None
        if len(self._waiting) >= self.logging_every:
            self._drain()

    def records(self) -> list[dict[str, Any]]:
        """One record a step: step, epoch, lr, tokens, kd_tokens, and means over tokens: loss, ce, kd and covered."""
        self._drain()
        return self._records

    def restore(self, records: Sequence[dict[str, Any]]) -> None:
        """Go on from the records of a checkpoint."""
        self._records = list(records)
        self.progress.advance(len(self._records), tokens=sum(record["tokens"] for record in self._records))

    def _drain(self) -> None:
        for about, sums in self._waiting:
            got = dict(zip(SUMS, sums.tolist(), strict=True))
            tokens, kd_tokens = int(got["tokens"]), int(got["kd_tokens"])
            record = {
                **about,
                "loss": got["loss"] / max(tokens, 1),
                "ce": got["ce"] / max(tokens, 1),
                "kd": got["kd"] / kd_tokens if kd_tokens else None,
                "covered": got["covered"] / kd_tokens if kd_tokens else None,
                "tokens": tokens,
                "kd_tokens": kd_tokens,
            }
            if not math.isfinite(record["loss"]):
                raise DistillError(
                    f"the loss is {record['loss']} at step {about['step']}; "
                    "lower `train.learning_rate`, or train in fp32"
                )
            self._records.append(record)
            kl = "" if record["kd"] is None else f" KL {record['kd']:.3f}"
            self.progress.note(f"loss {record['loss']:.3f} CE {record['ce']:.3f}{kl}")
            self.progress.advance(1, tokens=tokens)
        self._waiting.clear()
