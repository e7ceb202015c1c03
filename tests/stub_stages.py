"""Small stages for tests of the pipeline: `source` writes a number, `double` doubles it, `noisy` uses the seed."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Annotated, Any

from distill.core import files
from distill.core.config import Settings, Unkeyed
from distill.core.stage import Report, StageRun
from distill.pipeline import Stage

RAN: list[str] = []


def _module(name: str, config: type[Settings], run: Any, version: int = 1) -> str:
    module = ModuleType(f"tests.stub_{name}")
    module.Config, module.run, module.VERSION = config, run, version  # type: ignore[attr-defined]  # a module made here
    sys.modules[module.__name__] = module
    return module.__name__


class Source(Settings):
    value: int = 1
    workers: Annotated[int, Unkeyed] = 1


class Double(Settings):
    times: int = 2


class Noisy(Settings):
    fail: bool = False


def _source(stage: StageRun) -> Report:
    RAN.append("source")
    config = stage.sections["source"]
    assert isinstance(config, Source)
    files.write_json(stage.out / "value.json", config.value % 10)
    return Report(summary=f"value {config.value}", data={"value": config.value})


def _double(stage: StageRun) -> Report:
    RAN.append("double")
    config = stage.sections["double"]
    assert isinstance(config, Double)
    value = files.read_json(stage.inputs["source"] / "value.json") * config.times
    files.write_json(stage.out / "deep" / "value.json", value)
    files.write_json(stage.out / "timing.json", {"seconds": len(RAN)})
    return Report(summary=f"doubled to {value}", missed="too small" if value < 0 else None)


def _noisy(stage: StageRun) -> Report:
    RAN.append(f"noisy-{stage.seed}")
    config = stage.sections["noisy"]
    assert isinstance(config, Noisy)
    (stage.work / "scratch").write_text("kept until done")
    if config.fail:
        raise RuntimeError("failed in the middle")
    files.write_json(stage.out / "value.json", stage.seed)
    return Report(summary=f"noise {stage.seed}")


STAGES = (
    Stage("source", _module("source", Source, _source), ("source",)),
    Stage("double", _module("double", Double, _double), ("double",), ("source",)),
    Stage("noisy", _module("noisy", Noisy, _noisy), ("noisy",), ("double",), seeded=True),
)
SECTIONS = {stage.name: f"{stage.module}:Config" for stage in STAGES}
