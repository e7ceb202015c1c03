"""Files that are whole or absent, and what killed processes leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill.core import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"a": float("nan")})
    with pytest.raises(ZeroDivisionError), files.atomic(path) as partial:
        partial.write_text(str(1 / 0))
    assert files.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_what_dead_processes_left_goes_and_what_living_ones_write_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = tmp_path / f".a.partial-{ended.pid}", tmp_path / f".b.partial-{os.getppid()}"
    own, folder = tmp_path / f".c.partial-{os.getpid()}", tmp_path / f".d.partial-{ended.pid}"
    for path in (dead, alive, own, folder / "e"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")

    files.remove_partials(tmp_path)

    assert list(tmp_path.iterdir()) == [alive]


def test_a_crash_point_must_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    files.crash_point("nowhere")  # without the environment nothing is looked at
    monkeypatch.setenv("DISTILL_CRASH_AT", "manifest.written")
    files.crash_point("file.before-sync")
    with pytest.raises(ValueError, match="not listed"):
        files.crash_point("nowhere")
