"""Quickstart as a user runs it, from an empty workspace: at most 6 minutes on 2 cores and under 3 GB of memory.

python benchmarks/quickstart.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from _measure import measure

LIMIT_S, LIMIT_GIB = 360.0, 3.0


def main() -> int:
    """Run, print the figures as one table row, and fail past a limit."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as workspace:
        command = [
            sys.executable,
            "-m",
            "distill",
            "run",
            str(root / "configs/quickstart.yaml"),
            "--workspace",
            workspace,
        ]
        usage = measure(command, cwd=str(root))
    print(usage.output)
    print("| wall s | CPU s | peak GiB | load before | load after | exit |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(
        f"| {usage.wall_s:.0f} | {usage.cpu_s:.0f} | {usage.peak_gib:.2f} | {usage.load_before:.2f} "
        f"| {usage.load_after:.2f} | {usage.code} |"
    )
    within = usage.code == 0 and usage.wall_s <= LIMIT_S and usage.peak_gib <= LIMIT_GIB
    print(f"limits {LIMIT_S:.0f} s and {LIMIT_GIB} GiB: {'met' if within else 'MISSED'}")
    return 0 if within else 3


if __name__ == "__main__":
    sys.exit(main())
