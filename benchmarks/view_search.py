"""`distill view` on 100,000 long traces: how long the index takes, what it needs, and how soon a search is answered.

    python -m benchmarks.view_search
    python -m benchmarks.view_search --traces 20000 --keep /path/to/folder

The traces are made up: sentences over a vocabulary in Zipf's proportions, formulas among them, lengths log-normal with
a median of 8,000 and a mean of 12,000 characters, which is what a 30B thinking model's traces have. Searches go over
HTTP to the command itself, one after the other, and no two are the same, so that none is answered from memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import psutil

from distill.core import tables
from distill.core.records import Message, Trace, problem_id
from distill.report import table

LIMIT_MS = 300.0
VOCABULARY, SENTENCES = 30_000, 20_000
SOUNDS = ("ba", "co", "de", "fi", "gu", "ka", "la", "me", "no", "pu", "ri", "so", "ta", "ve", "zi")
FORMULAS = (r"\(x^{2} + 3x = 0\)", r"$\frac{1}{2}$", r"\(\sqrt{17}\)", r"$n \equiv 1 \pmod{7}$", r"\[a_{n+1} = 2 a_n\]")


def vocabulary() -> list[str]:
    """Made-up words, the most frequent first."""
    rng = random.Random(0)
    words: dict[str, None] = {}
    while len(words) < VOCABULARY:
        words["".join(rng.choices(SOUNDS, k=rng.choice((1, 2, 2, 3, 3, 4))))] = None
    return list(words)


def sentences(words: list[str]) -> list[str]:
    """The pool that traces are put together from."""
    rng = random.Random(1)
    shares = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    pool = []
    for _ in range(SENTENCES):
        said = rng.choices(words, cum_weights=shares, k=rng.randrange(5, 18))
        if rng.random() < 0.3:
            said.insert(rng.randrange(len(said)), rng.choice(FORMULAS))
        pool.append(" ".join(said).capitalize() + rng.choice((". ", ". ", ".\n\n", "? ")))
    return pool


def traces(count: int) -> Iterator[Trace]:
    """Traces of every verdict, domain and level."""
    pool = sentences(vocabulary())
    mean = statistics.mean(map(len, pool))
    for number in range(count):
        rng = random.Random(number)
        asked = (Message("user", f"{''.join(rng.choices(pool, k=3))}How many? ({number // 4})"),)
        steps = max(3, round(rng.lognormvariate(9.0, 0.9) / mean))
        right = rng.random() < 0.7
        yield Trace(
            key=f"{number:064x}", problem_id=problem_id(asked), messages=asked,
            reasoning="".join(rng.choices(pool, k=steps)),
            answer=f"{rng.choice(pool)}\n\n\\boxed{{{rng.randrange(10_000)}}}",
            gold=str(number % 1000), domain=rng.choice(("algebra", "geometry", "counting", "numbers")),
            level=str(rng.randrange(1, 6)), model_name="made", verdict="correct" if right else "wrong",
            verdict_reason="same text" if right else "another number",
        )  # fmt: skip


def searches(words: list[str], each: int) -> dict[str, list[dict[str, str]]]:
    """Searches by kind; rank 1 is the most frequent word."""
    rng = random.Random(2)

    def word(low: int, high: int) -> str:
        return words[rng.randrange(low, high)]

    return {
        "a rare word": [{"q": word(5_000, 30_000)} for _ in range(each)],
        "a frequent word": [{"q": words[rank]} for rank in range(each)],
        "two words": [{"q": f"{word(0, 200)} {word(0, 2_000)}"} for _ in range(each)],
        "a phrase of frequent words": [{"q": f'"{words[i]} {words[i + 1]}"'} for i in range(each)],
        "maths": [{"q": "\\frac{1}{2}"}, *({"q": f"x^{{2}} {word(0, 500)}"} for _ in range(each - 1))],
        "words that begin so": [{"q": f"{word(0, 3_000)[:4]}{SOUNDS[i % len(SOUNDS)]}*"} for i in range(each)],
        "one word, not another": [{"q": f"{word(0, 100)} -{word(0, 2_000)}"} for _ in range(each)],
        "in the answer": [{"q": f"answer:{rng.randrange(10_000)}"} for _ in range(each)],
        "filters, longest first": [
            {"q": word(0, 1_000), "facet.verdict": "wrong", "facet.level": "5", "sort": "longest", "least": "9000"}
            for _ in range(each)
        ],
    }  # fmt: skip


@dataclass(frozen=True)
class Viewing:
    """The command, serving: its address, how long that took, its largest resident memory in bytes so far."""

    address: str
    ready_s: float
    peak: list[int]
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds it has taken so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def viewing(file: Path, workspace: Path) -> Iterator[Viewing]:
    """The command, running, from when it serves."""
    command = [sys.executable, "-m", "distill", "view", str(file), "--no-browser", "--workspace", str(workspace)]
    began_s = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    watched, peak = psutil.Process(process.pid), [0]
    threading.Thread(target=_watch, args=(watched, peak), daemon=True).start()
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise SystemExit("distill view ended before it served")
        yield Viewing(address, time.perf_counter() - began_s, peak, watched)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _watch(process: psutil.Process, peak: list[int]) -> None:
    try:
        while True:
            peak[0] = max(peak[0], process.memory_info().rss)
            time.sleep(0.1)
    except psutil.NoSuchProcess:
        return


def timed(seen: Viewing, asked: dict[str, list[dict[str, str]]]) -> list[dict[str, object]]:
    """One row a kind: milliseconds until the answer was read, those of the server's CPU, and how many were found."""
    place = urlsplit(seen.address)
    rows: list[dict[str, object]] = []
    for kind, several in asked.items():
        took_ms, found, before_s = [], [], seen.cpu_s()
        for one in several:
            connection = http.client.HTTPConnection(place.hostname or "", place.port)
            began_s = time.perf_counter()
            connection.request("GET", f"{place.path}api/search?{urlencode(one)}")
            answer = json.load(connection.getresponse())
            took_ms.append(1000 * (time.perf_counter() - began_s))
            found.append(answer["total"])
            connection.close()
        took_ms.sort()
        rows.append({
            "search": kind, "searches": len(took_ms), "found, median": int(statistics.median(found)),
            "CPU ms, mean": f"{1000 * (seen.cpu_s() - before_s) / len(took_ms):.0f}",
            "p50 ms": f"{statistics.median(took_ms):.0f}", "p95 ms": f"{took_ms[int(0.95 * (len(took_ms) - 1))]:.0f}",
            "slowest ms": f"{took_ms[-1]:.0f}",
        })  # fmt: skip
    return rows


