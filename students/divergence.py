"""What the losses of `students/losses/` share: their settings, and what a divergence is to the head that uses it.

Shapes: R token rows, B = k + 1 buckets: the teacher's k recorded ids, then one tail bucket with all other mass. Over
these buckets teacher and student are complete distributions, so every divergence is well defined on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distill.core.config import Settings

if TYPE_CHECKING:
    from torch import Tensor

Divergence = Callable[["Tensor", "Tensor"], "tuple[Tensor, Tensor]"]
"""(teacher log P_RB, student log Q_RB) -> (value_R in nats, dvalue/dlog Q as g_RB).

The derivative treats the entries of log Q as free; the head's softmax does the rest. Each row of P and Q sums to one.
P may hold zeros (log P = -inf); the result must then still be finite wherever the mathematics allows.
"""

Positions = Literal["all", "reasoning", "answer"]
"""Trained tokens on which a divergence can count."""

LOG_FLOOR = -40.0
"""Least teacher log-probability that reverse KL divides by: e^-40 is less than what float32 can tell from nothing."""


class LossSettings(Settings):
    """Settings that every divergence has."""

    weight: float = Field(default=0.5, gt=0, le=1)
    """w of (1 - w) CE + w KD, on tokens that have a teacher row."""
    top_k: PositiveInt = 16
    """Teacher ids matched one by one; what was recorded beyond them is folded into the tail. Not read where draws or
    the full vocabulary are matched."""
    vocabulary: Literal["recorded", "full"] = "recorded"
    """`recorded` matches what a stage wrote down; `full` the teacher's whole distribution, made by the teacher of
    `teacher:` in the same process while the student trains."""
    positions: Positions = "all"
    """Tokens on which the divergence counts: all, the reasoning with its close tag, or the answer after it. The others
    train by cross-entropy at full weight."""
    loss_temperature: PositiveFloat = 1.0
    """Softens both distributions; needs the teacher's tail term at that temperature. Its square scales the loss."""
