"""Workers: limits hold whatever an item does, the pool stays whole, and the caller's own timers still fire."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.core.workers import INHERITED, Limits, Workers


def work(item: dict[str, Any]) -> Any:
    """What the workers of these tests run."""
    match item["do"]:
        case "double":
            return 2 * item["n"]
        case "spin":
            while True:
                pass
        case "sleep":
            time.sleep(60)
        case "factorial":
            import math

            return math.factorial(10**8)  # one C call: no Python signal handler would ever run
        case "eat":
            return len(bytearray(4 << 30))
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise ValueError(item)
        case "shout":
            for _ in range(10_000):
                os.write(1, b"x" * 10_000)
            return "said"
        case "environment":
            return dict(os.environ)
        case "blurt":
            return "x" * (2 << 20)
        case "write":
            with Path(item["path"]).open("w") as file:
                file.write("made by a worker")
                file.flush()
            return "written"
    return None


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    workers = Workers("tests.core.test_workers:work", count=2, limits=Limits(cpu_s=0.3, wall_s=5.0, memory_mib=768))
    yield workers
    workers.close()


def test_starts_nothing_before_the_first_item():
    assert Workers("tests.core.test_workers:work").alive == 0


def test_answers_in_order(pool: Workers):
    outcomes = pool.map([{"do": "double", "n": n} for n in range(50)])

    assert [outcome.value for outcome in outcomes] == list(range(0, 100, 2))


@pytest.mark.parametrize(
    ("do", "reason"),
    [
        ("spin", "took over 0.3 s of CPU time"),
        ("factorial", "took over 0.3 s of CPU time"),
        ("sleep", "gave no answer within 5 s"),
        ("eat", "needed over 768 MiB of memory"),
        ("raise", "raised ValueError"),
        ("blurt", "answered with over 1,048,576 bytes"),
        ("die", f"killed its worker (exit status -{signal.SIGKILL:d})"),
    ],
)
def test_a_bad_item_is_named_and_the_next_ones_are_right(pool: Workers, do: str, reason: str):
    items = [{"do": "double", "n": 1}, {"do": do}, {"do": "double", "n": 2}, {"do": "double", "n": 3}]

    outcomes = pool.map(items)

    assert outcomes[1].failure == reason
    assert [outcome.value for outcome in outcomes] == [2, None, 4, 6]
    assert pool.alive == 2


def test_output_of_an_item_leads_nowhere(pool: Workers):
    assert pool.map([{"do": "shout"}])[0].value == "said"


def test_a_worker_sees_no_key_of_its_caller(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    workers = Workers("tests.core.test_workers:work", count=1)

    seen = workers.map([{"do": "environment"}])[0].value

    workers.close()
    assert "secret" not in seen.values()
    assert set(seen) <= {*INHERITED, "PYTHONPATH", "OMP_NUM_THREADS", "PYTHONHASHSEED"}


def test_an_item_can_write_no_file(pool: Workers, tmp_path: Path):
    outcome = pool.map([{"do": "write", "path": str(tmp_path / "made")}])[0]

    assert outcome.failure == "raised OSError"
    assert not (tmp_path / "made").exists() or (tmp_path / "made").stat().st_size == 0


def test_the_callers_timer_still_fires(pool: Workers):
    fired = []
    before = signal.signal(signal.SIGALRM, lambda *_: fired.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        pool.map([{"do": "spin"}, {"do": "double", "n": 1}])
        time.sleep(0.6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert len(fired) == 1


def test_a_function_that_is_not_there_is_a_fault_of_ours():
    with pytest.raises(RuntimeError, match="cannot run tests.core.test_workers:missing"):
        Workers("tests.core.test_workers:missing").map([1])


def test_starts_again_after_close(pool: Workers):
    pool.close()

    assert pool.alive == 0
    assert pool.map([{"do": "double", "n": 4}])[0].value == 8
