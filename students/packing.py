"""Which rows of an optimizer step pass the model together: packed end to end, or padded side by side.

A step holds the same rows however they are laid out, and its loss is one mean over their trained tokens, so that layout
changes memory, time and rounding, and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How the rows that a process has of one step become forward passes.

    `tokens` None: the trainer's micro-batches of so many rows. A number: passes of at most so many tokens (a longer row
    has one of its own); `packed` lays their rows end to end in one sequence, else they are padded to the longest.
    """

    tokens: int | None = None
    packed: bool = False

    def passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of `lengths` by forward pass; every place once. `Layout(10, packed=True)` gives `[[0, 2], [1, 3]]` for
        `[7, 6, 3, 4]`.
        """
        if self.tokens is None:
            return [list(range(len(lengths)))]
        return best_fit(lengths, self.tokens) if self.packed else padded(lengths, self.tokens)


@dataclass(frozen=True)
class Pass:
    """One forward pass of the plan that a stage leaves (`passes.parquet`): its rows' samples, in order."""

    epoch: int
    step: int
    """Optimizer step of the epoch, from 0."""
    rank: int
    number: int
    """Which of the step's passes on this process, from 0."""
    tokens: int
    """Tokens of its rows together, without padding."""
    samples: tuple[str, ...]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of at most `capacity` by best-fit decreasing: longest first, each into the fullest bin that takes it.

    At most 11/9 of the fewest bins possible, plus 4 (Johnson 1974); ties go to the earlier bin, so that the answer
    depends on nothing but the arguments. A length over `capacity` fills a bin alone.
    """
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        length = lengths[place]
        at = bisect_left(room, (length, 0))
        if at == len(room):
            left, chosen = capacity, len(bins)
            bins.append([])
        else:
            left, chosen = room.pop(at)
        bins[chosen].append(place)
        if left > length:
            insort(room, (left - length, chosen))
    return bins


def padded(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of like length, longest first, whose number times longest is at most `capacity`; at least one each."""
    groups: list[list[int]] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if groups and (len(groups[-1]) + 1) * longest <= capacity:
            groups[-1].append(place)
        else:
            groups.append([place])
            longest = lengths[place]
    return groups
