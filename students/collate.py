"""From rows to padded batches, and the order in which rows are trained on.

Shapes: B rows of a micro-batch, T tokens (the longest row), M the longest completion, K teacher ids a token.

Rows are padded on the right and masks come from lengths, never from ids (pad may equal EOS). There is no attention
mask: in a causal model no position sees what stands to its right, so padding behind a row changes none of its logits,
and attention keeps its fast path. Teacher rows are dense [B, M, ...] with a mask, so that a batch can be moved and
split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from students.rows import Row
from students.teacher_logits import TeacherLogits

IGNORED = -100
"""Label of a position that is not trained."""

BLOCK_BATCHES = 16
"""Batches are cut from shuffled blocks of this many, sorted by length: little padding, and another mix each epoch."""


class Collator:
    """Reads the ids and teacher rows of some row numbers: `[{"row": 3}, {"row": 8}]` gives one padded batch.

    `input_ids`, `labels` int64 [B, T]; with a teacher also `teacher_ids` int64 and `teacher_logprobs` float32
    [B, M, K], `teacher_tail` float32, `teacher_present` and `teacher_rows` bool [B, M], the last one True for every
    trained token.
    """

    def __init__(self, rows: Sequence[Row], teacher: TeacherLogits | None) -> None:
        self.rows, self.teacher = rows, teacher

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """One batch. Raises DistillError if teacher rows belong to other tokens than the row's."""
        rows = [self.rows[example["row"]] for example in examples]
        input_ids_BT = np.zeros((len(rows), max(len(row.ids) for row in rows)), np.int64)
        labels_BT = np.full_like(input_ids_BT, IGNORED)
        for place, row in enumerate(rows):
            input_ids_BT[place, : len(row.ids)] = row.ids
            labels_BT[place, row.start : len(row.ids)] = row.completion_ids
        batch: dict[str, Any] = {"input_ids": input_ids_BT, "labels": labels_BT}
        if self.teacher is not None:
            batch |= self._teacher_rows(rows, self.teacher)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _teacher_rows(self, rows: Sequence[Row], teacher: TeacherLogits) -> dict[str, NDArray[Any]]:
        longest = max(len(row.ids) - row.start for row in rows)
        shape = (len(rows), longest)
        batch: dict[str, NDArray[Any]] = {
            "teacher_ids": np.broadcast_to(np.arange(teacher.top_k), (*shape, teacher.top_k)).copy(),
            "teacher_logprobs": np.zeros((*shape, teacher.top_k), np.float32),
            "teacher_tail": np.zeros(shape, np.float32),
            "teacher_present": np.zeros(shape, bool),
            "teacher_rows": np.zeros(shape, bool),
        }
        for place, row in enumerate(rows):
            span = (place, slice(len(row.ids) - row.start))
            batch["teacher_rows"][span] = True
            if row.rendered or row.key not in teacher:
                continue
            got = teacher.rows(row.key, row.completion_ids)
            batch["teacher_ids"][span] = got.ids_NK
            batch["teacher_logprobs"][span] = got.logprobs_NK
            batch["teacher_tail"][span] = got.tail_N
            batch["teacher_present"][span] = got.present_N
        return batch


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Row numbers of one epoch: every `batch_size` of them are one optimizer step, the last may be smaller.

    Depends on nothing but its arguments. Steps hold rows of like length, longest first, so that micro-batches cut from
    them pad little; which rows meet, and the order of the steps, is drawn anew each epoch.
    """
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    full = len(shuffled) - len(shuffled) % batch_size
    length_of = np.asarray(lengths)
    steps: list[NDArray[np.int64]] = []
    for start in range(0, full, BLOCK_BATCHES * batch_size):
        block = shuffled[start : min(start + BLOCK_BATCHES * batch_size, full)]
        ordered = block[np.argsort(-length_of[block], kind="stable")]
        steps.extend(ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size))
    rest = shuffled[full:]
    order = [steps[place] for place in draw.permutation(len(steps))]
    return np.concatenate([*order, rest[np.argsort(-length_of[rest], kind="stable")]]) if len(shuffled) else shuffled


class EpochSampler(Sampler[int]):
    """Gives `epoch_order` to a data loader; the trainer says which epoch it is."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of every epoch, also when it resumes in the middle of one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.lengths, self.batch_size, self.seed, self.epoch).tolist())

    def __len__(self) -> int:
        return len(self.lengths)
