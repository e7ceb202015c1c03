"""What a teacher said at a batch's trained tokens, in the three forms that the head's loss takes.

Shapes: R rows (trained positions), K ids a row, V entries of the shared vocabulary, G the teacher's hidden size.

`TeacherRows` are the k most probable ids and a tail; `SampledRows` are ids drawn from the teacher, with weights;
`LiveRows` are the teacher's hidden states and its head, from which full distributions are made chunk by chunk. The
first two are sparse: they are matched against the logits at their ids and one log-sum-exp over the rest, so that the
same few numbers a row serve a chunk of rows and a sweep over tiles of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from students.losses.forward_kl import forward_kl

if TYPE_CHECKING:
    from students.divergence import Divergence


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


class Match(NamedTuple):
    """A sparse match of N rows: D in nats, its derivative by the logits, and the teacher mass that it saw.

    The derivative is `ids_NK` at the ids, and `rest_N1` times the softmax over the rest of the vocabulary: without the
    ids where they are apart, with them where they are not. Rows without a teacher are 0 in value and mass.
    """

    value_N1: Tensor
    rest_N1: Tensor
    ids_NK: Tensor
    covered_N1: Tensor


@dataclass(frozen=True)
class TeacherRows:
    """The most probable ids: `ids_RK` int64, distinct in a row, and their log-probabilities at T = 1.

    `tail_R` is the tail term at the loss temperature T: log of the sum of p^(1/T) outside the ids. `present_R` is False
    where the teacher gave nothing; the row then trains by cross-entropy alone and its other entries are not read.
    """

    ids_RK: Tensor
    logprobs_RK: Tensor
    tail_R: Tensor
    present_R: Tensor

    apart: ClassVar[bool] = True
    """The ids are buckets of their own, apart from the tail."""

    def chunk(self, span: slice) -> TeacherRows:
        """The rows of one chunk."""
        return self.rows(span)

    def rows(self, span: slice) -> TeacherRows:
        """Some of the rows."""
        return TeacherRows(self.ids_RK[span], self.logprobs_RK[span], self.tail_R[span], self.present_R[span])

    def check(self, matching: Matching) -> None:
        """Raises ValueError if there are as many ids as entries: nothing would be left for the tail."""
        if self.ids_RK.shape[1] >= matching.vocab_size:
            raise ValueError(f"{self.ids_RK.shape[1]} teacher ids a row in a vocabulary of {matching.vocab_size}")

    def match(self, logits_NK: Tensor, rest_N1: Tensor, matching: Matching) -> Match:
        """Match softened logits at the ids, and the log-sum-exp of all others, over k + 1 buckets.

        With g the divergence's derivative by log q and G its sum, the derivative by a bucket's logit is g - q G,
        whatever the divergence.
        """
        exact, absent_N1 = logits_NK.dtype, ~self.present_R[:, None]
        recorded_NB = torch.cat([self.logprobs_RK.to(exact) / matching.temperature, self.tail_R[:, None].to(exact)], 1)
        # One log_softmax makes the buckets a distribution: the normaliser at T, and the rounding of storage with it.
        teacher_NB = recorded_NB.masked_fill(absent_N1, 0.0).log_softmax(1)
        student_NB = torch.cat([logits_NK, rest_N1], 1).log_softmax(1)
        value_N, g_NB = matching.divergence(teacher_NB, student_NB)
        grad_NB = g_NB - student_NB.exp() * g_NB.sum(1, keepdim=True)
        return Match(
            value_N1=value_N[:, None].masked_fill(absent_N1, 0.0),
            rest_N1=grad_NB[:, -1:],
            ids_NK=grad_NB[:, :-1],
            covered_N1=(-teacher_NB[:, -1:].expm1()).masked_fill(absent_N1, 0.0),
        )


@dataclass(frozen=True)
class SampledRows:
    """Ids drawn from the teacher: `ids_RK` int64 and their `weights_RK`, whose expectation is the teacher at T.

    At T = 1 a weight is the share of the draws that fell on its id; at another T it carries p^(1/T - 1) / sum p^(1/T)
    besides. An id may come twice, and a weight of 0 pads. Sparse Logit Sampling (arXiv 2503.16870): the gradient
    q sum(w) - w is that of the full forward KL in expectation. That holds for forward KL alone, which is linear in p.

    `entropy_R` is subtracted from -sum w log q, so that the printed value estimates the KL: the teacher's entropy at T,
    or its own -sum w log p over the same draws (less noise). NaN: unknown, and the value is a cross-entropy.
    """

    ids_RK: Tensor
    weights_RK: Tensor
    entropy_R: Tensor
    present_R: Tensor

    apart: ClassVar[bool] = False

    def chunk(self, span: slice) -> SampledRows:
        """The rows of one chunk."""
        return self.rows(span)

    def rows(self, span: slice) -> SampledRows:
        """Some of the rows."""
        return SampledRows(self.ids_RK[span], self.weights_RK[span], self.entropy_R[span], self.present_R[span])

    def check(self, matching: Matching) -> None:
        """Raises ValueError for a divergence other than forward KL: draws would give a biased gradient."""
        if matching.divergence is not forward_kl:
            raise ValueError("sampled teacher rows are unbiased for `forward_kl` only; score in mode `topk`")

    def match(self, logits_NK: Tensor, rest_N1: Tensor, _: Matching) -> Match:
        """Match softened logits at the drawn ids, and the log-sum-exp of the whole shared vocabulary."""
        present_N1 = self.present_R[:, None]
        weights_NK = self.weights_RK.to(logits_NK.dtype).masked_fill(~present_N1, 0.0)
        entropy_N1 = self.entropy_R[:, None].to(logits_NK.dtype)
        known_N1 = present_N1 & ~entropy_N1.isnan()
        crossed_N1 = (weights_NK * (rest_N1 - logits_NK)).sum(1, keepdim=True)
        return Match(
            value_N1=crossed_N1 - torch.where(known_N1, entropy_N1, torch.zeros_like(entropy_N1)),
            rest_N1=weights_NK.sum(1, keepdim=True),
            ids_NK=-weights_NK,
            covered_N1=present_N1.to(logits_NK.dtype),
        )


@dataclass(frozen=True)
class LiveRows:
    """A teacher in the same process: its hidden states at the trained positions, and what makes logits of them.

    `head` and `finish` are the teacher's own: another width, a bias, a soft cap or more padding are its business.
    """

    hidden_RG: Tensor
    head: nn.Module
    finish: Callable[[Tensor], Tensor] | None
    present_R: Tensor

    def rows(self, span: slice) -> LiveRows:
        """Some of the rows."""
        return LiveRows(self.hidden_RG[span], self.head, self.finish, self.present_R[span])

    def check(self, _: Matching) -> None:
        """Nothing to refuse: every divergence takes full distributions."""

    @torch.no_grad()
    def chunk(self, span: slice) -> FullRows:
        """The rows of one chunk with their logits, as the teacher makes them."""
        with torch.autocast(self.hidden_RG.device.type, enabled=False):
            logits_RV = self.head(self.hidden_RG[span])
            return FullRows(logits_RV if self.finish is None else self.finish(logits_RV), self.present_R[span])


@dataclass(frozen=True)
class FullRows:
    """The logits of a chunk of `LiveRows`, padding included."""

    logits_RV: Tensor
    present_R: Tensor

    def rows(self, span: slice) -> FullRows:
        """Some of the rows."""
        return FullRows(self.logits_RV[span], self.present_R[span])

    def log_probs(self, dtype: torch.dtype, matching: Matching) -> Tensor:
        """Softened log-probabilities [R, V] over the shared vocabulary, made in `dtype`."""
        logits_RV = self.logits_RV[:, : matching.vocab_size].to(dtype)
        return (logits_RV if matching.temperature == 1.0 else logits_RV / matching.temperature).log_softmax(1)


SparseRows = TeacherRows | SampledRows
Signal = SparseRows | LiveRows
