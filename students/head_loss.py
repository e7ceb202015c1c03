"""The output head, cross-entropy and sparse logit matching in one chunked pass, with the gradient taken on the way.

Shapes: R rows (trained positions), H hidden size, V rows of the head, K teacher ids a row, B = K + 1 buckets (the ids,
then the tail), N rows of one chunk, P padding rows of the head (`V` above the shared vocabulary).

A chunk of logits is made, turned in place into d(loss)/d(logits), multiplied back to the hidden states (and into the
weight's gradient if the head trains), and forgotten: no tensor of R x V ever exists, and a frozen head costs two matrix
products instead of three. Over the buckets, with q the student's softmax, Q its tail mass, r = q / Q, g the
divergence's derivative and G its sum, every divergence has the gradient g_i - q_i G at a teacher id and
(g_tail - Q G) r_v elsewhere: one softmax and one scaling of the tile, whatever the divergence. The teacher ids' logits
are taken out of the tile before the softmax, so that it yields r itself and log Q as a difference of two log-sums:
exact where 1 - sum(q) would cancel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from students.divergence import Divergence

TILE_BYTES = 256 << 20
"""Most bytes of logits that exist at a time. Below about 100 MB the products get slow, above nothing is gained."""

WEIGHT_SLICE = 2048
"""Head rows whose half-precision gradient is made at a time before it is added in float32."""


@dataclass(frozen=True)
class TeacherRows:
    """What the teacher said at R rows: `ids_RK` int64, distinct in a row, and their log-probabilities at T = 1.

    `tail_R` is the tail term at the loss temperature T: log of the sum of p^(1/T) outside the ids. `present_R` is False
    where the teacher gave nothing; the row then trains by cross-entropy alone and its other entries are not read.
    """

    ids_RK: Tensor
    logprobs_RK: Tensor
    tail_R: Tensor
    present_R: Tensor

    def rows(self, span: slice) -> TeacherRows:
        """The rows of one chunk."""
        return TeacherRows(self.ids_RK[span], self.logprobs_RK[span], self.tail_R[span], self.present_R[span])


@dataclass(frozen=True)
class Matching:
    """How to match: (1 - weight) CE + weight T^2 D on rows with a teacher.

    `vocab_size` is the vocabulary that teacher and student share: head rows beyond it are padding, seen by the
    cross-entropy (which keeps them down) and not by the divergence.
    """

    divergence: Divergence
    weight: float
    temperature: float
    vocab_size: int


class HeadLoss(NamedTuple):
    """Sums over the rows, 0-d: the loss (differentiable), and what it is made of (not).

    `ce` counts every row, `kd` (nats at the loss temperature) and `covered` (teacher mass inside the ids) those with a
    teacher. Divide by the trained tokens of the whole optimizer step.
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
    teacher: TeacherRows | None = None,
    matching: Matching | None = None,
    finish: Callable[[Tensor], Tensor] | None = None,
    tile_bytes: int = TILE_BYTES,
) -> HeadLoss:
    """Cross-entropy with `labels_R` (int64) and divergence from `teacher`, of the logits `finish(head(hidden_RH))`.

    Float32 inside (float64 for float64 inputs). A plain `nn.Linear` takes the direct path; any other head (an adapter
    on it, a quantised one), or one whose logits `finish` scales, is called as a module chunk by chunk.

    Raises ValueError if rows and labels differ in number, or if an id is outside the shared vocabulary.
    """
    if (teacher is None) != (matching is None):
        raise ValueError("teacher rows and a matching come together")
    if len(hidden_RH) != len(labels_R) or (teacher is not None and len(teacher.ids_RK) != len(labels_R)):
        raise ValueError(
            f"{len(hidden_RH)} hidden rows, {len(labels_R)} labels, teacher rows: {teacher and len(teacher.ids_RK)}"
        )
    if teacher is not None and matching is not None and teacher.ids_RK.numel():
        if teacher.ids_RK.shape[1] >= matching.vocab_size:
            raise ValueError(f"{teacher.ids_RK.shape[1]} teacher ids a row in a vocabulary of {matching.vocab_size}")
        # On the CPU only: reading a value back would stall a GPU, and the collator has checked the ids already.
        if teacher.ids_RK.device.type == "cpu" and int(teacher.ids_RK.max()) >= matching.vocab_size:
            raise ValueError(f"teacher id {int(teacher.ids_RK.max())} in a vocabulary of {matching.vocab_size}")
    direct = type(head) is nn.Linear and finish is None
    parameters: list[Tensor] = [p for p in head.parameters() if direct or p.requires_grad]
    device = hidden_RH.device.type
    if direct and torch.is_autocast_enabled(device):
        # Custom functions are not autocast: cast once here, differentiably, instead of once a chunk.
        half = torch.get_autocast_dtype(device)
        hidden_RH, parameters = hidden_RH.to(half), [p.to(half) for p in parameters]
    pass_ = _Pass(labels_R, teacher, matching, None if direct else head, finish, tile_bytes, torch.is_grad_enabled())
    sums: tuple[Tensor, ...] = _HeadLoss.apply(pass_, hidden_RH, *parameters)  # type: ignore[no-untyped-call]  # torch's
    return HeadLoss(*sums)


