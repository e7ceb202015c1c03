"""What is kept of a teacher's distributions while given tokens are scored: the largest entries, or draws.

Logits come in pieces of one request, in order, and are looked at a few rows at a time: all sums are in float64, and a
whole piece of a large vocabulary would take gigabytes of it.

Shapes: N tokens of a piece, V vocabulary entries, K entries kept of a row, S draws of a row, E entries over all rows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill.core.protocols import Keep, SampledLogprobs, TokenLogprobs
from distill.decoding.draw import draw_many, logprobs, noise_of, rank

ROW_LOGITS = 1 << 23
"""Logits looked at together: 64 MiB in float64."""

DRAWS = "draws"
"""Appended to a request's key, it seeds the noise of scoring: other noise than that which drew the tokens."""


class Recorder(Protocol):
    """Gathers the rows of one request."""

    def add(self, logits_NV: Tensor, tokens_N: Tensor) -> None:
        """The next rows: raw logits, and the tokens that stand there."""

    def rows(self) -> TokenLogprobs | SampledLogprobs:
        """All rows."""


def recorder(keep: Keep, key: str) -> Recorder:
    """A recorder for the request called `key`: what it draws depends on the logits, the key and the position alone."""
    return _Draws(keep, key) if keep.draws else _Largest(keep)


class _Largest:
    """Mode `topk`."""

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, logits_NV: Tensor, tokens_N: Tensor) -> None:
        """See `Recorder`."""
        for part_NV, part_N in _pieces(logits_NV, tokens_N):
            ranked = rank(part_NV, max(1, self.keep.top_k))
            got = logprobs(ranked, part_N, self.keep.top_k, self.keep.temperatures)
            self._parts.append((got.ids_BK, got.logprobs_BK, got.tail_B, got.realised_B, got.tails_TB.T))

    def rows(self) -> TokenLogprobs:
        """See `Recorder`."""
        ids_NK, top_NK, tail_N, realised_N, tails_NT = _joined(self._parts)
        present_N = np.ones(len(tail_N), np.bool_)
        tails = dict(zip(self.keep.temperatures, tails_NT.T, strict=True))
        return TokenLogprobs(ids_NK.astype(np.int32), top_NK, tail_N, realised_N, present_N, tails)


class _Draws:
    """Mode `sampled`."""

    def __init__(self, keep: Keep, key: str) -> None:
        self.keep, self._noise = keep, noise_of(f"{key} {DRAWS}")
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, logits_NV: Tensor, tokens_N: Tensor) -> None:
        """See `Recorder`."""
        for part_NV, part_N in _pieces(logits_NV, tokens_N):
            noise_NS = torch.from_numpy(self._noise.random((len(part_N), self.keep.draws))).to(part_NV.device)
            got = draw_many(part_NV, part_N, noise_NS, self.keep.temperatures)
            self._parts.append((
                got.ids_BS, got.logprobs_BS, got.entropy_B, got.realised_B, got.normalisers_TB.T, got.entropies_TB.T
            ))  # fmt: skip

    def rows(self) -> SampledLogprobs:
        """See `Recorder`."""
        ids_NS, logprobs_NS, entropy_N, realised_N, normalisers_NT, entropies_NT = _joined(self._parts)
        offset, ids_E, counts_E, first_E = runs(ids_NS.astype(np.int64, copy=False))
        temperatures = self.keep.temperatures
        return SampledLogprobs(
            offset=offset,
            ids_E=ids_E,
            counts_E=counts_E,
            logprobs_E=logprobs_NS.ravel()[first_E] if temperatures else None,
            entropy_N=entropy_N,
            realised_N=realised_N,
            present_N=np.ones(len(entropy_N), np.bool_),
            normalisers=dict(zip(temperatures, normalisers_NT.T, strict=True)),
            entropies=dict(zip(temperatures, entropies_NT.T, strict=True)),
        )


def runs(
    ids_NS: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Rows of ascending draws as distinct ids with counts: (offset [N + 1], ids [E], counts [E], flat place [E]).

    `[[3, 3, 8], [5, 5, 5]]` gives `[0, 2, 3]`, `[3, 8, 5]`, `[2, 1, 3]` and `[0, 2, 3]`.
    """
    starts_NS = np.ones(ids_NS.shape, np.bool_)
    starts_NS[:, 1:] = ids_NS[:, 1:] != ids_NS[:, :-1]
    first_E = np.flatnonzero(starts_NS)
    counts_E = np.diff(np.append(first_E, ids_NS.size))
    offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(starts_NS.sum(axis=1))])
    return offset, ids_NS.ravel()[first_E].astype(np.int32), counts_E.astype(np.int32), first_E


def _pieces(logits_NV: Tensor, tokens_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    rows = max(1, ROW_LOGITS // logits_NV.shape[1])
    spans = [slice(at, at + rows) for at in range(0, len(tokens_N), rows)]
    return [(logits_NV[span].float(), tokens_N[span]) for span in spans]


def _joined(parts: list[tuple[Tensor, ...]]) -> list[NDArray[np.float32]]:
    return [torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)]
