"""A frozen linear head at T = 1 in tiles of the vocabulary: no row of logits ever exists as a whole.

The hidden gradient needs softmax(z) W, which is made tile by tile as attention makes its output: each tile gives its
own softmax times its rows of W, and the sums of exp(z) say how the parts add up. That is two matrix products, and
nothing is made twice; memory depends on the tile, not on V.

Labels and teacher ids are picked out: their logits are taken from the tiles, where they count nothing, and their share
of the gradient is added from their rows of W with its exact coefficient. A confident token would otherwise be the
difference of two nearly equal vectors, which half precision does not bear.

Shapes: R rows, N rows of a block, H hidden size, V rows of the head, U entries of a tile, K teacher ids, J = K + 1
picks (the ids, then the label), P padding rows of the head (beyond the shared vocabulary).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from students.teacher_rows import Matching, SparseRows
from students.tile_loss import Spread, Sums, softmax_, sparse_loss

ROWS = 1024
ENTRIES = 4096
"""Largest tile: wide enough for full speed in the products, small enough to stay in a processor's cache."""


def tiled_loss(
    hidden_RH: Tensor,
    weight_VH: Tensor,
    bias_V: Tensor | None,
    labels_R: Tensor,
    teacher: SparseRows | None,
    matching: Matching | None,
    *,
    grad: bool,
    tile_bytes: int,
) -> tuple[list[Tensor], Tensor | None]:
    """Sums of the losses over the rows, and their hidden gradient where `grad`; float32 inside, float64 for float64."""
    sweep = _Sweep(hidden_RH, weight_VH, bias_V, matching, 1 + (0 if teacher is None else teacher.ids_RK.shape[1]))
    sweep.reserve(min(ROWS, len(hidden_RH)), tile_bytes)
    sums = [torch.zeros((), dtype=sweep.exact, device=hidden_RH.device) for _ in Sums._fields]
    grad_RH = torch.empty_like(hidden_RH) if grad else None
    for start in range(0, len(hidden_RH), ROWS):
        span = slice(start, start + ROWS)
        rows = None if teacher is None else teacher.rows(span)
        block, grad_NH = sweep.block(hidden_RH[span], labels_R[span, None], rows, grad)
        if grad_RH is not None and grad_NH is not None:
            grad_RH[span] = grad_NH
        for total, part_N1 in zip(sums, block, strict=True):
            total.add_(part_N1.sum())
    return sums, grad_RH


def suits(vocab: int, teacher: SparseRows | None, matching: Matching | None) -> bool:
    """Whether a frozen linear head of `vocab` rows can go in tiles: one temperature, and something left to sweep over.

    At another T the divergence's softmax would need an accumulation, and a third matrix product, of its own.
    """
    if teacher is None or matching is None:
        return vocab > 1
    picks, padding = 1 + teacher.ids_RK.shape[1], vocab - matching.vocab_size
    return matching.temperature == 1.0 and picks < matching.vocab_size and padding <= ENTRIES