class _Pass(NamedTuple):
    """All that is constant in one call. `module` None is the direct path; the head's tensors come as arguments."""

    labels_R: Tensor
    teacher: TeacherRows | None
    matching: Matching | None
    module: nn.Module | None
    finish: Callable[[Tensor], Tensor] | None
    tile_bytes: int
    grad: bool
    """Whether gradients are wanted at all: `needs_input_grad` stays true under no_grad."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pass_: _Pass, hidden_RH: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        wanted = [pass_.grad and need for need in ctx.needs_input_grad[1:]]
        if pass_.module is None:
            with torch.autocast(hidden_RH.device.type, enabled=False):
                sums, grads = _direct(
                    pass_, hidden_RH, parameters[0], parameters[1] if parameters[1:] else None, wanted
                )
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
    pass_: _Pass, hidden_RH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Plain linear head. Gradients of (hidden, weight[, bias]) where wanted; float32 sums whatever the dtype."""
    half = hidden_RH.dtype not in (torch.float32, torch.float64)
    exact = torch.promote_types(hidden_RH.dtype, torch.float32)
    vocab = len(weight_VH)
    per_row = vocab * (exact.itemsize + (hidden_RH.element_size() if half else 0))
    tiles = _Tiles(pass_, len(hidden_RH), vocab, per_row, exact, hidden_RH.device)
    z_NV = tiles.new(exact)
    half_NV = tiles.new(hidden_RH.dtype) if half else z_NV
    grad_hidden_RH = torch.empty_like(hidden_RH) if wanted[0] else None
    grad_weight_VH = torch.zeros_like(weight_VH, dtype=exact) if wanted[1] else None
    grad_bias_V = torch.zeros_like(bias_V, dtype=exact) if bias_V is not None and wanted[2] else None
    for span in tiles.spans():
        x_NH = hidden_RH[span]
        n = len(x_NH)
        torch.mm(x_NH, weight_VH.t(), out=half_NV[:n])
        if half:
            z_NV[:n].copy_(half_NV[:n])
        if bias_V is not None:
            z_NV[:n].add_(bias_V)
        tiles.loss_(z_NV[:n], span)
        if grad_bias_V is not None:
            grad_bias_V.add_(z_NV[:n].sum(0))
        if half:
            half_NV[:n].copy_(z_NV[:n])
        if grad_hidden_RH is not None:
            torch.mm(half_NV[:n], weight_VH, out=grad_hidden_RH[span])
        if grad_weight_VH is not None:
            _add_outer(grad_weight_VH, half_NV[:n], x_NH)
    grads = [grad_hidden_RH, grad_weight_VH, grad_bias_V][: 2 if bias_V is None else 3]
    owners = [hidden_RH, weight_VH, bias_V]
    return tiles.sums, [
        None if g is None else g.to(o.dtype) for g, o in zip(grads, owners, strict=False) if o is not None
    ]


def _add_outer(total_VH: Tensor, dz_NV: Tensor, x_NH: Tensor) -> None:
    """total += dz^T x, added in the total's float32 also where the product is made in half precision."""
    if dz_NV.dtype == total_VH.dtype:
        total_VH.addmm_(dz_NV.t(), x_NH)
        return
    for start in range(0, len(total_VH), WEIGHT_SLICE):
        part = slice(start, start + WEIGHT_SLICE)
        total_VH[part].add_(torch.mm(dz_NV[:, part].t(), x_NH).to(total_VH.dtype))


