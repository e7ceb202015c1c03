"""`distill run`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@shared.experiment_options
@shared.launch_option
def command(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, launch: str | None) -> None:
    _alone("distill run")
    runner = shared.runner(experiment, overrides, workspace, launch)
    shared.refuse_pairs(runner)
    done = list(runner.run())
    from distill.report import final

    if not any(item.ran for item in done):
        click.echo(f"{runner.folder}: everything is done already; nothing was run", err=True)
    final.write(runner.folder)
    final.show(runner.folder, as_json=as_json)
    shared.end_with_missed(item.manifest for item in done)


def _alone(command: str) -> None:
    """Refuse to be one of several processes: only training has use for them."""
    import importlib

    from distill.core.errors import ConfigError

    if (count := importlib.import_module("students.processes").here().count) > 1:
        raise ConfigError(f"`{command}` is started once, not as {count} processes; add `--launch {count}` instead")
