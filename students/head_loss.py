"""The output head, cross-entropy and logit matching in one chunked pass, with the gradient taken on the way.

Shapes: R rows (trained positions), H hidden size, V rows of the head, K teacher ids a row, N rows of one chunk.

A chunk of logits is made, turned in place into d(loss)/d(logits) (students/tile_loss.py), multiplied back to the hidden
states (and into the weight's gradient if the head trains), and forgotten: no tensor of R x V ever exists, and a frozen
head costs two matrix products instead of three. A frozen plain head at T = 1 goes in tiles of the vocabulary
(students/vocabulary_tiles.py). The maths is in docs/losses.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from students.teacher_rows import LiveRows, Matching, SampledRows, Signal, TeacherRows
from students.tile_loss import tile_loss_
from students.vocabulary_tiles import suits, tiled_loss

__all__ = ["HeadLoss", "LiveRows", "Matching", "SampledRows", "Signal", "TeacherRows", "head_loss"]

TILE_BYTES = 160 << 20
"""Most bytes of logits that exist at a time: few enough rows to be cheap, enough for full speed in the products."""

PART_BYTES = 16 << 20
"""Most bytes of logits that a CPU turns into their gradient at a time, in float32: the passes over them stay in its
cache. Other devices take a whole chunk."""

FULL_TILES = 12
"""Tiles that a divergence over the full vocabulary makes besides the logits: both distributions and its own terms."""

WEIGHT_SLICE = 2048
"""Head rows whose half-precision gradient is made at a time before it is added in float32."""


class HeadLoss(NamedTuple):
    """Sums over the rows, 0-d: the loss (differentiable), and what it is made of (not).

    `ce` counts every row, `kd` (nats at the loss temperature) and `covered` (teacher mass matched id by id: 1 for draws
    and full distributions) those with a teacher. Divide by the trained tokens of the whole optimizer step.
    """

    loss: Tensor
    ce: Tensor
    kd: Tensor
    covered: Tensor


def head_loss(
    hidden_RH: Tensor,
    labels_R: Tensor,
    head: nn.Module,
    *,
    teacher: Signal | None = None,
    matching: Matching | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    tile_bytes: int = TILE_BYTES,
    sweep: bool = True,
) -> HeadLoss:
    """Cross-entropy with `labels_R` (int64) and divergence from `teacher`, of the logits `finish(head(hidden_RH))`.

    Float32 inside (float64 for float64 inputs). A plain `nn.Linear` takes the direct path; any other head (an adapter
    on it, a quantised one), or one whose logits `finish` scales, is called as a module chunk by chunk. A frozen plain
    head at T = 1 goes in tiles of the vocabulary instead of chunks of rows, unless `sweep` is False.

    Raises ValueError if rows and labels differ in number, if an id is outside the shared vocabulary, or if the teacher
    rows are of a kind that the divergence cannot take.
    """
    if (teacher is None) != (matching is None):
        raise ValueError("teacher rows and a matching come together")
    given = [len(hidden_RH), len(labels_R)] + ([] if teacher is None else [len(teacher.present_R)])
    if len(set(given)) > 1:
        raise ValueError(f"rows of hidden states, labels and teacher differ in number: {given}")
    if teacher is not None and matching is not None:
        teacher.check(matching)
        _check_ids(teacher, matching.vocab_size)
    direct = type(head) is nn.Linear and finish is None
    parameters: list[Tensor] = [p for p in head.parameters() if direct or p.requires_grad]
    device = hidden_RH.device.type
    if direct and torch.is_autocast_enabled(device):
        # Custom functions are not autocast: cast once here, differentiably, instead of once a chunk.
        half = torch.get_autocast_dtype(device)
        hidden_RH, parameters = hidden_RH.to(half), [p.to(half) for p in parameters]
    pass_ = _Pass(
        labels_R, teacher, matching, None if direct else head, finish, tile_bytes, sweep, torch.is_grad_enabled()
    )
    sums: tuple[Tensor, ...] = _HeadLoss.apply(pass_, hidden_RH, *parameters)  # type: ignore[no-untyped-call]  # torch's
    return HeadLoss(*sums)


def _check_ids(teacher: Signal, vocab_size: int) -> None:
    """On a CPU only: reading a value back would stall a GPU, and whoever read the shard has checked the ids already."""
    if isinstance(teacher, LiveRows) or not teacher.ids_RK.numel() or teacher.ids_RK.device.type != "cpu":
        return
    least, most = (int(id_) for id_ in teacher.ids_RK.aminmax())
    if least < 0 or most >= vocab_size:
        raise ValueError(f"teacher id {least if least < 0 else most} in a vocabulary of {vocab_size}")


class _Pass(NamedTuple):
    """All that is constant in one call. `module` None is the direct path; the head's tensors come as arguments."""

    labels_R: Tensor
    teacher: Signal | None
    matching: Matching | None
    module: nn.Module | None
    finish: Callable[[Tensor], Tensor] | None
    tile_bytes: int
    sweep: bool
    grad: bool
    """Whether gradients are wanted at all: `needs_input_grad` stays true under no_grad."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pass_: _Pass, hidden_RH: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        wanted = [pass_.grad and need for need in ctx.needs_input_grad[1:]]
        if pass_.module is None:
            with torch.autocast(hidden_RH.device.type, enabled=False):
                sums, grads = _direct(pass_, hidden_RH, parameters, wanted)
        else:
            sums, grads = _through_module(pass_, pass_.module, hidden_RH, parameters, wanted)
        ctx.grads = grads
        ctx.mark_non_differentiable(*sums[1:])
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None  # freed with this step; a second backward has nothing to give
        if grads is None:
            raise RuntimeError("the gradient of head_loss was taken in its forward and can be handed out only once")
        return (None, *(None if grad is None else grad.mul_(grad_loss) for grad in grads))


def _direct(
    pass_: _Pass, hidden_RH: Tensor, parameters: tuple[Tensor, ...], wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Plain linear head. Gradients of (hidden, weight[, bias]) where wanted; float32 sums whatever the dtype."""
    weight_VH, bias_V = parameters[0], parameters[1] if parameters[1:] else None
    teacher, frozen = pass_.teacher, not any(wanted[1:])
    if pass_.sweep and frozen and not isinstance(teacher, LiveRows) and suits(len(weight_VH), teacher, pass_.matching):
        sums, grad_hidden_RH = tiled_loss(
            hidden_RH, weight_VH, bias_V, pass_.labels_R, teacher, pass_.matching, grad=wanted[0],
            tile_bytes=pass_.tile_bytes,
        )  # fmt: skip
        return sums, [grad_hidden_RH, *(None for _ in parameters)]
    return _by_rows(pass_, hidden_RH, weight_VH, bias_V, wanted)


