"""`distill sample`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from distill.commands import shared

if TYPE_CHECKING:
    from distill.pipeline import Runner


@click.command()
@shared.experiment_options
@click.option("--dry-run", is_flag=True, help="Say what would be bought and what it may cost; buy nothing.")
@click.option(
    "--escalate", type=click.IntRange(min=1), metavar="LIMIT",
    help="Try answers that were cut again, with limits doubling up to LIMIT tokens: `sample.escalate_to`.",
)  # fmt: skip
def command(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, dry_run: bool, escalate: int | None
) -> None:
    if escalate is not None:
        overrides = (*overrides, f"sample.escalate_to={escalate}")
    runner = shared.runner(experiment, overrides, workspace)
    shared.refuse_pairs(runner)
    if dry_run:
        _dry_run(runner, experiment, as_json)
        return
    shared.run_stage("sample", experiment, overrides, workspace, as_json)
    if escalate is not None:
        click.echo(f"set `escalate_to: {escalate}` in the file too: the later stages then read these answers", err=True)


def _dry_run(runner: Runner, experiment: Path, as_json: bool) -> None:
    import importlib

    from distill.core.errors import ConfigError

    if not runner.has("sample"):
        raise ConfigError(f"{experiment}: has no section `sample:`")
    for planned in runner.planned("sample"):
        report = importlib.import_module("teachers.sample").estimate(planned)  # by name, as stages are
        shared.print_report(report.rows, report.summary, report.data, as_json)
