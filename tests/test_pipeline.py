"""Stages run once, when missing or stale, and only those."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill import experiment as experiments
from distill.core import rundir
from distill.core.errors import Busy, ConfigError
from distill.core.stage import Workspace
from distill.pipeline import Runner
from tests.stub_stages import RAN, SECTIONS, STAGES


@pytest.fixture(autouse=True)
def _forget() -> None:
    RAN.clear()


def runner(tmp_path: Path, text: str, *overrides: str) -> Runner:
    file = tmp_path / "toy.yaml"
    file.write_text(text)
    loaded = experiments.load(file, SECTIONS, overrides)
    return Runner(loaded, Workspace(tmp_path / "runs"), STAGES)


WHOLE = "source: {value: 3}\ndouble: {}\nnoisy: {}\n"


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    assert RAN == ["source", "double", "noisy-0"]

    done = list(runner(tmp_path, WHOLE).run())

    assert RAN == ["source", "double", "noisy-0"]
    assert not any(item.ran for item in done)


def test_a_changed_setting_runs_the_stages_after_it_and_no_other(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    RAN.clear()
    list(runner(tmp_path, WHOLE, "double.times=5").run())
    assert RAN == ["double", "noisy-0"]
    RAN.clear()
    list(runner(tmp_path, WHOLE).run())  # and back: nothing was lost
    assert RAN == []


def test_equal_outputs_stop_the_staleness(tmp_path: Path) -> None:
    """13 and 3 write the same file, so what comes after is not stale: keys hash contents, not how they came about."""
    list(runner(tmp_path, WHOLE).run())
    RAN.clear()
    list(runner(tmp_path, WHOLE, "source.value=13").run())
    assert RAN == ["source"]


def test_settings_that_cannot_change_a_result_make_nothing_stale(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    RAN.clear()
    list(runner(tmp_path, WHOLE, "source.workers=8").run())
    assert RAN == []


def test_a_raised_version_makes_a_stage_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(runner(tmp_path, WHOLE).run())
    RAN.clear()
    monkeypatch.setattr(STAGES[1].load(), "VERSION", 2)
    list(runner(tmp_path, WHOLE).run())
    assert RAN == ["double"]  # it writes the same again, so `noisy` stands


def test_arms_share_what_is_equal_and_seeds_repeat_what_is_seeded(tmp_path: Path) -> None:
    text = WHOLE + "seeds: [0, 1]\narms: {plain: {}, tripled: {double: {times: 3}}}\n"
    list(runner(tmp_path, text).run())
    assert RAN == ["source", "double", "noisy-0", "noisy-1", "double", "noisy-0", "noisy-1"]

    index = rundir.read_index(tmp_path / "runs" / "toy")

    assert set(index["arms"]) == {"plain", "tripled"}
    assert set(index["arms"]["plain"]) == {"0", "1"}
    plain, tripled = index["arms"]["plain"]["0"], index["arms"]["tripled"]["1"]
    assert plain["source"]["folder"] == tripled["source"]["folder"]
    assert plain["double"]["folder"] != tripled["double"]["folder"]


def test_a_failed_stage_is_not_done_and_keeps_its_scratch(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the middle"):
        list(runner(tmp_path, WHOLE, "noisy.fail=true").run())
    (folder,) = (tmp_path / "runs" / "toy").glob("noisy-*")
    assert not (folder / rundir.MANIFEST).exists()
    assert (folder / "work" / "scratch").exists()


def test_the_scratch_goes_when_the_stage_is_done(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    (folder,) = (tmp_path / "runs" / "toy").glob("noisy-*")
    assert not (folder / "work").exists()


def test_a_stage_whose_output_vanished_or_shrank_runs_again(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    RAN.clear()
    (output,) = (tmp_path / "runs" / "toy").glob("double-*/deep/value.json")
    output.write_text("")
    list(runner(tmp_path, WHOLE).run())
    assert RAN == ["double"]


def test_clock_figures_are_no_part_of_the_content(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    (manifest,) = (tmp_path / "runs" / "toy").glob("double-*/manifest.json")
    before = json.loads(manifest.read_text())
    manifest.unlink()
    RAN.extend(["-"] * 5)
    list(runner(tmp_path, WHOLE).run())
    after = json.loads(manifest.read_text())
    assert before["files"]["timing.json"] != after["files"]["timing.json"]
    assert before["content"] == after["content"]


def test_one_stage_runs_alone_only_when_those_before_it_are_done(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage `source` is not done.*distill source"):
        list(runner(tmp_path, WHOLE).run(until="double"))
    list(runner(tmp_path, WHOLE).run(until="source"))
    list(runner(tmp_path, WHOLE).run(until="double"))
    assert RAN == ["source", "double"]


def test_a_second_process_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    first = runner(tmp_path, WHOLE)
    done = next(iter(first.run(until="source")))
    (done.folder / rundir.MANIFEST).unlink()
    key = done.manifest.data["key"]
    with rundir.locked(first.folder, "source", key), pytest.raises(Busy, match="being written by another process"):
        list(runner(tmp_path, WHOLE).run())
    list(runner(tmp_path, WHOLE).run())


def test_a_missing_section_names_who_needs_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stage `double` needs the section `source:`"):
        runner(tmp_path, "double: {}\n")
    with pytest.raises(ConfigError, match="no stage to run"):
        runner(tmp_path, "name: empty\n")


def test_the_resolved_experiment_is_written_with_every_default(tmp_path: Path) -> None:
    list(runner(tmp_path, WHOLE).run())
    resolved = json.loads((tmp_path / "runs" / "toy" / "experiment.json").read_text())
    assert resolved["arms"]["main"]["source"] == {"value": 3, "workers": 1}
    assert resolved["seeds"] == [0]