def _by_rows(
    pass_: _Pass, hidden_RH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """A plain linear head in chunks of whole rows."""
    exact = torch.promote_types(hidden_RH.dtype, torch.float32)
    (rows, wide), vocab = hidden_RH.shape, len(weight_VH)
    chunks = _Chunks(pass_, rows, vocab, hidden_RH.element_size(), exact, hidden_RH.device)
    # In half precision the weight's gradient needs a float32 sum over the chunks. Up to 2 H rows of dz take no more
    # memory than that sum, and kept together they make the gradient in one product.
    kept = wanted[1] and hidden_RH.dtype != exact and rows <= 2 * wide
    # Allocated once and used for every chunk: fresh memory costs more than the softmax on it.
    z_NV = torch.empty(rows if kept else chunks.step, vocab, dtype=hidden_RH.dtype, device=hidden_RH.device)
    grad_hidden_RH = torch.empty_like(hidden_RH) if wanted[0] else None
    grad_weight_VH = torch.empty_like(weight_VH, dtype=weight_VH.dtype if kept else exact) if wanted[1] else None
    grad_bias_V = torch.zeros_like(bias_V, dtype=exact) if bias_V is not None and wanted[2] else None
    for span in chunks.spans():
        x_NH = hidden_RH[span]
        dz_NV = torch.mm(x_NH, weight_VH.t(), out=z_NV[span] if kept else z_NV[: len(x_NH)])
        chunks.turn_(dz_NV, span, bias_V, grad_bias_V)
        if grad_hidden_RH is not None:
            torch.mm(dz_NV, weight_VH, out=grad_hidden_RH[span])
        if grad_weight_VH is not None and not kept:
            _add_outer(grad_weight_VH, dz_NV, x_NH, first=span.start == 0)
    if grad_weight_VH is not None and kept:
        _add_outer(grad_weight_VH, z_NV, hidden_RH, first=True)
    grads = [grad_hidden_RH, grad_weight_VH, grad_bias_V][: 2 if bias_V is None else 3]
    owners = [hidden_RH, weight_VH, bias_V]
    return chunks.sums, [
        None if g is None else g.to(o.dtype) for g, o in zip(grads, owners, strict=False) if o is not None
    ]


def _add_outer(total_VH: Tensor, dz_NV: Tensor, x_NH: Tensor, *, first: bool) -> None:
    """total = dz^T x for the first chunk, else total += dz^T x; the sum is in the total's type.

    In slices of the total: a half-precision product is as large only, and no library copies all of dz to transpose it.
    """
    for start in range(0, len(total_VH), WEIGHT_SLICE):
        part_UH, dz_UN = total_VH[start : start + WEIGHT_SLICE], dz_NV[:, start : start + WEIGHT_SLICE].t()
        if dz_UN.dtype == part_UH.dtype:
            part_UH.addmm_(dz_UN, x_NH, beta=0 if first else 1)
        elif first:
            part_UH.copy_(dz_UN @ x_NH)
        else:
            part_UH.add_(dz_UN @ x_NH)


def _through_module(
    pass_: _Pass, module: nn.Module, hidden_RH: Tensor, parameters: tuple[Tensor, ...], wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Any head: autograd inside one chunk, fed with the chunk's own d(loss)/d(logits)."""
    exact = torch.promote_types(hidden_RH.dtype, torch.float32)
    finish = pass_.finish or (lambda logits: logits)
    with torch.no_grad():
        vocab = finish(module(hidden_RH[:1])).shape[-1] if len(hidden_RH) else 1
    # Logits as the module makes them, their gradient in that dtype, and what module and `finish` keep.
    chunks = _Chunks(pass_, len(hidden_RH), vocab, 4 * exact.itemsize, exact, hidden_RH.device)
    grads: list[Tensor | None] = [
        torch.zeros_like(owner, dtype=torch.promote_types(owner.dtype, torch.float32)) if want else None
        for owner, want in zip((hidden_RH, *parameters), wanted, strict=True)
    ]
    grad_hidden_RH, totals = grads[0], [g for g in grads[1:] if g is not None]
    trained = [p for p, want in zip(parameters, wanted[1:], strict=True) if want]
    for span in chunks.spans():
        with torch.set_grad_enabled(any(wanted)):
            x_NH = hidden_RH[span].detach().requires_grad_(any(wanted))
            logits_NV = finish(module(x_NH))
        dz_NV = logits_NV.detach().clone()  # the module may have kept the logits themselves for its backward
        chunks.turn_(dz_NV, span)
        if any(wanted):
            got = torch.autograd.grad(logits_NV, [x_NH, *trained], grad_outputs=dz_NV)
            if grad_hidden_RH is not None:
                grad_hidden_RH[span] = got[0]
            for total, part in zip(totals, got[1:], strict=True):
                total.add_(part)
    owners = (hidden_RH, *parameters)
    return chunks.sums, [None if g is None else g.to(o.dtype) for g, o in zip(grads, owners, strict=True)]


class _Chunks:
    """Chunks of rows within the byte budget, the parts in which their logits are turned, and the sums of the losses.

    `entry_bytes` is what a chunk keeps for each of its logits.
    """

    def __init__(
        self, pass_: _Pass, rows: int, vocab: int, entry_bytes: int, exact: torch.dtype, device: torch.device
    ) -> None:
        tiles = 1  # of a part
        if isinstance(pass_.teacher, LiveRows):
            entry_bytes, tiles = entry_bytes + exact.itemsize, tiles + FULL_TILES  # the teacher's logits
        elif pass_.matching is not None and pass_.matching.temperature != 1.0:
            tiles += 1  # the softened logits
        most = max(1, pass_.tile_bytes // (vocab * entry_bytes))
        self.pass_, self.rows, self.exact = pass_, rows, exact
        self.step = -(-rows // max(1, -(-rows // most)))  # chunks of equal size
        part_bytes = min(PART_BYTES, pass_.tile_bytes // 8) if device.type == "cpu" else pass_.tile_bytes
        self._part = max(1, min(self.step, part_bytes // (vocab * tiles * exact.itemsize)))
        self._scratch_NV = torch.empty(0, 0, dtype=exact, device=device)
        self.sums = [torch.zeros((), dtype=exact, device=device) for _ in HeadLoss._fields]

    def spans(self) -> list[slice]:
        """The chunks of rows, in order; one empty chunk for no rows."""
        starts = range(0, max(1, self.rows), max(1, self.step))
        return [slice(start, min(start + self.step, self.rows)) for start in starts]

    def turn_(
        self, logits_NV: Tensor, span: slice, bias_V: Tensor | None = None, grad_bias_V: Tensor | None = None
    ) -> None:
        """Add the chunk's losses to the sums and its bias gradient to `grad_bias_V`.

        `logits_NV`, to which `bias_V` is still to be added, becomes d(loss)/d(logits). In between it is exact.
        """
        labels_N1, teacher, matching = self.pass_.labels_R[span, None], self.pass_.teacher, self.pass_.matching
        rows = None if teacher is None or matching is None else teacher.chunk(span)
        for start in range(0, len(logits_NV), self._part):
            part = slice(start, start + self._part)
            own_NV = logits_NV[part]
            z_NV = own_NV if own_NV.dtype == self.exact else self._scratch(own_NV).copy_(own_NV)
            if bias_V is not None:
                z_NV.add_(bias_V)
            losses = tile_loss_(z_NV, labels_N1[part], None if rows is None else rows.rows(part), matching)
            for total, one_N1 in zip(self.sums, losses, strict=True):
                total.add_(one_N1.sum())
            if grad_bias_V is not None:
                grad_bias_V.add_(z_NV.sum(0))
            if z_NV is not own_NV:
                own_NV.copy_(z_NV)

    def _scratch(self, like_NV: Tensor) -> Tensor:
        """Room for a part's exact logits, allocated with the first one."""
        if self._scratch_NV.shape[1] != like_NV.shape[1]:
            self._scratch_NV = torch.empty(self._part, like_NV.shape[1], dtype=self.exact, device=like_NV.device)
        return self._scratch_NV[: len(like_NV)]