def _through_module(
    pass_: _Pass, module: nn.Module, hidden_RH: Tensor, parameters: tuple[Tensor, ...], wanted: list[bool]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """Any head: autograd inside one chunk, fed with the chunk's own d(loss)/d(logits)."""
    exact = torch.promote_types(hidden_RH.dtype, torch.float32)
    finish = pass_.finish or (lambda logits: logits)
    with torch.no_grad():
        vocab = finish(module(hidden_RH[:1])).shape[-1] if len(hidden_RH) else 1
    # Logits as the module makes them, their gradient in that dtype, what `finish` keeps, and the exact tile.
    tiles = _Tiles(pass_, len(hidden_RH), vocab, vocab * 4 * exact.itemsize, exact, hidden_RH.device)
    z_NV = tiles.new(exact)
    grads: list[Tensor | None] = [
        torch.zeros_like(owner, dtype=torch.promote_types(owner.dtype, torch.float32)) if want else None
        for owner, want in zip((hidden_RH, *parameters), wanted, strict=True)
    ]
    grad_hidden_RH, totals = grads[0], [g for g in grads[1:] if g is not None]
    trained = [p for p, want in zip(parameters, wanted[1:], strict=True) if want]
    for span in tiles.spans():
        with torch.set_grad_enabled(any(wanted)):
            x_NH = hidden_RH[span].detach().requires_grad_(any(wanted))
            logits_NV = finish(module(x_NH))
        n = len(x_NH)
        z_NV[:n].copy_(logits_NV.detach())
        tiles.loss_(z_NV[:n], span)
        if any(wanted):
            got = torch.autograd.grad(logits_NV, [x_NH, *trained], grad_outputs=z_NV[:n].to(logits_NV.dtype))
            if grad_hidden_RH is not None:
                grad_hidden_RH[span] = got[0]
            for total, part in zip(totals, got[1:], strict=True):
                total.add_(part)
    owners = (hidden_RH, *parameters)
    return tiles.sums, [None if g is None else g.to(o.dtype) for g, o in zip(grads, owners, strict=True)]


class _Tiles:
    """Chunks of rows within the byte budget, and the running sums of their losses."""

    def __init__(self, pass_: _Pass, rows: int, vocab: int, row_bytes: int, exact: torch.dtype, device: torch.device):
        matching = pass_.matching
        if matching is not None and matching.temperature != 1.0:
            row_bytes += vocab * exact.itemsize  # the softened tile
        self.pass_, self.rows, self.vocab, self.device = pass_, rows, vocab, device
        self.step = max(1, min(rows, pass_.tile_bytes // row_bytes))
        self.sums = [torch.zeros((), dtype=exact, device=device) for _ in HeadLoss._fields]

    def new(self, dtype: torch.dtype) -> Tensor:
        """A tile, allocated once and used for every chunk: fresh memory costs more than the softmax on it."""
        return torch.empty(self.step, self.vocab, dtype=dtype, device=self.device)

    def spans(self) -> list[slice]:
        """The chunks of rows, in order."""
        return [slice(start, min(start + self.step, self.rows)) for start in range(0, self.rows, self.step)]

    def loss_(self, z_NV: Tensor, span: slice) -> None:
        """Add the chunk's losses to the sums; `z_NV` becomes d(loss)/d(logits)."""
        labels_N1 = self.pass_.labels_R[span, None]
        if self.pass_.teacher is None or self.pass_.matching is None:
            chunk = _cross_entropy_(z_NV, labels_N1)
        elif self.pass_.matching.temperature == 1.0:
            chunk = _matched_(z_NV, labels_N1, self.pass_.teacher.rows(span), self.pass_.matching)
        else:
            chunk = _softened_(z_NV, labels_N1, self.pass_.teacher.rows(span), self.pass_.matching)
        for total, part_N in zip(self.sums, chunk, strict=False):
            total.add_(part_N.sum())


def _softmax_(z_NV: Tensor) -> Tensor:
    """Softmax in place; gives the log-sum-exp as a column. The largest softmax is 1 / sum exp(z - max)."""
    max_N1 = z_NV.amax(1, keepdim=True)
    torch.softmax(z_NV, 1, out=z_NV)
    return max_N1 - z_NV.amax(1, keepdim=True).log()


def _cross_entropy_(z_NV: Tensor, labels_N1: Tensor) -> tuple[Tensor, ...]:
    """(loss, CE) of the rows; `z_NV` becomes softmax - onehot."""
    label_N1 = z_NV.gather(1, labels_N1)
    ce_N1 = _softmax_(z_NV) - label_N1
    z_NV.scatter_add_(1, labels_N1, torch.full_like(label_N1, -1.0))
    return ce_N1, ce_N1


class _Buckets(NamedTuple):
    """What was taken out of a tile: logits of the buckets (the tail's as log-sum-exp), and of the padding."""

    logits_NB: Tensor
    padding_NP: Tensor
    lse_N1: Tensor
    """Over the shared vocabulary."""


def _take_out_(z_NV: Tensor, ids_NK: Tensor, vocab_size: int) -> _Buckets:
    """Split the tile into buckets; `z_NV` becomes the softmax over the tail alone (0 at teacher ids and padding)."""
    top_NK = z_NV.gather(1, ids_NK)
    padding_NP = z_NV[:, vocab_size:].clone()
    z_NV.scatter_(1, ids_NK, -torch.inf)
    z_NV[:, vocab_size:] = -torch.inf
    logits_NB = torch.cat([top_NK, _softmax_(z_NV)], 1)
    return _Buckets(logits_NB, padding_NP, logits_NB.logsumexp(1, keepdim=True))


def _put_back_(z_NV: Tensor, ids_NK: Tensor, grad_NB: Tensor) -> None:
    """Spread a gradient of the buckets' logits over the tile: the tail's over its softmax, the others to their ids."""
    z_NV.mul_(grad_NB[:, -1:])
    z_NV.scatter_(1, ids_NK, grad_NB[:, :-1])


class _Match(NamedTuple):
    value_N1: Tensor
    grad_NB: Tensor
    """d(value)/d(bucket logits)."""
    covered_N1: Tensor
    weight_N1: Tensor
    """The matching's weight where there is a teacher row, else 0."""


def _match(buckets: _Buckets, rows: TeacherRows, matching: Matching) -> _Match:
    """The divergence of the rows over their buckets. Rows without a teacher give zeros, whatever their entries hold."""
    exact, absent_N1 = buckets.logits_NB.dtype, ~rows.present_R[:, None]
    recorded_NB = torch.cat([rows.logprobs_RK.to(exact) / matching.temperature, rows.tail_R[:, None].to(exact)], 1)
    # One log_softmax makes the buckets a distribution: the normaliser at T, and the rounding of storage with it.
    teacher_NB = recorded_NB.masked_fill(absent_N1, 0.0).log_softmax(1)
    student_NB = buckets.logits_NB - buckets.lse_N1
    value_N, g_NB = matching.divergence(teacher_NB, student_NB)
    grad_NB = g_NB - student_NB.exp() * g_NB.sum(1, keepdim=True)
    return _Match(
        value_N1=value_N[:, None].masked_fill(absent_N1, 0.0),
        grad_NB=grad_NB,
        covered_N1=(-teacher_NB[:, -1:].expm1()).masked_fill(absent_N1, 0.0),
        weight_N1=torch.where(absent_N1, 0.0, torch.full_like(buckets.lse_N1, matching.weight)),
    )


def _matched_(z_NV: Tensor, labels_N1: Tensor, rows: TeacherRows, matching: Matching) -> tuple[Tensor, ...]:
    """(loss, CE, KD, covered) of the rows at T = 1; `z_NV` becomes the gradient. One tile serves both losses."""
    label_N1 = z_NV.gather(1, labels_N1)
    buckets = _take_out_(z_NV, rows.ids_RK, matching.vocab_size)
    lse_N1 = buckets.lse_N1
    if buckets.padding_NP.shape[1]:
        lse_N1 = lse_N1.logaddexp(buckets.padding_NP.logsumexp(1, keepdim=True))
    match = _match(buckets, rows, matching)
    ce_N1, ce_weight_N1 = lse_N1 - label_N1, 1 - match.weight_N1
    _put_back_(z_NV, rows.ids_RK, ce_weight_N1 * (buckets.logits_NB - lse_N1).exp() + match.weight_N1 * match.grad_NB)
    z_NV[:, matching.vocab_size :] = ce_weight_N1 * (buckets.padding_NP - lse_N1).exp()
    z_NV.scatter_add_(1, labels_N1, -ce_weight_N1)
    return ce_weight_N1 * ce_N1 + match.weight_N1 * match.value_N1, ce_N1, match.value_N1, match.covered_N1


def _softened_(z_NV: Tensor, labels_N1: Tensor, rows: TeacherRows, matching: Matching) -> tuple[Tensor, ...]:
    """As `_matched_` at another temperature: the divergence needs a second, softened tile."""
    soft_NV = z_NV / matching.temperature
    match = _match(_take_out_(soft_NV, rows.ids_RK, matching.vocab_size), rows, matching)
    scale_N1 = match.weight_N1 * matching.temperature**2  # keeps the gradient's size (Hinton et al. 2015, section 2)
    _put_back_(soft_NV, rows.ids_RK, scale_N1 / matching.temperature * match.grad_NB)
    _, ce_N1 = _cross_entropy_(z_NV, labels_N1)
    ce_weight_N1 = 1 - match.weight_N1
    z_NV.mul_(ce_weight_N1).add_(soft_NV)
    return ce_weight_N1 * ce_N1 + scale_N1 * match.value_N1, ce_N1, match.value_N1, match.covered_N1
