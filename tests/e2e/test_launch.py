"""`distill train --launch 2` on the embedded student: what one process trains, apart from rounding."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from distill.core.files import read_json
from tests.e2e import small


def without_student(finished: Path, folder: Path) -> Path:
    """The finished run up to its traces."""
    shutil.copytree(finished, folder, dirs_exist_ok=True)
    for stage in ("train", "evaluate", "export"):
        for left in (folder / "runs" / "small").glob(f"{stage}-*"):
            shutil.rmtree(left)
    return folder


def started(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a launcher in `folder` to its end."""
    return subprocess.run(words, cwd=folder, env=small.environment(), capture_output=True, text=True, check=False)


def student(folder: Path) -> Path:
    (found,) = (folder / "runs" / "small").glob("train-*")
    return found


def test_two_processes_train_the_student_that_one_trains(tmp_path: Path, finished: Path) -> None:
    """14 rows in steps of 8: the last step of each epoch has fewer. A second run has nothing to do."""
    folder = without_student(finished, tmp_path)
    done = small.run(folder, "train", "small.yaml", "--launch", "2")
    assert done.returncode == 0, done.stderr
    assert "train     starts 2 processes with DDP" in done.stderr
    assert done.stderr.count("trained tokens") == 1  # one speaks
    assert done.stdout.startswith("train: ") and done.stdout.count("\n") == 1

    one, two = student(finished), student(folder)
    assert one.name == two.name  # the number of processes is no part of the key
    mine, theirs = (load_file(stage / "student" / "model.safetensors") for stage in (one, two))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-6
    for before, after in zip(read_json(one / "history.json"), read_json(two / "history.json"), strict=True):
        assert after == pytest.approx(before, rel=1e-5)
    assert read_json(two / "timing.json")["processes"] == 2
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}

    again = small.run(folder, "train", "small.yaml", "--launch", "2")
    assert again.returncode == 0
    assert "train     already done" in again.stderr and "starts" not in again.stderr


@pytest.mark.slow
def test_processes_that_torchrun_started_train_it_too(tmp_path: Path, finished: Path) -> None:
    """`torchrun -m distill train`, as on several machines: the first process writes, the second only trains along."""
    folder = without_student(finished, tmp_path)
    words = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29731", "-m", "distill")
    done = started(folder, [sys.executable, *words, "train", "small.yaml"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train: ") == 1
    mine, theirs = (load_file(student(run) / "student" / "model.safetensors") for run in (finished, folder))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-6

    refused = started(folder, [sys.executable, *words, "run", "small.yaml"])
    assert refused.returncode != 0
    assert "`distill run` is started once" in refused.stderr


@pytest.mark.slow
def test_a_launcher_that_falls_back_in_silence_is_refused(tmp_path: Path, finished: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process."""
    folder = without_student(finished, tmp_path)
    words = (
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "distill",
        "train",
        "small.yaml",
    )
    done = started(folder, [sys.executable, *words])
    assert done.returncode != 0
    assert "accelerate was to form several processes with DDP, but formed one process" in done.stderr
