"""Rows in a mapped file are the rows that were put in, and take no memory of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from students.row_store import Row, RowStore


def made(n: int) -> list[Row]:
    draw = np.random.default_rng(n)
    return [
        Row(
            f"{place:064x}",
            draw.integers(0, 1000, int(draw.integers(2, 40))).astype(np.int32),
            1,
            "no ids" * (place % 2),
            place,
        )
        for place in range(n)
    ]


def test_what_comes_out_is_what_went_in(tmp_path: Path) -> None:
    rows, store = made(20), RowStore(tmp_path)
    for row in rows:
        store.append(row)
        assert store[-1].ids.tolist() == row.ids.tolist()  # also while it grows
    assert len(store) == 20
    for got, row in zip(store, rows, strict=True):
        assert (got.key, got.start, got.rendered, got.answer_at) == (row.key, row.start, row.rendered, row.answer_at)
        assert got.ids.dtype == np.int32
        assert got.ids.tolist() == row.ids.tolist()
    assert store.lengths.tolist() == [len(row.ids) for row in rows]
    assert store.trained.sum() == sum(len(row.ids) - 1 for row in rows)
    assert [row.key for row in store[3:9:2]] == [row.key for row in rows[3:9:2]]
    with pytest.raises(IndexError):
        store[20]
    store.keep([1, 4, 19])
    assert [row.ids.tolist() for row in store] == [rows[place].ids.tolist() for place in (1, 4, 19)]
    assert [row.rendered for row in store] == ["no ids", "", "no ids"]
    assert list(tmp_path.iterdir()) == []  # the file has no name: a kill leaves nothing


def test_no_rows_are_no_error() -> None:
    assert list(RowStore()) == []
    assert RowStore().lengths.tolist() == []


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np
from students.row_store import Row, RowStore

def own_mib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

store, before = RowStore(Path(sys.argv[1])), own_mib()
for place in range(20_000):
    store.append(Row(f"{place:064x}", np.full(1_000, place, np.int32), 10))
total = sum(int(row.ids[0]) for row in store)
assert total == sum(range(20_000))
print(own_mib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's own memory from /proc")
def test_eighty_megabytes_of_ids_take_a_tenth_of_that(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 8