def main() -> None:
    """Print index and search times; exit 1 if a kind of search has a p95 over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=30, help="of each kind")
    parser.add_argument("--keep", type=Path, help="make the traces and the index here and leave them")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        file, workspace = folder / f"traces-{given.traces}.parquet", folder / "workspace"
        if not file.exists():
            tables.write(file, traces(given.traces), Trace)
        with viewing(file, workspace) as first:
            cpu_s = first.cpu_s()
        size = sum(path.stat().st_size for path in (workspace / ".view").iterdir())
        print(
            f"{given.traces:,} traces, {file.stat().st_size / 1e6:,.0f} MB of Parquet: served after "
            f"{first.ready_s:.0f} s ({cpu_s:.0f} CPU seconds), peak {first.peak[0] / 2**30:.2f} GiB, "
            f"index {size / 1e6:,.0f} MB, load {os.getloadavg()[0]:.1f}"
        )
        with viewing(file, workspace) as again:
            rows = timed(again, searches(vocabulary(), given.searches))
            peak_gib, load = again.peak[0] / 2**30, os.getloadavg()[0]
            print(f"opened again after {again.ready_s:.1f} s; peak while searching {peak_gib:.2f} GiB, load {load:.1f}")
        table.show(rows)
        over = [str(row["search"]) for row in rows if float(str(row["p95 ms"])) > LIMIT_MS]
        if over:
            raise SystemExit(f"p95 over {LIMIT_MS:.0f} ms: {', '.join(over)}")


if __name__ == "__main__":
    main()
