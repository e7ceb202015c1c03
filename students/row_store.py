"""Training rows whose ids lie in a mapped file: a million rows of 4,000 tokens are 16 GB, too much for memory.

The file has no name and goes with the process: after a kill nothing is left to clean up, and rows are made again.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from students.divergence import Positions


@dataclass(frozen=True)
class Row:
    """One training row. `ids` int32: prompt, prefill, completion; trained from `start` on.

    `rendered` says why the completion is not as drawn; empty: it is, and teacher rows of `key` belong to it.
    `answer_at` is where in `ids` the answer begins: [start, answer_at) is thinking with its close tag, [answer_at, end)
    the answer. It is the length where thinking never closed, and `start` (or less) where there is none to train.
    """

    key: str
    ids: NDArray[np.int32]
    start: int
    rendered: str = ""
    answer_at: int = 0

    @property
    def completion_ids(self) -> NDArray[np.int32]:
        """The trained tokens."""
        return self.ids[self.start :]

    def counts(self, positions: Positions) -> NDArray[np.bool_]:
        """Which of the trained tokens a divergence counts on, of all, those of the reasoning or those of the answer."""
        import numpy as np

        answers_N = np.arange(self.start, len(self.ids)) >= self.answer_at
        return answers_N if positions == "answer" else ~answers_N if positions == "reasoning" else answers_N | True


class RowStore(Sequence[Row]):
    """Rows in the order in which they were added. It gives views: no ids are read before they are looked at."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is where the file takes its space: on a disk, not in a temporary folder that is memory."""
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115  # open as long as the rows are
        self._size = 0
        self._begins, self._lengths = array("q"), array("q")
        self._starts, self._answers = array("q"), array("q")
        self._keys: list[str] = []
        self._reasons: list[str] = []
        self._ids: NDArray[np.int32] | None = None

    def __del__(self) -> None:
        self._file.close()  # the space is free again; what is mapped stays as long as somebody looks at it

    def append(self, row: Row) -> None:
        """Add one row."""
        self._file.write(row.ids.tobytes())
        self._begins.append(self._size)
        self._lengths.append(len(row.ids))
        self._starts.append(row.start)
        self._answers.append(row.answer_at)
        self._keys.append(row.key)
        self._reasons.append(row.rendered)
        self._size += len(row.ids)
        self._ids = None

    def keep(self, places: Iterable[int]) -> None:
        """Keep only these rows. The others' ids stay in the file, and nobody reads them."""
        kept = list(places)
        for name in ("_begins", "_lengths", "_starts", "_answers"):
            values: array[int] = getattr(self, name)
            setattr(self, name, array("q", (values[place] for place in kept)))
        self._keys = [self._keys[place] for place in kept]
        self._reasons = [self._reasons[place] for place in kept]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every row."""
        import numpy as np

        return np.array(self._lengths, np.int64)

    @property
    def trained(self) -> NDArray[np.int64]:
        """Trained tokens of every row."""
        import numpy as np

        return self.lengths - np.array(self._starts, np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        key = self._keys[place]  # raises IndexError beyond the end
        begin = self._begins[place]
        ids = self._mapped()[begin : begin + self._lengths[place]]
        return Row(key, ids, self._starts[place], self._reasons[place], self._answers[place])

    def __iter__(self) -> Iterator[Row]:
        return (self[place] for place in range(len(self)))

    def _mapped(self) -> NDArray[np.int32]:
        import numpy as np

        if self._ids is None:
            self._file.flush()
            content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY) if self._size else b""
            self._ids = np.frombuffer(content, np.int32)
        return self._ids
