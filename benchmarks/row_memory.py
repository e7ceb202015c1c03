"""Memory that training rows take: as arrays in a list, and in the mapped file that training uses.

    python -m benchmarks.row_memory [ROWS] [TOKENS]

Each arm is a fresh process that makes the rows and lays out 200 packed steps of 64. `own` is the process's anonymous
memory above what it had before; `file` is the system's cache of the mapped file, which it takes back when it needs it.
Linux only: read from /proc.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def memory_mib() -> tuple[int, int]:
    """Anonymous and file-backed memory of this process."""
    status = Path("/proc/self/status").read_text()
    own, file = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) // 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[index]  # always there on Linux
    return own, file


def measure(arm: str, n_rows: int, n_tokens: int) -> None:
    """Print one line of the table."""
    import numpy as np

    from students.collate import Collator, epoch_order
    from students.packing import Layout
    from students.row_store import Row, RowStore

    before, start_s = memory_mib(), time.monotonic()
    draw, layout = np.random.default_rng(0), Layout(4 * n_tokens, packed=True)
    store: Any = RowStore(Path()) if arm == "mapped" else []
    for place in range(n_rows):
        store.append(Row(f"{place:064x}", draw.integers(0, 150_000, n_tokens, dtype=np.int32), 100))
    collator = Collator(store, None, layout)
    order = epoch_order([n_tokens] * n_rows, 64, 0, 0, layout=layout)
    for step in range(200):
        collator([{"row": int(n)} for n in order[64 * step : 64 * step + 64]])
    own, file = (after - at for after, at in zip(memory_mib(), before, strict=True))
    print(f"{arm:<8} own {own:>6,} MiB   file {file:>6,} MiB   {time.monotonic() - start_s:.1f} s")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        size = [*sys.argv[1:], *("100000", "2000")[len(sys.argv) - 1 :]]
        for name in ("arrays", "mapped"):
            subprocess.run([sys.executable, "-m", "benchmarks.row_memory", "--arm", name, *size], check=True)
