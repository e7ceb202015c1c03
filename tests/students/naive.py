"""Losses written from their definitions over full logits, for autograd: what the chunked ones are held against.

Shapes as in students/head_loss.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from distill.core import plugins
from students.divergence import Divergence
from students.head_loss import LiveRows, SampledRows, Signal, TeacherRows

DIVERGENCES = plugins.names("students.losses")
MODES = [
    *(("topk", name) for name in DIVERGENCES),
    ("sampled", "forward_kl"),
    *(("full", name) for name in DIVERGENCES),
]
"""Every mode with every divergence that it takes."""

Finish = Callable[[Tensor], Tensor]


def build(name: str, **settings: Any) -> Divergence:
    """A divergence by its name, as an experiment gets it."""
    module = plugins.load("students.losses", name)
    divergence: Divergence = module.build(module.Config(**settings))
    return divergence


def divergence(name: str, p: Tensor, q: Tensor) -> Tensor:
    """Each divergence from its definition on probabilities [R, B], in nats; 0 log 0 is 0."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        some = torch.where(a > 0, a, 1.0)
        return torch.where(a > 0, a * (some / b).log(), 0.0).sum(1)

    if name == "forward_kl":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p)
    m = 0.5 * (p + q)
    return 0.5 * kl(p, m) + 0.5 * kl(q, m)


def teacher_of(
    logits_RV: Tensor, temperature: float = 1.0, k: int = 5, dtype: torch.dtype | None = None
) -> TeacherRows:
    """The sparse record of full teacher logits, with its exact tail term."""
    log_p_RV = logits_RV.log_softmax(1)
    values_RK, ids_RK = log_p_RV.topk(k, dim=1)
    rest_RV = (log_p_RV / temperature).scatter(1, ids_RK, -math.inf)
    values_RK = values_RK.to(dtype or logits_RV.dtype)
    return TeacherRows(ids_RK, values_RK, rest_RV.logsumexp(1), torch.ones(len(logits_RV), dtype=torch.bool))


def sampled_of(logits_RV: Tensor, temperature: float = 1.0, draws: int = 12, seed: int = 0) -> SampledRows:
    """Draws from the teacher at T = 1 with the weights that make them stand for it at `temperature`.

    Every draw has an entry of its own, so that ids come twice; three entries of weight 0 pad each row.
    """
    generator = torch.Generator().manual_seed(seed)
    log_p_RV = logits_RV.log_softmax(1)
    ids_RS = torch.multinomial(log_p_RV.exp().float(), draws, replacement=True, generator=generator)
    drawn_RS = log_p_RV.gather(1, ids_RS)
    soft_RV = (logits_RV / temperature).log_softmax(1)
    weights_RS = (soft_RV.gather(1, ids_RS) - drawn_RS).exp() / draws
    entropy_R = -(soft_RV.exp() * soft_RV).sum(1)
    pad = (0, 3)
    return SampledRows(
        nn.functional.pad(ids_RS, pad), nn.functional.pad(weights_RS, pad), entropy_R,
        torch.ones(len(logits_RV), dtype=torch.bool),
    )  # fmt: skip


def live_of(logits_RV: Tensor, padding: int = 4) -> LiveRows:
    """A teacher with these logits: hidden states as wide as its vocabulary, a scaled head, more padding of its own."""
    wide = logits_RV.shape[1]
    head = nn.Linear(wide, wide + padding, bias=True, dtype=logits_RV.dtype).requires_grad_(False)
    head.weight.zero_()
    head.weight[:wide] = torch.eye(wide, dtype=logits_RV.dtype)
    head.bias.fill_(3.0)  # a shift of all logits, and padding that would take mass
    present_R = torch.ones(len(logits_RV), dtype=torch.bool)
    return LiveRows(2 * logits_RV, head, lambda logits: 0.5 * logits, present_R)


def signal_of(mode: str, logits_RV: Tensor, temperature: float) -> Signal:
    """A teacher with full logits, in one of the three modes."""
    if mode == "topk":
        return teacher_of(logits_RV, temperature)
    return sampled_of(logits_RV, temperature) if mode == "sampled" else live_of(logits_RV)


def absent(signal: Signal, present_R: Tensor) -> Signal:
    """The same teacher, present in some rows only."""
    if isinstance(signal, TeacherRows):
        return TeacherRows(signal.ids_RK, signal.logprobs_RK, signal.tail_R, present_R)
    if isinstance(signal, SampledRows):
        return SampledRows(signal.ids_RK, signal.weights_RK, signal.entropy_R, present_R)
    return LiveRows(signal.hidden_RG, signal.head, signal.finish, present_R)


def loss(
    logits_RV: Tensor, labels_R: Tensor, signal: Signal, teacher_RV: Tensor, *,
    name: str, weight: float, temperature: float,
) -> Tensor:  # fmt: skip
    """(1 - w) CE + w T^2 D, w = 0 where the teacher is absent. `teacher_RV` are the full logits behind the signal."""
    ce_R = -logits_RV.log_softmax(1).gather(1, labels_R[:, None])[:, 0]
    vocab = teacher_RV.shape[1]
    q_RV = (logits_RV[:, :vocab] / temperature).softmax(1)
    if isinstance(signal, TeacherRows):
        top_RK = q_RV.gather(1, signal.ids_RK)
        tail_R1 = q_RV.scatter(1, signal.ids_RK, 0.0).sum(1, keepdim=True)
        recorded_RB = torch.cat([signal.logprobs_RK / temperature, signal.tail_R[:, None]], 1)
        kd_R = divergence(name, recorded_RB.softmax(1), torch.cat([top_RK, tail_R1], 1))
    elif isinstance(signal, SampledRows):
        drawn_RS = q_RV.log().gather(1, signal.ids_RK)
        kd_R = -(signal.weights_RK * drawn_RS).sum(1) - signal.entropy_R.nan_to_num()
    else:
        kd_R = divergence(name, (teacher_RV / temperature).softmax(1), q_RV)
    w_R = signal.present_R.to(ce_R.dtype) * weight
    return ((1 - w_R) * ce_R + w_R * temperature**2 * torch.where(signal.present_R, kd_R, 0.0)).sum()


class Adapted(nn.Module):
    """A head with a low-rank adapter, as peft wraps one; called as a module."""

    def __init__(self, base: nn.Linear, rank: int = 3) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features, dtype=base.weight.dtype) * 0.1)
        self.b = nn.Parameter(torch.randn(base.out_features, rank, dtype=base.weight.dtype) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + x @ self.a.t() @ self.b.t()
        return out


FINISHES: dict[str, Finish] = {
    "softcapped": lambda logits: 5.0 * torch.tanh(logits / 5.0), "scaled": lambda logits: 0.25 * logits
}  # fmt: skip
HEADS = ("plain", "frozen", "biased", "frozen biased", "adapted", *FINISHES)


def head_of(kind: str, hidden: int, vocab: int, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Finish | None]:
    """A head of one kind and its finish. A frozen one goes in tiles of the vocabulary at T = 1."""
    linear = nn.Linear(hidden, vocab, bias="biased" in kind, dtype=dtype)
    if kind == "adapted":
        return Adapted(linear), None
    return linear.requires_grad_("frozen" not in kind), FINISHES.get(kind)
