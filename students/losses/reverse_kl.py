"""KL(student || teacher): keeps the student to what the teacher would say; seeks a mode rather than covering all.

value = sum Q (log Q - log P), dvalue/dlog Q = Q (log Q - log P + 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from students.divergence import LOG_FLOOR, LossSettings

if TYPE_CHECKING:
    from torch import Tensor

    from students.divergence import Divergence


class Config(LossSettings):
    """Settings of the reverse KL loss."""


def build(_: Config) -> Divergence:
    """The divergence over k + 1 buckets."""
    return reverse_kl


def reverse_kl(teacher_RB: Tensor, student_RB: Tensor) -> tuple[Tensor, Tensor]:
    """Value_R and derivative_RB of KL(Q || P) from log P and log Q.

    Student mass where the teacher has none would cost infinitely much: log P is floored at `LOG_FLOOR`.
    """
    q_RB = student_RB.exp()
    gap_RB = (student_RB - teacher_RB.clamp(min=LOG_FLOOR)).masked_fill(q_RB == 0, 0.0)
    return (q_RB * gap_RB).sum(1), q_RB * (gap_RB + 1)
