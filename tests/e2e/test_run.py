"""`distill run` from an experiment file to a report, and what happens the second time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e import small
from tests.e2e.small import STAGES


def test_every_stage_is_done_and_the_answer_is_a_table(finished: Path) -> None:
    assert [name.rpartition("-")[0] for name in small.manifests(finished)] == sorted(STAGES)
    out = (finished / "first.out").read_text()
    for word in ("base", "student", "q8_0"):
        assert word in out
    report = (finished / "runs" / "small" / "report.html").read_text()
    assert report.startswith("<!doctype html>") or report.startswith("<!DOCTYPE html>")


def test_a_second_run_does_nothing_and_says_so(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("manifest.json")}
    done = small.run(finished, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert "nothing was run" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("manifest.json")} == before


def test_the_result_as_json(finished: Path) -> None:
    done = small.run(finished, "run", "small.yaml", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_one_stage_alone_says_where_its_result_is(finished: Path) -> None:
    done = small.run(finished, "filter", "small.yaml")
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout
    assert "runs/small/filter-" in done.stderr
    assert '"train"' in (finished / "runs" / "small" / "run.json").read_text()  # what comes after it is still known


@pytest.mark.parametrize("words", [("run", "small.yaml"), ("filter", "small.yaml"), ("run", "--help"), ("--help",)])
def test_a_closed_pipe_ends_quietly(finished: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # the reader is gone before the first byte, so every write of ours fails
    done = subprocess.run(
        small.command(*words), cwd=finished, env=small.environment(), stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_no_path_of_this_machine_and_no_secret_in_any_manifest(finished: Path) -> None:
    for path in (finished / "runs" / "small").glob("*/manifest.json"):
        assert str(finished) not in path.read_text(), path
    for name in ("adapter_config.json", "config.json", "tokenizer_config.json"):
        for path in (finished / "runs" / "small").rglob(name):
            assert str(finished) not in path.read_text(), path


def test_ctrl_c_leaves_a_run_that_goes_on_and_ends_with_the_same_tables(finished: Path, tmp_path: Path) -> None:
    small.prepare(tmp_path)
    process = subprocess.Popen(
        small.command("run", "small.yaml"),
        cwd=tmp_path, env=small.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )  # fmt: skip
    deadline_s = time.monotonic() + 120
    while not list((tmp_path / "runs" / "small").glob("train-*/work/*")):
        assert time.monotonic() < deadline_s
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped" in err
    assert "Traceback" not in err

    done = small.run(tmp_path, "run", "small.yaml")

    assert done.returncode == 0, done.stderr
    assert "sample    already done" in done.stderr
    assert small.contents(tmp_path, STAGES) == small.contents(finished, STAGES)
