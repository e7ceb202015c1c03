"""What a person asks to publish: an experiment that is as it ran, or a run folder, with settings from either place."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import experiment as experiments
from distill import pipeline
from distill.core import files, rundir
from distill.core.errors import ConfigError
from distill.publish import asked

TEXT = """\
name: toy
problems: {source: embedded, train: 4, dev: 1, test: 1}
arms:
  one: {}
  two: {publish: {repo: you/two}}
publish: {repo: you/one, private: true}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment and the run folder that it left."""
    path = tmp_path / "toy.yaml"
    path.write_text(TEXT)
    run = tmp_path / "runs" / "toy"
    files.write_json(run / "experiment.json", experiments.load(path, pipeline.SECTIONS).resolved())
    files.write_json(run / rundir.INDEX, {"name": "toy", "experiment": "toy.yaml", "arms": {}})
    return path


def test_experiment_and_run_folder_say_the_same(file: Path) -> None:
    workspace = file.parent / "runs"
    for what in (file, workspace / "toy"):
        run, config = asked.read(what, None, {}, (), workspace)
        assert run == workspace / "toy" and config.repo == "you/one" and config.private


def test_each_arm_has_its_own_and_the_command_line_wins(file: Path) -> None:
    workspace = file.parent / "runs"
    assert asked.read(file, "two", {}, (), workspace)[1].repo == "you/two"
    _, config = asked.read(file, "two", {"repo": "you/three", "private": False}, (), workspace)
    assert config.repo == "you/three" and not config.private
    _, config = asked.read(workspace / "toy", None, {}, ("publish.licence=mit",), workspace)
    assert config.licence == "mit" and config.repo == "you/one"


def test_without_a_section_the_command_line_gives_all(file: Path) -> None:
    workspace = file.parent / "runs"
    bare = TEXT.replace("publish: {repo: you/one, private: true}\n", "").replace("{publish: {repo: you/two}}", "{}")
    file.write_text(bare)
    _, config = asked.read(file, None, {"repo": "you/three"}, ("publish.dataset_repo=you/traces",), workspace)
    assert (config.repo, config.dataset_repo) == ("you/three", "you/traces")
    with pytest.raises(ConfigError, match="says not where to"):
        asked.read(file, None, {}, (), workspace)


def test_only_publish_may_have_changed_since_it_ran(file: Path) -> None:
    workspace = file.parent / "runs"
    file.write_text(TEXT.replace("private: true", "private: false"))
    assert not asked.read(file, None, {}, (), workspace)[1].private
    file.write_text(TEXT.replace("train: 4", "train: 5"))
    with pytest.raises(ConfigError, match="has changed since .* brings it up to date"):
        asked.read(file, None, {}, (), workspace)


def test_what_is_no_run_is_one_line(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        asked.read(tmp_path, None, {}, (), tmp_path)
    with pytest.raises(ConfigError, match="not a run folder"):
        asked.read(file, None, {}, (), tmp_path / "other")
    (tmp_path / "runs" / "toy" / "experiment.json").unlink()
    with pytest.raises(ConfigError, match=r"no experiment\.json"):
        asked.read(tmp_path / "runs" / "toy", None, {}, (), tmp_path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("{repo: noowner}", "owner/name"),
        ("{repo: you/x, dataset: you/y}", "no setting `dataset`"),
        ("{repo: you/x, what: [dataset]}", "dataset_repo"),
        ("{repo: you/x, what: [model, model]}", "twice"),
        ("{repo: you/x, what: []}", "what"),
        ("{}", "needs `repo`"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(tmp_path: Path, settings: str, told: str) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(f"name: toy\nproblems: {{source: embedded}}\npublish: {settings}\n")
    with pytest.raises(ConfigError, match=rf"toy\.yaml:3: .*{told}"):
        experiments.load(path, pipeline.SECTIONS)