class _Sweep:
    """One head, and the tiles that are allocated once and used for every block of rows."""

    def __init__(
        self, hidden_RH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, matching: Matching | None, picks: int
    ) -> None:
        self.weight_VH, self.bias_V, self.matching, self.picks = weight_VH, bias_V, matching, picks
        self.dtype, self.device = hidden_RH.dtype, hidden_RH.device
        self.exact = torch.promote_types(hidden_RH.dtype, torch.float32)
        self.half = self.dtype != self.exact
        self.shared = len(weight_VH) if matching is None else matching.vocab_size

    def reserve(self, rows: int, tile_bytes: int) -> None:
        """Cut the shared vocabulary into tiles of nearly equal width; each keeps an entry whatever is picked out."""
        each = rows * (self.exact.itemsize + (self.dtype.itemsize if self.half else 0))
        width = max(self.picks + 1, min(ENTRIES, tile_bytes // max(1, each)))
        tiles = max(1, min(-(-self.shared // width), self.shared // (self.picks + 1)))
        self.bounds = [self.shared * n // tiles for n in range(tiles + 1)]
        widest = -(-self.shared // tiles)
        self._tile = torch.empty(rows * widest, dtype=self.exact, device=self.device)
        self._low = torch.empty(rows * widest, dtype=self.dtype, device=self.device) if self.half else self._tile

    def block(self, x_NH: Tensor, labels_N1: Tensor, rows: SparseRows | None, grad: bool) -> tuple[Sums, Tensor | None]:
        """Losses of the rows, and their gradient by `x_NH`."""
        picks_NJ = labels_N1 if rows is None else torch.cat([rows.ids_RK, labels_N1], 1)
        logits_NJ, lse_N1, mean_NH = self._over_tiles(x_NH, picks_NJ, grad)
        padding_NP = self._logits(x_NH, slice(self.shared, None))
        if padding_NP.shape[1]:  # a label may lie there
            at_N1 = (labels_N1 - self.shared).clamp(min=0)
            logits_NJ[:, -1:] = torch.where(labels_N1 < self.shared, logits_NJ[:, -1:], padding_NP.gather(1, at_N1))
        first_NJ, place_NJ = _distinct(picks_NJ)
        rest_NJ = first_NJ & (picks_NJ < self.shared)  # the picks that belong to the rest
        if rows is not None and rows.apart:
            rest_NJ[:, :-1] = False
        rest_N1 = torch.cat([lse_N1, logits_NJ.masked_fill(~rest_NJ, -torch.inf)], 1).logsumexp(1, keepdim=True)
        sums, spread = self._loss(logits_NJ, rest_N1, padding_NP, rows)
        if mean_NH is None:
            return sums, None
        weight_NJ = torch.cat([spread.ids_NK, spread.label_N1], 1)
        weight_NJ = weight_NJ + (spread.rest_N1 * (logits_NJ - rest_N1).exp()).masked_fill(~rest_NJ, 0.0)
        grad_NH = mean_NH.mul_(spread.rest_N1 * (lse_N1 - rest_N1).exp())
        # Added up by id before they are rounded: +q of a softmax and -1 of its label would not be left as q - 1.
        weight_NJ = torch.zeros_like(weight_NJ).scatter_add_(1, place_NJ, weight_NJ).to(self.weight_VH.dtype)
        ids_NJ = torch.zeros_like(picks_NJ).scatter_(1, place_NJ, picks_NJ)
        grad_NH += functional.embedding_bag(ids_NJ, self.weight_VH, mode="sum", per_sample_weights=weight_NJ)
        if padding_NP.shape[1]:
            grad_NH += spread.padding_NP.to(self.dtype) @ self.weight_VH[self.shared :]
        return sums, grad_NH

    def _loss(
        self, logits_NJ: Tensor, rest_N1: Tensor, padding_NP: Tensor, rows: SparseRows | None
    ) -> tuple[Sums, Spread]:
        label_N1 = logits_NJ[:, -1:]
        if rows is None or self.matching is None:
            ce_N1, zero_N1 = rest_N1 - label_N1, torch.zeros_like(label_N1)
            one_N1 = torch.ones_like(label_N1)
            return Sums(ce_N1, ce_N1, zero_N1, zero_N1), Spread(one_N1, logits_NJ[:, :0], -one_N1, padding_NP)
        weight_N1 = rows.present_R[:, None].to(self.exact) * self.matching.weight
        return sparse_loss(
            label_N1, logits_NJ[:, :-1], rest_N1, padding_NP, rows, self.matching, 1 - weight_N1, weight_N1
        )

    def _over_tiles(self, x_NH: Tensor, picks_NJ: Tensor, grad: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits at the picks, log-sum-exp over all other shared entries, and their softmax times W where `grad`."""
        n = len(x_NH)
        logits_NJ = torch.empty(picks_NJ.shape, dtype=self.exact, device=self.device)
        # The softmax so far is exp(z - max) / sum: kept apart, as a log-sum-exp would be rounded again in every tile.
        max_N1 = torch.full((n, 1), -torch.inf, dtype=self.exact, device=self.device)
        sum_N1 = torch.zeros_like(max_N1)
        mean_NH = torch.zeros(x_NH.shape, dtype=self.exact, device=self.device) if grad else None
        for start, stop in zip(self.bounds, self.bounds[1:], strict=False):
            z_NU = self._logits(x_NH, slice(start, stop))
            inside_NJ = (picks_NJ >= start) & (picks_NJ < stop)
            at_NJ = (picks_NJ - start).clamp_(0, stop - start - 1)
            logits_NJ = torch.where(inside_NJ, z_NU.gather(1, at_NJ), logits_NJ)
            # An added -inf takes a pick out, and an added 0 leaves whatever stands where a pick of other tiles points.
            z_NU.scatter_add_(1, at_NJ, torch.zeros_like(logits_NJ).masked_fill_(inside_NJ, -torch.inf))
            here_max_N1, here_sum_N1 = softmax_(z_NU)
            before_N1, max_N1 = max_N1, max_N1.maximum(here_max_N1)
            sum_N1, here_sum_N1 = sum_N1 * (before_N1 - max_N1).exp(), here_sum_N1 * (here_max_N1 - max_N1).exp()
            both_N1 = sum_N1 + here_sum_N1
            if mean_NH is not None:
                mean_NH.mul_(sum_N1 / both_N1)
                mean_NH.addcmul_(self._times_weight(z_NU, slice(start, stop)), here_sum_N1 / both_N1)
            sum_N1 = both_N1
        return logits_NJ, max_N1 + sum_N1.log(), mean_NH

    def _logits(self, x_NH: Tensor, entries: slice) -> Tensor:
        """Logits of one tile in the exact type. Those of another call are overwritten."""
        weight_UH = self.weight_VH[entries]
        shape = (len(x_NH), len(weight_UH))
        size = shape[0] * shape[1]
        if size > self._tile.numel():
            z_NU = (x_NH @ weight_UH.t()).to(self.exact)
        else:
            low_NU, z_NU = self._low[:size].view(shape), self._tile[:size].view(shape)
            torch.mm(x_NH, weight_UH.t(), out=low_NU)
            if self.half:
                z_NU.copy_(low_NU)
        return z_NU if self.bias_V is None else z_NU.add_(self.bias_V[entries])

    def _times_weight(self, p_NU: Tensor, entries: slice) -> Tensor:
        if not self.half:
            return p_NU @ self.weight_VH[entries]
        low_NU = self._low[: p_NU.numel()].view(p_NU.shape).copy_(p_NU)
        return (low_NU @ self.weight_VH[entries]).to(self.exact)


def _distinct(picks_NJ: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a pick is the first of its id in the row, and the number of its id among the row's distinct ones.

    Draws come twice, and the label may be a teacher id. `[7, 3, 7]` gives `[True, True, False]` and `[1, 0, 1]`.
    """
    sorted_NJ, order_NJ = picks_NJ.sort(dim=1, stable=True)
    first_NJ = torch.ones_like(picks_NJ, dtype=torch.bool)
    first_NJ[:, 1:] = sorted_NJ[:, 1:] != sorted_NJ[:, :-1]
    place_NJ = first_NJ.cumsum(1) - 1
    return torch.empty_like(first_NJ).scatter_(1, order_NJ, first_NJ), torch.empty_like(place_NJ).scatter_(
        1, order_NJ, place_NJ
    )
