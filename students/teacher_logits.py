"""Teacher log-probabilities for the trainer: read from shards, checked against the tokens, folded to what is used.

Shapes: N completion tokens of one trace, S entries a row as the shard has them, K entries as the loss wants them.
Nothing is loaded ahead: rows come from the mapped files when a batch asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core.errors import DistillError
from distill.core.protocols import TokenLogprobs
from distill.core.shards import Shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROOF_TOKENS = 200_000
"""How many tokens the proof of alignment looks at: more than enough, and seconds even for large shards."""

PROOF_SIGMAS = 3.0
"""How many standard errors the realised tokens must beat their neighbours by."""


@dataclass(frozen=True)
class FoldedRows:
    """Rows as the loss takes them. `ids_NK` int32, `logprobs_NK` float32 (nats, T = 1), `tail_N` float32 tail term at
    the loss temperature, `present_N` bool. Absent rows hold harmless values: distinct ids, zeros.
    """

    ids_NK: NDArray[np.int32]
    logprobs_NK: NDArray[np.float32]
    tail_N: NDArray[np.float32]
    present_N: NDArray[np.bool_]


class TeacherLogits:
    """The shards of a sampling or scoring stage, as one table keyed by sample."""

    def __init__(
        self, paths: Sequence[Path], *, tokenizer: str | None, vocab_size: int, top_k: int, temperature: float = 1.0
    ) -> None:
        """Open shards and refuse what cannot be matched exactly.

        `tokenizer` is the student's fingerprint, `vocab_size` the rows of its head. Raises DistillError for another
        tokenizer, fewer than `top_k` recorded entries, a mode other than top-k, or a missing tail term.
        """
        self.shards = [Shard(path) for path in paths]
        self.top_k, self.temperature = top_k, temperature
        for shard in self.shards:
            self._check(shard, tokenizer)
        self.vocab_size = min([vocab_size, *(shard.info.vocab_size for shard in self.shards)])
        """The vocabulary that both have; rows beyond it are padding of one of them."""
        self._of = {key: shard for shard in self.shards for key in shard.keys}

    def _check(self, shard: Shard, tokenizer: str | None) -> None:
        info, name = shard.info, shard.path.name
        if info.mode != "topk":
            raise DistillError(f"{name}: holds logits in mode `{info.mode}`; this version trains on `topk`")
        if tokenizer is None or info.tokenizer != tokenizer:
            raise DistillError(
                f"{name}: the teacher's tokenizer ({info.tokenizer}) is not the student's ({tokenizer}), so their "
                "logits cannot be matched; set `train.loss: none`, or take a student with the teacher's tokenizer"
            )
        if info.top_k < self.top_k:
            raise DistillError(
                f"{name}: holds {info.top_k} log-probabilities a token, `train.loss.top_k` wants {self.top_k}; "
                "lower it, or sample or score with more"
            )
        if self.temperature not in info.temperatures:
            raise DistillError(
                f"{name}: no tail term for `train.loss.loss_temperature` {self.temperature:g} (it has "
                f"{', '.join(f'{t:g}' for t in info.temperatures)}); nothing else can recover it"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._of

    def rows(self, key: str, completion_ids: NDArray[np.int32]) -> FoldedRows:
        """The rows of one trace, row j for completion token j.

        Raises DistillError if they were recorded for other tokens, name an id outside the shared vocabulary, or name
        one twice.
        """
        import numpy as np

        shard = self._of[key]
        got = shard.rows(key, completion_ids.tolist())  # refuses rows that belong to other tokens
        if got.ids_NK.size and not 0 <= int(got.ids_NK.min()) <= int(got.ids_NK.max()) < self.vocab_size:
            raise DistillError(
                f"{shard.path.name}: sample {key[:12]} names id {int(got.ids_NK.max())} in a shared vocabulary of "
                f"{self.vocab_size}"
            )
        sorted_NS = np.sort(got.ids_NK[got.present_N], axis=1)
        if (sorted_NS[:, 1:] == sorted_NS[:, :-1]).any():
            raise DistillError(f"{shard.path.name}: sample {key[:12]} names an id twice for one token")
        tail_N = got.tail_N if self.temperature == 1.0 else shard.tail_at(key, self.temperature)
        return fold(got, tail_N, self.top_k, self.temperature)

    def prove_alignment(self, traces: Iterable[tuple[str, NDArray[np.int32]]]) -> float:
        """Show on the shards themselves that row j belongs to token j; returns the mean log-probability of the tokens.

        `traces` are (key, completion ids). Raises DistillError unless the tokens at offset 0 beat the tokens at offsets
        -1 and +1 under the same rows, by `PROOF_SIGMAS` standard errors.
        """
        import numpy as np

        totals = {offset: np.zeros(3) for offset in (-1, 1)}  # number, sum and sum of squares of the gaps
        means, here = {-1: 0.0, 0: 0.0, 1: 0.0}, 0
        for key, completion_ids in traces:
            rows, ids_N = self.rows(key, completion_ids), completion_ids
            at_N = token_logprobs(rows, ids_N, self.vocab_size)
            means[0] += float(at_N[rows.present_N].sum())
            here += int(rows.present_N.sum())
            for offset, total in totals.items():
                valid = slice(1, None) if offset < 0 else slice(None, -1)
                other = ids_N[:-1] if offset < 0 else ids_N[1:]
                cut = FoldedRows(rows.ids_NK[valid], rows.logprobs_NK[valid], rows.tail_N[valid], rows.present_N[valid])
                beside_N = token_logprobs(cut, other, self.vocab_size)
                gap_N = (at_N[valid] - beside_N)[cut.present_N].astype(np.float64)
                total += (len(gap_N), gap_N.sum(), (gap_N**2).sum())
                means[offset] += float(beside_N[cut.present_N].sum())
            if here >= PROOF_TOKENS:
                break
        if not here:
            raise DistillError("the logit shards have not one row for the traces that are trained on")
        for offset, (n, gap, squares) in totals.items():
            sigma = math.sqrt(max(squares / n - (gap / n) ** 2, 0.0) / n) if n else 0.0
            if n and gap / n <= PROOF_SIGMAS * sigma:
                shown = {o: means[o] / (here if o == 0 else totals[o][0]) for o in (-1, 0, 1)}
                raise DistillError(
                    f"teacher rows are not aligned with their tokens: mean log-probability {shown[0]:.2f} at offset 0, "
                    f"but {shown[-1]:.2f} at -1 and {shown[1]:.2f} at +1 (offset {offset:+d} is not clearly worse); "
                    "sample or score again"
                )
        return means[0] / here


def fold(got: TokenLogprobs, tail_N: NDArray[np.float32], top_k: int, temperature: float) -> FoldedRows:
    """Keep the first `top_k` entries; the others join the tail term, exactly, at the loss temperature."""
    import numpy as np

    present_N = got.present_N
    rest_NS = got.logprobs_NK[:, top_k:].astype(np.float32) / np.float32(temperature)
    if rest_NS.shape[1]:
        tail_N = np.logaddexp(tail_N, np.logaddexp.reduce(rest_NS, axis=1))
    absent_N1 = ~present_N[:, None]
    return FoldedRows(
        ids_NK=np.where(absent_N1, np.arange(top_k, dtype=np.int32), got.ids_NK[:, :top_k]),
        logprobs_NK=np.where(absent_N1, np.float32(0), got.logprobs_NK[:, :top_k]),
        tail_N=np.where(present_N, tail_N, np.float32(0)),
        present_N=present_N,
    )


def token_logprobs(rows: FoldedRows, ids_N: NDArray[np.int32], vocab_size: int) -> NDArray[np.float32]:
    """Log-probability of given tokens under the rows; one outside the top K gets an even share of the tail."""
    import numpy as np

    hit_NK = rows.ids_NK == ids_N[:, None]
    share_N = rows.tail_N - np.float32(math.log(max(vocab_size - rows.ids_NK.shape[1], 1)))
    inside_N = np.where(hit_NK, rows.logprobs_NK, np.float32(0)).sum(1)
    return np.where(hit_NK.any(1), inside_N, share_N)
