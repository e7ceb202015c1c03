"""How long `distill --help` and the refusal of a wrong file take, as wall time and beside a bare interpreter's start.

python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 7
LIMITS_S = {"distill --help": 0.3, "a wrong file refused": 1.0}


def median_s(command: list[str], expected: int) -> float:
    """Median wall seconds of a command over `RUNS` runs, after one to warm the disk cache."""
    times = []
    for _ in range(RUNS + 1):
        began_s = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False)
        times.append(time.perf_counter() - began_s)
        assert done.returncode == expected, done.stderr.decode()
    return statistics.median(times[1:])


def main() -> int:
    """Print the table, and fail past a limit."""
    root = Path(__file__).resolve().parent.parent
    distill = [str(Path(sys.executable).with_name("distill"))]
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder, "wrong.yaml")
        wrong.write_text((root / "configs/quickstart.yaml").read_text().replace("epochs", "epoch"))
        bare = median_s([sys.executable, "-c", "pass"], 0)
        figures = {
            "distill --help": median_s([*distill, "--help"], 0),
            "a wrong file refused": median_s([*distill, "run", str(wrong)], 2),
        }
    print("| command | median s | times a bare `python -c pass` | limit s |")
    print("| --- | --- | --- | --- |")
    for name, seconds in figures.items():
        print(f"| {name} | {seconds:.2f} | {seconds / bare:.1f} | {LIMITS_S[name]} |")
    return 0 if all(figures[name] <= limit for name, limit in LIMITS_S.items()) else 3


if __name__ == "__main__":
    sys.exit(main())
