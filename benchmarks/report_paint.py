"""How soon a report can be read: first paint in Chromium, file size, and the time to write it, for 10,000 answers.

    python -m benchmarks.report_paint

The run is made up (`tests/report/synthetic.py`): 1,250 problems, two answers each by base, teacher and the students of
two arms, besides 6,250 answers that the student was taught with. Each opening is a browser's first, without cache, on
at most two cores. Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from distill.evaluate import scores
from distill.report import final
from tests.browser import find, started
from tests.report.synthetic import make_run

PROBLEMS, SAMPLES, OPENINGS = 1250, 2, 7
ANSWERS = 10_000
PAINT_BOUND_S, SIZE_BOUND = 2.0, 5_000_000

PAINTED = """() => new Promise((done) => new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (entry.name === 'first-contentful-paint') done(entry.startTime);
}).observe({type: 'paint', buffered: true}))"""
"""Milliseconds from the start of the navigation."""


def main() -> int:
    """Measure and print; 0 if both bounds hold."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # Chromium's processes inherit it
    program = find()
    if program is None:
        print("no Chromium here (Debian: apt-get install chromium)", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "paint", problems=PROBLEMS, samples=SAMPLES)
        evaluations = [scores.read(path) for path in sorted(run.glob("evaluate-*"))]
        answers = sum(line.task == "problems" for lines in evaluations for line in lines)
        assert answers == ANSWERS, answers
        began_s = time.perf_counter()
        page = final.write(run)
        written_s = time.perf_counter() - began_s
        size = page.stat().st_size
        paints_s = [_first_paint(program, page) for _ in range(OPENINGS)]
    held = max(paints_s) < PAINT_BOUND_S and size < SIZE_BOUND
    print(json.dumps({
        "answers": answers, "bytes": size, "written_s": round(written_s, 2),
        "first_paint_s": {"median": round(statistics.median(paints_s), 3), "longest": round(max(paints_s), 3)},
        "openings": OPENINGS, "bounds": {"first_paint_s": PAINT_BOUND_S, "bytes": SIZE_BOUND}, "held": held,
    }, indent=1))  # fmt: skip
    return 0 if held else 1


def _first_paint(program: str, page: Path) -> float:
    """Seconds, in a browser of its own."""
    with started(program) as chromium, chromium.open(page.as_uri()) as opened:
        return float(opened.page.evaluate(PAINTED)) / 1000


if __name__ == "__main__":
    sys.exit(main())
