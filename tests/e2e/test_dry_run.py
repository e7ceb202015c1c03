"""`distill train --dry-run` and `distill pair`, as a person types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.e2e import small
from tests.tiny import make_tiny_model


@pytest.fixture
def run_folder(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_page_and_three_samples(run_folder: Path) -> None:
    done = small.run(run_folder, "train", "small.yaml", "--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("data contract", "trained tokens", "the student's own", "KL possible", "keep the contract"):
        assert words in done.stdout
    assert done.stdout.count(">>>") == 4 and "\x1b" not in done.stdout  # three samples, and what the marks mean
    kept = next((run_folder / "runs" / "small").glob("train-*/contract.json"))
    told = json.loads(small.run(run_folder, "train", "small.yaml", "--dry-run", "--json").stdout)["counts"]
    assert len(told.pop("samples")) == 3
    assert told == json.loads(kept.read_text())


def test_it_says_which_command_to_run_first_and_runs_nothing(tmp_path: Path) -> None:
    small.prepare(tmp_path)
    done = small.run(tmp_path, "train", "small.yaml", "--dry-run")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "run `distill problems small.yaml` first" in done.stderr
    assert not list((tmp_path / "runs").rglob("manifest.json"))


def test_a_pair_that_cannot_be_matched_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "other", layers=1)
    small.prepare(tmp_path, small.EXPERIMENT.replace("student: {model: embedded,", f"student: {{model: {model},"))
    for command in ("run", "sample"):
        done = small.run(tmp_path, command, "small.yaml")
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("distill: small.yaml:") and done.stderr.count("\n") == 1
        assert "SFT only, because" in done.stderr and "set `loss: none`" in done.stderr
    assert not list((tmp_path / "runs").rglob("manifest.json"))


def test_pair(tmp_path: Path) -> None:
    one, other = (
        make_tiny_model(tmp_path / "one", layers=1),
        make_tiny_model(tmp_path / "other", padded_vocab=400, layers=1),
    )
    (one / "model.safetensors").unlink()
    told = small.run(tmp_path, "pair", str(one), str(other))
    assert told.returncode == 0 and "KL possible\n" in told.stdout and "padding" in told.stdout
    as_json = json.loads(small.run(tmp_path, "pair", str(one), str(other), "--json").stdout)
    assert as_json["counts"]["kl_possible"] is True
    missing = small.run(tmp_path, "pair", str(tmp_path), str(other))
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1 and "no tokenizer.json" in missing.stderr
