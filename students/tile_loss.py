"""The losses of one tile of logits, each of which turns its tile in place into its own gradient.

Shapes: N rows of the tile, V rows of the head, K teacher ids a row, P padding rows of the head (`V` above the shared
vocabulary). A column is N1.

Teacher ids that are apart are taken out of the tile before its softmax, so that it yields the softmax over the tail
alone and the tail's mass as a difference of two log-sums: exact where 1 - sum(q) would cancel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from students.teacher_rows import FullRows, Matching, SparseRows


class Sums(NamedTuple):
    """Losses of N rows as columns: what is optimised, cross-entropy, divergence (nats at T), teacher mass seen."""

    loss_N1: Tensor
    ce_N1: Tensor
    kd_N1: Tensor
    covered_N1: Tensor


class Spread(NamedTuple):
    """d(loss)/d(logits) of N rows, in parts: `rest_N1` times the softmax over the rest, and what is added to it at the
    teacher's ids, at the label and at the padding."""

    rest_N1: Tensor
    ids_NK: Tensor
    label_N1: Tensor
    padding_NP: Tensor


def tile_loss_(z_NV: Tensor, labels_N1: Tensor, rows: SparseRows | FullRows | None, matching: Matching | None) -> Sums:
    """The losses of a tile; `z_NV` becomes d(loss)/d(logits)."""
    if rows is None or matching is None:
        return cross_entropy_(z_NV, labels_N1)
    weight_N1 = rows.present_R[:, None].to(z_NV.dtype) * matching.weight
    if matching.temperature == 1.0 and not isinstance(rows, FullRows):
        return _sparse_(z_NV, labels_N1, rows, matching, 1 - weight_N1, weight_N1)
    # The divergence has a tile of its own. T squared keeps its gradient's size (Hinton et al. 2015, section 2).
    soft_NV, scale_N1 = z_NV / matching.temperature, weight_N1 * matching.temperature**2
    if isinstance(rows, FullRows):
        soft = _full_(soft_NV, rows, matching, scale_N1)
    else:
        soft = _sparse_(soft_NV, labels_N1, rows, matching, torch.zeros_like(scale_N1), scale_N1)
    ce = cross_entropy_(z_NV, labels_N1)
    z_NV.mul_(1 - weight_N1).add_(soft_NV, alpha=1 / matching.temperature)
    return Sums((1 - weight_N1) * ce.loss_N1 + soft.loss_N1, ce.ce_N1, soft.kd_N1, soft.covered_N1)


def cross_entropy_(z_NV: Tensor, labels_N1: Tensor) -> Sums:
    """Cross-entropy alone; `z_NV` becomes softmax - onehot."""
    label_N1 = z_NV.gather(1, labels_N1)
    ce_N1 = _log_sum_exp_(z_NV) - label_N1
    z_NV.scatter_add_(1, labels_N1, torch.full_like(label_N1, -1.0))
    zero_N1 = torch.zeros_like(ce_N1)
    return Sums(ce_N1, ce_N1, zero_N1, zero_N1)


def softmax_(z_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax in place; gives the largest logit and the sum of exp(z - largest), which is 1 / the largest softmax."""
    max_N1 = z_NV.amax(1, keepdim=True)
    torch.softmax(z_NV, 1, out=z_NV)
    return max_N1, z_NV.amax(1, keepdim=True).reciprocal_()


def _log_sum_exp_(z_NV: Tensor) -> Tensor:
    """The log-sum-exp as a column; `z_NV` becomes its softmax."""
    max_N1, sum_N1 = softmax_(z_NV)
    return max_N1 + sum_N1.log_()


def sparse_loss(
    label_N1: Tensor,
    ids_NK: Tensor,
    rest_N1: Tensor,
    padding_NP: Tensor,
    rows: SparseRows,
    matching: Matching,
    ce_weight_N1: Tensor,
    kd_weight_N1: Tensor,
) -> tuple[Sums, Spread]:
    """ce_weight CE + kd_weight D from the few logits that they are made of, and the gradient's parts.

    Logits at the label, at the teacher's ids and at the padding, and the log-sum-exp over the rest of the shared
    vocabulary (without the ids where they are apart).
    """
    match = rows.match(ids_NK, rest_N1, matching)
    apart_N = [ids_NK] if rows.apart else []
    lse_N1 = torch.cat([rest_N1, *apart_N, padding_NP], 1).logsumexp(1, keepdim=True)
    ce_N1 = lse_N1 - label_N1
    ids_grad_NK = kd_weight_N1 * match.ids_NK
    if rows.apart:
        ids_grad_NK = ids_grad_NK + ce_weight_N1 * (ids_NK - lse_N1).exp()
    spread = Spread(
        rest_N1=ce_weight_N1 * (rest_N1 - lse_N1).exp() + kd_weight_N1 * match.rest_N1,
        ids_NK=ids_grad_NK,
        label_N1=-ce_weight_N1,
        padding_NP=ce_weight_N1 * (padding_NP - lse_N1).exp(),
    )
    loss_N1 = ce_weight_N1 * ce_N1 + kd_weight_N1 * match.value_N1
    return Sums(loss_N1, ce_N1, match.value_N1, match.covered_N1), spread


def _sparse_(
    z_NV: Tensor, labels_N1: Tensor, rows: SparseRows, matching: Matching, ce_weight_N1: Tensor, kd_weight_N1: Tensor
) -> Sums:
    """ce_weight CE + kd_weight D from one tile."""
    label_N1, ids_NK = z_NV.gather(1, labels_N1), z_NV.gather(1, rows.ids_RK)
    padding_NP = z_NV[:, matching.vocab_size :].clone()
    if rows.apart:
        z_NV.scatter_(1, rows.ids_RK, -torch.inf)
    z_NV[:, matching.vocab_size :] = -torch.inf
    rest_N1 = _log_sum_exp_(z_NV)
    sums, spread = sparse_loss(
        label_N1, ids_NK, rest_N1, padding_NP, rows, matching, ce_weight_N1, kd_weight_N1
    )  # fmt: skip
    z_NV.mul_(spread.rest_N1)
    z_NV.scatter_add_(1, rows.ids_RK, spread.ids_NK)
    z_NV[:, matching.vocab_size :] = spread.padding_NP
    z_NV.scatter_add_(1, labels_N1, spread.label_N1)
    return sums


def _full_(soft_NV: Tensor, rows: FullRows, matching: Matching, weight_N1: Tensor) -> Sums:
    """weight D over the whole shared vocabulary. With g the derivative by log q: g - q G, as over buckets."""
    vocab, absent_N1 = matching.vocab_size, ~rows.present_R[:, None]
    student_NV = soft_NV[:, :vocab].log_softmax(1)
    value_N, g_NV = matching.divergence(rows.log_probs(soft_NV.dtype, matching), student_NV)
    soft_NV[:, :vocab] = student_NV.exp().mul_(-g_NV.sum(1, keepdim=True)).add_(g_NV).mul_(weight_N1)
    soft_NV[:, vocab:] = 0
    value_N1 = value_N[:, None].masked_fill(absent_N1, 0.0)
    return Sums(weight_N1 * value_N1, torch.zeros_like(value_N1), value_N1, (~absent_N1).to(value_N1.dtype))
