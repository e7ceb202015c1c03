"""`kill -9` at every write point and at random moments: run again, and nothing is lost, torn or paid twice.

The points are those of `distill.core.files.CRASH_POINTS`. A few run in the suite; all of them, and 20 random moments,
under `make accept`.
"""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from distill.core.files import CRASH_POINTS
from tests.e2e import small
from tests.e2e.small import STAGES

QUICK = ("ledger.after-commit:3", "checkpoint.half-written")
RANDOM_MOMENTS = 20


def paid(folder: Path) -> int:
    """Attempts that ended with an answer."""
    with sqlite3.connect(folder / "runs" / "ledger.sqlite") as connection:
        (count,) = connection.execute("SELECT COUNT(*) FROM attempt WHERE state = 'done'").fetchone()
    return int(count)


def hold_after_a_kill(folder: Path, finished: Path) -> None:
    """The next run ends well, with the tables of the uninterrupted one; nothing is torn or left over."""
    answers = paid(finished)
    done = small.run(folder, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert small.contents(folder, STAGES) == small.contents(finished, STAGES)
    assert paid(folder) == answers  # each answer ended once, whatever was asked again
    with sqlite3.connect(folder / "runs" / "ledger.sqlite") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT COUNT(*), COUNT(DISTINCT key) FROM sample").fetchone() == (answers, answers)
    left = [path for path in (folder / "runs" / "small").rglob("*") if ".partial-" in path.name]
    assert left == []


def killed_at(folder: Path, point: str) -> int:
    """Run until the named write point kills it; how often it had passed there is the point's own count."""
    small.prepare(folder)
    return small.run(folder, "run", "small.yaml", env={"DISTILL_CRASH_AT": point}).returncode


@pytest.mark.parametrize("point", QUICK)
def test_a_kill_at_a_write_point(point: str, tmp_path: Path, finished: Path) -> None:
    assert killed_at(tmp_path, point) == -signal.SIGKILL
    hold_after_a_kill(tmp_path, finished)


@pytest.mark.slow
@pytest.mark.parametrize("passing", [1, 3])
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_kill_at_every_write_point(point: str, passing: int, tmp_path: Path, finished: Path) -> None:
    code = killed_at(tmp_path, f"{point}:{passing}")
    if passing == 1:
        assert code == -signal.SIGKILL, f"nothing passes {point}"
    hold_after_a_kill(tmp_path, finished)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(RANDOM_MOMENTS))
def test_a_kill_at_a_random_moment(moment: int, tmp_path: Path, finished: Path) -> None:
    seconds = float((finished / "first.seconds").read_text())
    small.prepare(tmp_path)
    process = subprocess.Popen(
        small.command("run", "small.yaml"),
        cwd=tmp_path, env=small.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(random.Random(moment).uniform(0.05, 1.0) * seconds)
    process.kill()
    process.wait()
    hold_after_a_kill(tmp_path, finished)
