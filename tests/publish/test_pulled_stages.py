"""Stages of a pulled run: done without their files, filled from their source when needed, or one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import experiment as experiments
from distill.core import files, rundir
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.stage import Report, StageRun, Workspace
from distill.pipeline import Runner, Stage
from tests.stub_stages import RAN, _module
from tests.stub_stages import STAGES as STUB_STAGES

WHOLE = "source: {value: 3}\ndouble: {}\nnoisy: {}\n"


class Reader(Settings):
    fault: str = ""


def _read(stage: StageRun) -> Report:
    config = stage.sections["reader"]
    assert isinstance(config, Reader)
    if config.fault:
        raise DistillError(config.fault.replace("DOUBLE", str(stage.inputs["double"])))
    return Report(summary=str(files.read_json(stage.inputs["double"] / "deep" / "value.json")))


STAGES = (*STUB_STAGES, Stage("reader", _module("reader", Reader, _read), ("reader",), ("double",)))
SECTIONS = {stage.name: f"{stage.module}:Config" for stage in STAGES}


@pytest.fixture(autouse=True)
def _forget() -> None:
    RAN.clear()


def runner(tmp_path: Path, *overrides: str, text: str = WHOLE) -> Runner:
    file = tmp_path / "toy.yaml"
    file.write_text(text)
    return Runner(experiments.load(file, SECTIONS, overrides), Workspace(tmp_path / "runs"), STAGES)


def stage(tmp_path: Path, name: str) -> Path:
    return next((tmp_path / "runs" / "toy").glob(f"{name}-*"))


def unpublish(folder: Path, *names: str) -> None:
    """Make a stage what a pull leaves of it."""
    for name in names:
        (folder / name).unlink()
        if (folder / name).parent != folder:
            (folder / name).parent.rmdir()
    files.write_json(folder / rundir.ABSENT, sorted(names))


@pytest.fixture
def pulled(tmp_path: Path) -> Path:
    """A run whose first two stages have no files, and whose last is not there."""
    list(runner(tmp_path).run())
    unpublish(stage(tmp_path, "source"), "value.json")
    unpublish(stage(tmp_path, "double"), "deep/value.json", "timing.json")
    RAN.clear()
    return tmp_path


def test_known_by_their_hashes_they_are_done(pulled: Path) -> None:
    assert not [done for done in runner(pulled).run() if done.ran]
    assert RAN == []


def test_a_stage_that_reads_only_its_source_is_filled_when_it_is_needed(pulled: Path) -> None:
    done = list(runner(pulled, "double.times=5").run())

    assert RAN == ["source", "double", "noisy-0"]
    assert [item.stage.name for item in done if item.ran] == ["double", "noisy"]
    source = stage(pulled, "source")
    assert (source / "value.json").exists() and not (source / "work").exists()
    assert rundir.absent(source) == frozenset()


def test_what_its_source_gives_now_must_be_what_was_published(pulled: Path) -> None:
    source = stage(pulled, "source")
    manifest = files.read_json(source / rundir.MANIFEST)
    manifest["files"]["value.json"]["sha256"] = "0" * 64
    files.write_json(source / rundir.MANIFEST, manifest)

    with pytest.raises(DistillError, match="made again from its source, it is not what was published"):
        list(runner(pulled, "double.times=5").run())

    assert not (source / "value.json").exists()


READ = WHOLE + "reader: {}\n"


def test_a_file_that_nobody_can_make_again_is_one_clear_line(pulled: Path) -> None:
    with pytest.raises(DistillError, match=r"reader: needs double-\w+/deep/value.json, which was not") as told:
        list(runner(pulled, text=READ).run())
    assert "\n" not in str(told.value)


def test_a_stages_own_words_for_a_missing_file_are_made_clear_too(pulled: Path) -> None:
    """As when a model's folder is not there, for which `resolve` has a line of its own."""
    with pytest.raises(DistillError, match="which was not published"):
        list(runner(pulled, "reader.fault=no such folder DOUBLE/deep", text=READ).run())


@pytest.mark.parametrize("fault", ["something else", "DOUBLE is odd"])
def test_other_faults_keep_their_own_words(pulled: Path, fault: str) -> None:
    with pytest.raises(DistillError) as told:
        list(runner(pulled, f"reader.fault={fault}", text=READ).run())
    assert "was not published" not in str(told.value)


def test_a_stage_that_lost_a_published_file_is_not_done(pulled: Path) -> None:
    double = stage(pulled, "double")
    files.write_json(double / rundir.ABSENT, ["timing.json"])
    key = files.read_json(double / rundir.MANIFEST)["key"]
    assert rundir.finished(double, key) is None


def test_run_anew_it_is_absent_no_more(pulled: Path) -> None:
    double = stage(pulled, "double")
    (double / rundir.MANIFEST).unlink()
    list(runner(pulled).run())
    assert rundir.absent(double) == frozenset()
    assert not (double / rundir.ABSENT).exists()
