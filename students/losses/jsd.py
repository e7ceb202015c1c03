"""Generalised Jensen-Shannon divergence: between forward and reverse KL, and bounded.

value = beta KL(P || M) + (1 - beta) KL(Q || M) with the mixture M = beta P + (1 - beta) Q, which is TRL's and GKD's
meaning of beta (Agarwal et al. 2024, arXiv 2306.13649); dvalue/dlog Q = (1 - beta) Q log(Q / M). At beta 0 and 1 it
vanishes; divided by beta it tends to forward KL as beta goes to 0, divided by 1 - beta to reverse KL as it goes to 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from students.divergence import LossSettings

if TYPE_CHECKING:
    from torch import Tensor

    from students.divergence import Divergence


class Config(LossSettings):
    """Settings of the Jensen-Shannon loss."""

    beta: float = Field(default=0.5, gt=0, lt=1)
    """Share of the teacher in the mixture. For the ends use forward_kl (towards 0) or reverse_kl (towards 1)."""


def build(config: Config) -> Divergence:
    """The divergence over k + 1 buckets at the set beta."""

    def divergence(teacher_RB: Tensor, student_RB: Tensor) -> tuple[Tensor, Tensor]:
        return jsd(teacher_RB, student_RB, config.beta)

    return divergence


def jsd(teacher_RB: Tensor, student_RB: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Value_R and derivative_RB of the generalised Jensen-Shannon divergence from log P and log Q."""
    mixture_RB = (teacher_RB + math.log(beta)).logaddexp(student_RB + math.log1p(-beta))
    p_RB, q_RB = teacher_RB.exp(), student_RB.exp()
    towards_p_RB = (p_RB * (teacher_RB - mixture_RB)).masked_fill(p_RB == 0, 0.0)
    towards_q_RB = (q_RB * (student_RB - mixture_RB)).masked_fill(q_RB == 0, 0.0)
    return beta * towards_p_RB.sum(1) + (1 - beta) * towards_q_RB.sum(1), (1 - beta) * towards_q_RB
