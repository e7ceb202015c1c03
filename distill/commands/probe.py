"""`distill probe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from distill.commands import shared


@click.command()
@shared.experiment_options
def command(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool) -> None:
    import importlib

    from distill.core.errors import ConfigError

    arms = [arm for arm in shared.runner(experiment, overrides, workspace).experiment.arms if "teacher" in arm.sections]
    if not arms:
        raise ConfigError(f"{experiment}: has no section `teacher:`")
    teachers: dict[str, Any] = {}
    for arm in arms:  # arms that ask the same teacher in the same way are probed once
        asked = {name: arm.sections[name].dump() for name in ("teacher", "sample") if name in arm.sections}
        teachers.setdefault(json.dumps(asked, sort_keys=True), arm.sections)
    for sections in teachers.values():
        report = importlib.import_module("teachers.probe").run(sections)
        shared.print_report(report.rows, report.summary, report.data, as_json)
