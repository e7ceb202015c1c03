"""`distill evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@shared.experiment_options
@click.option("--dry-run", is_flag=True, help="Say what would be bought, at what cost, and what it could show.")
def command(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, dry_run: bool) -> None:
    if not dry_run:
        shared.run_stage("evaluate", experiment, overrides, workspace, as_json)
        return
    from distill.core.errors import ConfigError
    from distill.evaluate import stage

    runner = shared.runner(experiment, overrides, workspace)
    if not runner.has("evaluate"):
        raise ConfigError(f"{experiment}: has no section `evaluate:`")
    for planned in runner.planned("evaluate"):
        report = stage.estimate(planned)
        shared.print_report(report.rows, report.summary, report.data, as_json)
