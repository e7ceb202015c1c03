"""Time of a training, from its arithmetic and an assumed share of the GPU's peak.

A token costs two operations for every weight that multiplies it, and attention two for every entry of the queries and
each of the T / 2 tokens before it, twice (scores and values). The backward pass costs that twice, once where the weight
is frozen; checkpointing repeats the layers' forward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from distill.plan.gpus import Gpu
from distill.plan.memory import NF4_BYTES, Training

USED = (0.25, 0.45)
"""Share of the peak that a training reaches, at worst and at best. Assumed: Llama 3's own training reached 0.38 to 0.43
on H100s (arXiv 2407.21783, table 4); layers that are not fused, short rows and slow links between GPUs reach less."""


@dataclass(frozen=True)
class Work:
    """What is trained on: rows of an epoch, tokens of a row (prompt included), epochs. `bound` if these are limits."""

    rows: int
    row_tokens: int
    epochs: int
    bound: bool = False

    @property
    def tokens(self) -> int:
        """Of the whole training."""
        return self.rows * self.row_tokens * self.epochs


def operations(training: Training, row_tokens: int) -> float:
    """Floating-point operations a token of a row of that many tokens."""
    shape, frozen = training.shape, training.adapter is not None
    layers = 2 * shape.linear_weights + 2 * row_tokens * shape.query * shape.num_hidden_layers
    head = 2 * shape.embedding
    passes = 2 if frozen else 3
    total = (passes + training.checkpointing) * layers + passes * head
    if frozen:
        total += 6 * training.trained
    if (teacher := training.live_teacher) is not None:
        total += 2 * (teacher.linear_weights + teacher.embedding)
        total += 2 * row_tokens * teacher.query * teacher.num_hidden_layers
    return float(total)


def seconds(training: Training, work: Work, gpu: Gpu, count: int) -> tuple[float, float] | None:
    """Least and most time of the training; None where the GPU's speed is not known."""
    if gpu.teraflops is None:
        return None
    busy = operations(training, work.row_tokens) * work.tokens / (count * gpu.teraflops * 1e12)
    unpacking = _unpacking(training, work, gpu) / count
    low, high = USED
    return busy / high + unpacking, busy / low + unpacking


def _unpacking(training: Training, work: Work, gpu: Gpu) -> float:
    """Seconds in which a 4-bit base is unpacked: each pass through a layer reads it and writes it in 16 bits."""
    if training.adapter is None or not training.adapter.nf4 or gpu.bandwidth is None:
        return 0.0
    passes = work.tokens / training.tokens * (2 + training.checkpointing)
    return passes * training.shape.linear_weights * (NF4_BYTES + 2) / gpu.bandwidth
