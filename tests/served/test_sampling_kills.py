"""`kill -9` while a teacher is asked: run again, and every answer is there once, at most those in flight paid twice.

The server outlives the killed processes and counts. A few kills run in the suite; 10,000 samples with every fault at
once, and 50 kills among them, under `make accept`.
"""

from __future__ import annotations

import bisect
import itertools
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.served.fault_server import ODDITIES
from tests.served.process import FaultServer
from tests.served.runs import Run, kill, whole
from tests.served.test_faults import PATIENT, every_fault

CONCURRENCY = 64
PLAN = {"delay_s": (0.0, 0.15), "usage": 0.5, "retry_after_s": 0.2, "slow_s": 0.3, "in_a_row": 4}


def test_a_few_kills(server: FaultServer, tmp_path: Path) -> None:
    lost = kills(server, tmp_path, questions=75, n=4, times=3, share=0.3)
    assert max(lost, default=0) <= CONCURRENCY


def test_the_work_of_a_killed_process_is_taken_over(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("taken-over", delay_s=(0.1, 0.3))
    runs = [
        Run(tmp_path, url, questions=60, n=5, name=name, engine={"concurrency": 16}).prepare()
        for name in ("first", "second")
    ]
    processes = [run.start() for run in runs]
    wait_for_calls(server, "taken-over", 60, processes)

    kill(processes[0])
    _, stderr = processes[1].communicate(timeout=60)

    assert processes[1].returncode == 0, stderr
    whole(runs[1])
    assert server.stats("taken-over")["paid_twice"] <= 16


@pytest.mark.slow
def test_ten_thousand_samples_through_every_fault(server: FaultServer, tmp_path: Path) -> None:
    began_s = time.monotonic()
    url = server.plan("many", faults=every_fault(0.3), **PLAN)
    run = Run(tmp_path / "faults", url, questions=2500, n=4, engine=PATIENT | {"concurrency": CONCURRENCY}).prepare()

    done = run.distill()

    assert done.code == 0, done.stderr
    whole(run)
    stats = server.stats("many")
    assert (stats["answered"], stats["paid_twice"]) == (10_000, 0)
    assert len(stats["kinds"]) > 30
    assert run.parquet == undisturbed(server, tmp_path, 2500, 4)
    print(f"\n10,000 samples in {stats['calls']:,} calls, {time.monotonic() - began_s:.0f} s: {stats['kinds']}")


@pytest.mark.slow
def test_fifty_kills(server: FaultServer, tmp_path: Path) -> None:
    began_s = time.monotonic()
    lost = kills(server, tmp_path, questions=2500, n=4, times=50, share=0.3)
    print(f"\n50 kills in {time.monotonic() - began_s:.0f} s; paid twice at each, sorted: {sorted(lost)}")
    assert max(lost) <= CONCURRENCY


def undisturbed(server: FaultServer, folder: Path, questions: int, n: int) -> bytes:
    """The Parquet file of a run without faults or kills."""
    url = server.plan("undisturbed", usage=PLAN["usage"])
    run = Run(folder / "undisturbed", url, questions=questions, n=n).prepare()
    done = run.distill()
    assert done.code == 0, done.stderr
    whole(run)
    return run.parquet


def kills(server: FaultServer, folder: Path, *, questions: int, n: int, times: int, share: float) -> list[int]:
    """Sample with so many kills, check what is left, and give how many answers were paid twice at each kill."""
    rng = random.Random(times)
    name = f"kills-{times}"
    url = server.plan(name, faults=every_fault(share), **PLAN)
    run = Run(folder / name, url, questions=questions, n=n, engine=PATIENT | {"concurrency": CONCURRENCY}).prepare()
    killed_s: list[float] = []
    while len(killed_s) < times:
        process = run.start()
        if rng.random() < 0.2:
            time.sleep(rng.uniform(0.1, 3.0))  # also while it starts
        else:
            calls = server.stats(name)["calls"] + rng.randrange(1, 2 * questions * n // times)
            wait_for_calls(server, name, calls, [process])
            time.sleep(rng.uniform(0.0, 0.05))
        kill(process)
        killed_s.append(time.monotonic())
    done = run.distill()
    assert done.code == 0, done.stderr
    whole(run)
    assert run.parquet == undisturbed(server, folder, questions, n)
    assert run.ledger("PRAGMA integrity_check") == [("ok",)]
    return paid_twice(server, name, killed_s)


def wait_for_calls(server: FaultServer, name: str, calls: int, processes: list[subprocess.Popen[str]]) -> None:
    """Wait until an endpoint saw so many calls, or all processes ended."""
    end_s = time.monotonic() + 60
    while server.stats(name)["calls"] < calls and any(process.poll() is None for process in processes):
        assert time.monotonic() < end_s, "the run never got so far"
        time.sleep(0.02)


def paid_twice(server: FaultServer, name: str, killed_s: list[float]) -> list[int]:
    """Good answers that were asked for again after each kill, by the server's own count."""
    good_s: dict[str, list[float]] = {}
    for at_s, key, kind in server.stats(name, full=True)["log"]:
        if kind == "good" or kind in ODDITIES:
            good_s.setdefault(key, []).append(at_s)
    lost: Counter[int] = Counter()
    for times_s in good_s.values():
        for earlier_s, later_s in itertools.pairwise(times_s):
            kill_number = bisect.bisect(killed_s, earlier_s)
            assert kill_number < len(killed_s) and killed_s[kill_number] < later_s, "paid twice without a kill between"
            lost[kill_number] += 1
    return [lost[number] for number in range(len(killed_s))]
