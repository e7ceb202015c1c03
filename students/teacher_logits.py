"""Teacher log-probabilities for the trainer: read from shards, checked against the tokens, laid out as the loss reads.

Shapes: n completion tokens of one trace, R trained tokens of a sequence (one row, or several packed ones), k entries as
the loss wants them, s distinct ids drawn for a token at most.
Nothing is loaded ahead: rows come from the mapped files when a batch asks for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError
from distill.core.protocols import SampledLogprobs, TokenLogprobs
from distill.core.shards import Shard, narrow
from students import alignment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from students.divergence import Positions
    from students.rows import Row


@dataclass(frozen=True)
class FoldedRows:
    """Rows as the loss takes them. `ids_NK` int32, `logprobs_NK` float32 (nats, T = 1), `tail_N` float32 tail term at
    the loss temperature, `present_N` bool. Absent rows hold harmless values: distinct ids, zeros.
    """

    ids_NK: NDArray[np.int32]
    logprobs_NK: NDArray[np.float32]
    tail_N: NDArray[np.float32]
    present_N: NDArray[np.bool_]


@dataclass(frozen=True)
class WeightedRows:
    """Drawn ids as the loss takes them: `ids_NS` int32 and `weights_NS` float32, an unbiased estimate of the teacher's
    distribution at the loss temperature; `present_N` bool. Padding has id 0 and weight 0. `entropy_N` float32 nats is
    what the loss subtracts from its cross-entropy: that distribution's entropy, or, where the log-probabilities of the
    draws are known, the same average of them, so that a student who agrees with the teacher has a KL of exactly 0.
    """

    ids_NS: NDArray[np.int32]
    weights_NS: NDArray[np.float32]
    entropy_N: NDArray[np.float32]
    present_N: NDArray[np.bool_]


class TeacherLogits:
    """The shards of a sampling or scoring stage, as one table keyed by sample."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        tokenizer: str | None,
        vocab_size: int,
        top_k: int,
        temperature: float = 1.0,
        positions: Positions = "all",
        same: Collection[str] = (),
    ) -> None:
        """Open shards and refuse what cannot be matched exactly.

        `tokenizer` is the student's fingerprint, `same` those of others whose every id means the same; `vocab_size` is
        the rows of its head. `top_k` counts for shards of mode `topk` only. Raises DistillError for another tokenizer,
        fewer than `top_k` recorded entries, shards of both modes, or a temperature that was not recorded.
        """
        self.shards = [Shard(path) for path in paths]
        self.top_k, self.temperature, self.positions = top_k, temperature, positions
        for shard in self.shards:
            self._check(shard, tokenizer, same)
        self.mode = self.shards[0].info.mode if self.shards else "topk"
        """`topk` or `sampled`: which columns there are."""
        if any(shard.info.mode != self.mode for shard in self.shards):
            raise DistillError(f"{self.shards[0].path.parent}: logit shards of mode `topk` and of mode `sampled`")
        self.vocab_size = min([vocab_size, *(shard.info.vocab_size for shard in self.shards)])
        """The vocabulary that both have; rows beyond it are padding of one of them."""
        self._of = {key: shard for shard in self.shards for key in shard.keys}

    def _check(self, shard: Shard, tokenizer: str | None, same: Collection[str]) -> None:
        info, name = shard.info, shard.path.name
        if tokenizer is None or (info.tokenizer != tokenizer and info.tokenizer not in same):
            raise DistillError(
                f"{name}: the teacher's tokenizer ({info.tokenizer}) is not the student's ({tokenizer}), so their "
                "logits cannot be matched; set `train.loss: none`, or take a student with the teacher's tokenizer"
            )
        if info.mode == "topk" and info.top_k < self.top_k:
            raise DistillError(
                f"{name}: holds {info.top_k} log-probabilities a token, `train.loss.top_k` wants {self.top_k}; "
                "lower it, or sample or score with more"
            )
        if self.temperature not in info.temperatures:
            what = "tail term" if info.mode == "topk" else "normaliser"
            raise DistillError(
                f"{name}: no {what} for `train.loss.loss_temperature` {self.temperature:g} (it has "
                f"{', '.join(f'{t:g}' for t in info.temperatures)}); nothing else can recover it"
            )

    def __contains__(self, key: str) -> bool:
        return key in self._of

    # ---- what the collator asks for

    def belongs(self, row: Row) -> bool:
        """Whether a row has teacher rows: those of a completion that stands as it was drawn or scored."""
        return not row.rendered and row.key in self._of

    def columns(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        """Teacher columns of one sequence: its rows one after the other, their trained tokens in order.

        Mode `topk`: `teacher_ids` int64 and `teacher_logprobs` float32 [R, k], `teacher_tail` float32 [R]. Mode
        `sampled`: `teacher_ids` int64 and `teacher_weights` float32 [R, s], `teacher_entropy` float32 [R]. Both:
        `teacher_present` bool [R], False where the loss is cross-entropy alone. Raises DistillError if teacher rows
        belong to other tokens.
        """
        parts = [self._columns(row) for row in rows]
        width = max(part["teacher_ids"].shape[1] for part in parts)
        return _joined([_widened(part, width) for part in parts])

    def blank(self, n: int) -> dict[str, NDArray[Any]]:
        """Columns of n tokens without a teacher: harmless values, none of them present."""
        import numpy as np

        absent = np.zeros(n, bool)
        if self.mode == "topk":
            ids_NK = np.broadcast_to(np.arange(self.top_k, dtype=np.int64), (n, self.top_k)).copy()
            return {
                "teacher_ids": ids_NK, "teacher_logprobs": np.zeros((n, self.top_k), np.float32),
                "teacher_tail": np.zeros(n, np.float32), "teacher_present": absent,
            }  # fmt: skip
        return {
            "teacher_ids": np.zeros((n, 1), np.int64), "teacher_weights": np.zeros((n, 1), np.float32),
            "teacher_entropy": np.zeros(n, np.float32), "teacher_present": absent,
        }  # fmt: skip

    def _columns(self, row: Row) -> dict[str, NDArray[Any]]:
        import numpy as np

        if not self.belongs(row):
            return self.blank(len(row.completion_ids))
        wanted_N = row.counts(self.positions)
        if self.mode == "topk":
            folded = self.rows(row.key, row.completion_ids)
            return {
                "teacher_ids": folded.ids_NK.astype(np.int64), "teacher_logprobs": folded.logprobs_NK,
                "teacher_tail": folded.tail_N, "teacher_present": folded.present_N & wanted_N,
            }  # fmt: skip
        drawn = self.draws(row.key, row.completion_ids)
        return {
            "teacher_ids": drawn.ids_NS.astype(np.int64), "teacher_weights": drawn.weights_NS,
            "teacher_entropy": drawn.entropy_N, "teacher_present": drawn.present_N & wanted_N,
        }  # fmt: skip

    # ---- one trace

    def rows(self, key: str, completion_ids: NDArray[np.int32]) -> FoldedRows:
        """The rows of one trace in mode `topk`, row j for completion token j.

        Raises DistillError if they were recorded for other tokens, name an id outside the shared vocabulary, or name
        one twice.
        """
        return fold(self._recorded(key, completion_ids), self.top_k, self.temperature)

    def _recorded(self, key: str, completion_ids: NDArray[np.int32]) -> TokenLogprobs:
        import numpy as np

        got = self._of[key].rows(key, completion_ids.tolist())  # refuses rows that belong to other tokens
        self._refuse_beyond(key, got.ids_NK)
        sorted_NS = np.sort(got.ids_NK[got.present_N], axis=1)
        if (sorted_NS[:, 1:] == sorted_NS[:, :-1]).any():
            raise DistillError(f"{self._of[key].path.name}: sample {key[:12]} names an id twice for one token")
        if self.temperature == 1.0:
            return got
        return replace(got, present_N=got.present_N & ~np.isnan(got.tails[self.temperature]))

    def draws(self, key: str, completion_ids: NDArray[np.int32]) -> WeightedRows:
        """The rows of one trace in mode `sampled`. Raises DistillError as `rows` does."""
        shard = self._of[key]
        got = shard.draws(key, completion_ids.tolist())
        self._refuse_beyond(key, got.ids_E)
        return weigh(got, shard.info.draws, self.temperature)

    def _refuse_beyond(self, key: str, ids: NDArray[np.int32]) -> None:
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise DistillError(
                f"{self._of[key].path.name}: sample {key[:12]} names id {int(ids.max())} in a shared vocabulary of "
                f"{self.vocab_size}"
            )

    def prove_alignment(self, traces: Iterable[tuple[str, NDArray[np.int32]]]) -> float:
        """Show on the shards themselves that row j belongs to token j; see `students.alignment.prove`.

        `traces` are (key, completion ids). Returns the mean log-probability of the tokens.
        """
        return alignment.prove((self._seen(key, ids_N), ids_N) for key, ids_N in traces)

    def _seen(self, key: str, ids_N: NDArray[np.int32]) -> alignment.Seen:
        if self.mode == "topk":
            return alignment.Largest(self._recorded(key, ids_N), self.vocab_size)
        shard = self._of[key]
        return alignment.Drawn(shard.draws(key, ids_N.tolist()), shard.info.draws)


def fold(got: TokenLogprobs, top_k: int, temperature: float) -> FoldedRows:
    """Keep the first `top_k` entries; the others join the tail term, exactly, at the loss temperature.

    A row whose tail term was not recorded (NaN) is absent.
    """
    import numpy as np

    kept = narrow(got, top_k)
    tail_N = kept.tail_N if temperature == 1.0 else kept.tails[temperature]
    present_N = kept.present_N & ~np.isnan(tail_N)
    absent_N1 = ~present_N[:, None]
    return FoldedRows(
        ids_NK=np.where(absent_N1, np.arange(top_k, dtype=np.int32), kept.ids_NK),
        logprobs_NK=np.where(absent_N1, np.float32(0), kept.logprobs_NK),
        tail_N=np.where(present_N, tail_N, np.float32(0)),
        present_N=present_N,
    )


def weigh(got: SampledLogprobs, draws: int, temperature: float) -> WeightedRows:
    """Draws as weights whose mean is the teacher's distribution at the loss temperature T.

    A draw from p counts 1 / draws at T = 1. At another T each id stands in for p^(1/T) exp(-c_T), c_T being the log sum
    of p^(1/T), though it was drawn with p: its draws are worth p^(1/T - 1) exp(-c_T) as much.
    """
    import numpy as np

    entries_N = np.diff(got.offset)
    row_E = np.repeat(np.arange(len(entries_N)), entries_N)
    place_E = np.arange(len(row_E)) - got.offset[row_E]
    weight_E, entropy_N = got.counts_E / np.float64(draws), got.entropy_N
    if got.logprobs_E is not None:
        log_p_E = got.logprobs_E.astype(np.float64) / temperature
        if temperature != 1.0:
            log_p_E -= got.normalisers[temperature][row_E]
            weight_E = weight_E * np.exp(log_p_E - got.logprobs_E)
        entropy_N = np.bincount(row_E, -weight_E * log_p_E, len(entries_N)).astype(np.float32)
    shape = (len(entries_N), max(1, int(entries_N.max(initial=1))))
    ids_NS, weights_NS = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    ids_NS[row_E, place_E] = got.ids_E
    weights_NS[row_E, place_E] = weight_E
    return WeightedRows(ids_NS, weights_NS, np.where(got.present_N, entropy_N, np.float32(0)), got.present_N)


def _widened(columns: dict[str, NDArray[Any]], width: int) -> dict[str, NDArray[Any]]:
    """Columns of draws with as many places for ids; mode `topk` has the same number everywhere."""
    import numpy as np

    more = width - columns["teacher_ids"].shape[1]
    if not more:
        return columns
    wide = {name: np.pad(columns[name], ((0, 0), (0, more))) for name in ("teacher_ids", "teacher_weights")}
    return columns | wide


def _joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    import numpy as np

    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
