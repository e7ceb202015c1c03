"""From rows to batches, padded or packed, and the order in which rows are trained on.

Shapes: B sequences of a forward pass, T tokens (the longest sequence), R most trained tokens of a sequence, D most rows
of a sequence, K teacher ids a token.

Sequences are padded on the right and masks come from lengths, never from ids (pad may equal EOS). There is no attention
mask: in a causal model no position sees what stands to its right, so padding behind a row changes none of its logits,
and attention keeps its fast path. A packed sequence is several rows end to end; its `position_ids` keep them apart
(students/isolation.py). Teacher rows are dense [B, R, ...] with a mask, so that a batch can be moved and split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from students.packing import Layout, Pass
from students.rows import Row

IGNORED = -100
"""Label of a position that is not trained."""

BLOCK_BATCHES = 16
"""Batches are cut from shuffled blocks of this many, sorted by length: little padding, and another mix each epoch."""


NO_ROW = -1
"""Stands where a process has fewer rows of a step than another."""

AS_ROWS = Layout()
"""Micro-batches of so many rows, side by side."""


class Teacher(Protocol):
    """What a batch needs to know of a teacher: flat arrays over the trained tokens of a sequence, and their filling."""

    def columns(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        """`teacher_present` bool [N] and whatever else the loss reads, [N, ...], of rows laid end to end."""

    def blank(self, n: int) -> dict[str, NDArray[Any]]:
        """The same for n tokens of which the teacher said nothing."""


class Collator:
    """Reads the ids and teacher rows of some row numbers: `[{"row": 3}, {"row": 8}]` gives one padded batch.

    `input_ids`, `labels` int64 [B, T]; `rows` int64 [B, D], the row numbers, -1 for none; packed also `position_ids`
    int64 [1, T]; with a teacher also `teacher_rows` bool [B, R], True for every trained token, and what
    `teacher.columns` names, [B, R, ...]. A layout that counts tokens gives `{"passes": [batch, batch, ...]}`.
    """

    def __init__(self, rows: Sequence[Row], teacher: Teacher | None, layout: Layout = AS_ROWS) -> None:
        self.rows, self.teacher, self.layout = rows, teacher, layout

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        """One batch, or the passes of one step. Raises DistillError if teacher rows belong to other tokens."""
        numbers = [example["row"] for example in examples if example["row"] != NO_ROW]
        if not numbers:
            return self.nothing() if self.layout.tokens is None else {"passes": [self.nothing()]}
        if self.layout.tokens is None:
            return self.batch([[number] for number in numbers])
        passes = self.layout.passes([len(self.rows[number].ids) for number in numbers])
        chosen = [[numbers[place] for place in places] for places in passes]
        return {"passes": [self.batch([one] if self.layout.packed else [[n] for n in one]) for one in chosen]}

    def batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """One forward pass: a sequence for each list of row numbers, padded to the longest."""
        together = [[self.rows[number] for number in numbers] for numbers in sequences]
        shape = (len(together), max(sum(len(row.ids) for row in rows) for rows in together))
        numbers_BD = np.full((len(together), max(map(len, together))), -1, np.int64)
        input_ids_BT, position_ids_BT = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        labels_BT = np.full(shape, IGNORED)
        for place, rows in enumerate(together):
            numbers_BD[place, : len(rows)] = sequences[place]
            at = 0
            for row in rows:
                if row.start < 1:
                    raise ValueError(f"row {row.key[:12]}: nothing stands before its first trained token")
                end = at + len(row.ids)
                input_ids_BT[place, at:end] = row.ids
                position_ids_BT[place, at:end] = np.arange(len(row.ids))
                labels_BT[place, at + row.start : end] = row.completion_ids
                at = end
        batch: dict[str, Any] = {"input_ids": input_ids_BT, "labels": labels_BT, "rows": numbers_BD}
        if self.layout.packed:
            batch["position_ids"] = position_ids_BT
        if self.teacher is not None:
            batch |= stacked([self.teacher.columns(rows) for rows in together], self.teacher.blank)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def nothing(self) -> dict[str, Tensor]:
        """A pass that trains nothing, for a process that has fewer passes of a step than another."""
        batch: dict[str, Any] = {
            "input_ids": np.zeros((1, 2), np.int64), "labels": np.full((1, 2), IGNORED), "rows": np.full((1, 1), -1),
        }  # fmt: skip
        if self.layout.packed:
            batch["position_ids"] = np.arange(2)[None]
        if self.teacher is not None:
            batch |= stacked([self.teacher.blank(0)], self.teacher.blank)
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def stacked(
    columns: Sequence[dict[str, NDArray[Any]]], blank: Callable[[int], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Teacher columns of B sequences as [B, R, ...], filled up with `blank`, and `teacher_rows` that tells which count.

    Columns that differ in their second dimension (drawn ids, which are as many as they are) are padded with zeros.
    """
    counts = [len(one["teacher_present"]) for one in columns]
    longest = max(counts)
    batch: dict[str, NDArray[Any]] = {"teacher_rows": np.arange(longest) < np.array(counts)[:, None]}
    fillers = [blank(longest - count) for count in counts]
    for name in columns[0]:
        pairs = [(one[name], filler[name]) for one, filler in zip(columns, fillers, strict=True)]
        widths = {array.shape[1] for pair in pairs for array in pair if array.ndim > 1}
        if len(widths) > 1:
            pairs = [tuple(_widened(array, max(widths)) for array in pair) for pair in pairs]  # type: ignore[misc]  # two
        batch[name] = np.stack([np.concatenate([own, filler]) for own, filler in pairs])
    return batch


