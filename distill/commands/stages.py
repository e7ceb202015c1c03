"""The commands of stages that only run their stage."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


def command(name: str) -> click.Command:
    """The command of the stage `name`."""

    @click.command()
    @shared.experiment_options
    def run(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool) -> None:
        shared.run_stage(name, experiment, overrides, workspace, as_json)

    return run
