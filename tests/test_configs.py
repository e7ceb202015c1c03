"""Every experiment in configs/ loads, and so does what `distill init` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill import experiment as experiments
from distill import init, pipeline
from distill.core.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if path.parent.name != "accelerate")  # those are accelerate's


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_its_stages_fit_together(path: Path) -> None:
    experiment = experiments.load(path, pipeline.SECTIONS)
    assert experiment.name == path.stem
    for arm in experiment.arms:
        assert pipeline.stages_of(arm, str(path))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_resolved_loads_again_as_the_same(path: Path, tmp_path: Path) -> None:
    experiment = experiments.load(path, pipeline.SECTIONS)
    resolved = experiment.resolved()
    for arm in experiment.arms:
        again = tmp_path / f"{arm.name}.yaml"
        again.write_text(json.dumps({"name": experiment.name, **resolved["arms"][arm.name]}))
        (loaded,) = experiments.load(again, pipeline.SECTIONS).arms
        assert loaded.sections == arm.sections


def test_init_writes_a_file_that_loads_and_never_overwrites(tmp_path: Path) -> None:
    written = init.write(tmp_path, pipeline.SECTIONS)

    assert [path.name for path in written] == ["experiment.yaml", "experiment.schema.json"]
    assert experiments.load(tmp_path / "experiment.yaml", pipeline.SECTIONS).name == "experiment"
    with pytest.raises(ConfigError, match="overwrites nothing"):
        init.write(tmp_path, pipeline.SECTIONS)


def test_the_schema_knows_every_section_and_describes_its_settings() -> None:
    schema = init.schema(pipeline.SECTIONS)
    assert set(pipeline.SECTIONS) < set(schema["properties"])
    train = schema["properties"]["train"]["properties"]
    assert all("description" in about for about in train.values()), train
