"""Proof that teacher rows belong to their tokens, from the rows alone.

Shapes: n completion tokens of one trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from distill.core.errors import DistillError
from distill.core.protocols import SampledLogprobs, TokenLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROOF_TOKENS = 200_000
"""How many tokens the proof looks at: more than enough, and seconds even for large shards."""

PROOF_SIGMAS = 3.0
"""How many standard errors the realised tokens must beat their neighbours by."""

ROUNDING = 2.0**-9
"""How far an entry may lie from the realised token's own column, in nats and relatively: four steps of a float16."""

DRAW_SIGMAS = 6.0
"""How many standard errors a token's share of the draws may lie from its probability, beyond two draws."""

STRANGE_SHARE = 1e-3
"""Above this share of tokens whose row contradicts their log-probability, the rows are other tokens'."""

LEAST = -103.28
"""Log of the smallest positive float32."""


class Seen(Protocol):
    """Teacher rows of one trace as the proof looks at them."""

    @property
    def rows(self) -> TokenLogprobs | SampledLogprobs:
        """The rows themselves."""

    def logprobs(self, ids_N: NDArray[np.int32]) -> NDArray[np.float32]:
        """Log-probability of given tokens by the rows' entries, or an estimate of it."""

    def strange(self, ids_N: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Where the entries contradict the recorded log-probability of the tokens."""


def prove(traces: Iterable[tuple[Seen, NDArray[np.int32]]]) -> float:
    """Show that row j belongs to token j; returns the mean log-probability of the tokens.

    `traces` are (rows, completion ids). Two proofs: under the same rows the tokens at offset 0 must be more probable
    than those at offsets -1 and +1, by `PROOF_SIGMAS` standard errors of the mean; and the entries must agree with the
    recorded log-probability of the tokens. Raises DistillError where one fails.
    """
    import numpy as np

    gaps = {offset: np.zeros(3) for offset in (-1, 1)}  # number, sum and sum of squares
    sums: dict[int, float] = {-1: 0.0, 0: 0.0, 1: 0.0}
    here = 0
    realised, strange = 0.0, 0
    for seen, ids_N in traces:
        at_N, present_N = seen.logprobs(ids_N), seen.rows.present_N
        here += int(present_N.sum())
        sums[0] += float(at_N[present_N].sum())
        realised += float(np.maximum(seen.rows.realised_N[present_N], LEAST).sum())
        strange += int(seen.strange(ids_N)[present_N].sum())
        for offset, gap in gaps.items():
            beside_N, both_N = seen.logprobs(np.roll(ids_N, -offset)), present_N.copy()
            both_N[0 if offset < 0 else -1 :][:1] = False  # the token that `roll` brought round has no such neighbour
            gap_N = (at_N - beside_N)[both_N].astype(np.float64)
            gap += (len(gap_N), gap_N.sum(), (gap_N**2).sum())
            sums[offset] += float(beside_N[both_N].sum())
        if here >= PROOF_TOKENS:
            break
    if not here:
        raise DistillError(
            "the logit shards have not one row for the traces that are trained on, or none at this `loss_temperature`; "
            "score them, or set `train.loss: none`"
        )
    for offset, moments in gaps.items():
        n, total, squares = moments.tolist()
        sigma = math.sqrt(max(squares / n - (total / n) ** 2, 0.0) / n) if n else 0.0
        if n and total / n <= PROOF_SIGMAS * sigma:
            counts = {0: here, **{o: int(one[0]) for o, one in gaps.items()}}
            shown = {o: one / counts[o] for o, one in sums.items()}
            raise DistillError(
                f"teacher rows are not aligned with their tokens: mean log-probability {shown[0]:.2f} at offset 0, "
                f"but {shown[-1]:.2f} at -1 and {shown[1]:.2f} at +1 (offset {offset:+d} is not clearly worse); "
                "sample or score again"
            )
    if strange > STRANGE_SHARE * here:
        raise DistillError(
            f"teacher rows are not those of their tokens: at {strange:,} of {here:,} tokens they contradict its "
            "recorded log-probability; sample or score again"
        )
    return realised / here


@dataclass(frozen=True)
class Largest:
    """Rows of mode `topk`. A token outside the entries counts with an even share of the tail."""

    rows: TokenLogprobs
    vocab_size: int

    def logprobs(self, ids_N: NDArray[np.int32]) -> NDArray[np.float32]:
        """See `Seen`."""
        import numpy as np

        inside_N, hit_N = self._entry(ids_N)
        share_N = self.rows.tail_N - np.float32(math.log(max(self.vocab_size - self.rows.ids_NK.shape[1], 1)))
        outside_N: NDArray[np.float32] = np.maximum(share_N, np.float32(LEAST))
        return np.where(hit_N, inside_N, outside_N)

    def strange(self, ids_N: NDArray[np.int32]) -> NDArray[np.bool_]:
        """An entry of the token says otherwise, or it has none though it is more probable than the last of them."""
        import numpy as np

        entry_N, hit_N = self._entry(ids_N)
        said_N = np.maximum(np.where(hit_N, entry_N, self.rows.logprobs_NK[:, -1]), np.float32(LEAST))
        over_N = np.maximum(self.rows.realised_N, np.float32(LEAST)) - said_N
        strange_N: NDArray[np.bool_] = np.where(hit_N, np.abs(over_N), over_N) > ROUNDING * (1 + np.abs(said_N))
        return strange_N

    def _entry(self, ids_N: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The entry of each given token, and whether there is one."""
        import numpy as np

        hit_NK = self.rows.ids_NK == ids_N[:, None]
        return np.where(hit_NK, self.rows.logprobs_NK, np.float32(0)).sum(1), hit_NK.any(1)


@dataclass(frozen=True)
class Drawn:
    """Rows of mode `sampled`, each of so many draws."""

    rows: SampledLogprobs
    draws: int

    def logprobs(self, ids_N: NDArray[np.int32]) -> NDArray[np.float32]:
        """Log of the token's share of the draws, with half a draw more so that none is not nothing."""
        import numpy as np

        return np.log((self._counts(ids_N) + 0.5) / (self.draws + 1)).astype(np.float32)

    def strange(self, ids_N: NDArray[np.int32]) -> NDArray[np.bool_]:
        """The token was drawn far more or less often than its log-probability allows."""
        import numpy as np

        p_N = np.exp(self.rows.realised_N.astype(np.float64))
        room_N = 2 + DRAW_SIGMAS * np.sqrt(self.draws * p_N * np.maximum(1 - p_N, 0))
        strange_N: NDArray[np.bool_] = np.abs(self._counts(ids_N) - self.draws * p_N) > room_N
        return strange_N

    def _counts(self, ids_N: NDArray[np.int32]) -> NDArray[np.int64]:
        """How often each given token is among the draws of its row."""
        import numpy as np

        row_E = np.repeat(np.arange(len(ids_N)), np.diff(self.rows.offset))
        hits_E = np.where(self.rows.ids_E == ids_N[row_E], self.rows.counts_E, 0)
        return np.bincount(row_E, weights=hits_E, minlength=len(ids_N)).astype(np.int64)
