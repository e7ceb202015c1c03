"""KL(teacher || student): covers all that the teacher might say; what distillation usually means.

value = sum P (log P - log Q), dvalue/dlog Q = -P.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from students.divergence import LossSettings

if TYPE_CHECKING:
    from torch import Tensor

    from students.divergence import Divergence


class Config(LossSettings):
    """Settings of the forward KL loss."""


def build(_: Config) -> Divergence:
    """The divergence over k + 1 buckets."""
    return forward_kl


def forward_kl(teacher_RB: Tensor, student_RB: Tensor) -> tuple[Tensor, Tensor]:
    """Value_R and derivative_RB of KL(P || Q) from log P and log Q. A bucket without teacher mass counts nothing."""
    p_RB = teacher_RB.exp()
    terms_RB = (p_RB * (teacher_RB - student_RB)).masked_fill(p_RB == 0, 0.0)
    return terms_RB.sum(1), -p_RB