def _widened(array: NDArray[Any], width: int) -> NDArray[Any]:
    return np.pad(array, [(0, 0), (0, width - array.shape[1])])


def epoch_order(
    lengths: Sequence[int] | NDArray[np.int64], batch_size: int, seed: int, epoch: int, *, layout: Layout = AS_ROWS,
    ranks: int = 1,
) -> NDArray[np.int64]:  # fmt: skip
    """Row numbers of one epoch: every `batch_size` of them are one optimizer step, the last may be smaller.

    Depends on nothing but its arguments. Which rows meet, and the order of the steps, is drawn anew each epoch.
    Padded steps hold rows of like length, so that passes cut from them pad little; packed rows are better off mixed,
    where short ones fill what long ones leave. Within a step the longest come first; where each of the `ranks`
    processes lays out its own part of a step, rows are dealt out in turn, so that all have about as many tokens.
    """
    draw = np.random.default_rng([seed, epoch])
    shuffled = draw.permutation(len(lengths))
    full = len(shuffled) - len(shuffled) % batch_size
    length_of = np.asarray(lengths)

    def longest_first(places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places[np.argsort(-length_of[places], kind="stable")]

    def dealt(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
        hands = ranks if layout.tokens is not None else 1
        return np.concatenate([ordered[rank::hands] for rank in range(hands)])

    block_size = (1 if layout.packed else BLOCK_BATCHES) * batch_size
    steps: list[NDArray[np.int64]] = []
    for start in range(0, full, block_size):
        ordered = longest_first(shuffled[start : min(start + block_size, full)])
        steps.extend(dealt(ordered[at : at + batch_size]) for at in range(0, len(ordered), batch_size))
    order = [steps[place] for place in draw.permutation(len(steps))]
    return np.concatenate([*order, dealt(longest_first(shuffled[full:]))]) if len(shuffled) else shuffled


class EpochSampler(Sampler[int]):
    """Gives `epoch_order` to a data loader; the trainer says which epoch it is."""

    def __init__(
        self, lengths: Sequence[int] | NDArray[np.int64], batch_size: int, seed: int, *, layout: Layout = AS_ROWS,
        ranks: int = 1, micro: int | None = None,
    ) -> None:  # fmt: skip
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.layout, self.ranks, self.micro = layout, ranks, micro or batch_size

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of every epoch, also when it resumes in the middle of one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(self.lengths, self.batch_size, self.seed, self.epoch, layout=self.layout, ranks=self.ranks)
        return iter(shared_out(order, self.batch_size, self.micro, self.ranks).tolist())

    def __len__(self) -> int:
        return len(shared_out(np.zeros(len(self.lengths), np.int64), self.batch_size, self.micro, self.ranks))


def shared_out(order: NDArray[np.int64], batch_size: int, micro: int, ranks: int) -> NDArray[np.int64]:
    """An epoch's order with a last step that all processes have a share of: filled up with `len(order)`, the place of
    `NO_ROW` in the data set, where accelerate would repeat rows of the first steps.

    Micro-batches of `micro` rows go to the processes in turn.
    """
    full = len(order) - len(order) % batch_size
    if ranks == 1 or full == len(order):
        return order
    rest = order[full:]
    parts = np.array_split(rest, -(-len(rest) // (micro * ranks)) * ranks)
    padded = [np.pad(part, (0, micro - len(part)), constant_values=len(order)) for part in parts]
    return np.concatenate([order[:full], *padded])


def planned(
    rows: Sequence[Row], batch_size: int, seed: int, epochs: int, layout: Layout, ranks: int = 1
) -> Iterator[Pass]:
    """Every forward pass of a training whose layout counts tokens, in the order in which they are made."""
    lengths = np.array([len(row.ids) for row in rows])
    for epoch in range(epochs):
        order = epoch_order(lengths, batch_size, seed, epoch, layout=layout, ranks=ranks)
        for step, start in enumerate(range(0, len(order), batch_size)):
            mine = np.array_split(order[start : start + batch_size], ranks)
            for rank, numbers in enumerate(mine):
                for number, places in enumerate(layout.passes(lengths[numbers].tolist())):
                    chosen = [rows[numbers[place]] for place in places]
                    tokens = sum(len(row.ids) for row in chosen)
                    yield Pass(epoch, step, rank, number, tokens, tuple(row.key for row in chosen))
