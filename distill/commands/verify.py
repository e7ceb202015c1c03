"""`distill verify`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@shared.experiment_options
@click.option("--regrade", is_flag=True, help="Grade what was graded again and list what changed; buys nothing.")
@click.option("--show", type=click.IntRange(min=0), default=10, show_default=True, help="Changed answers to list.")
def command(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, regrade: bool, show: int
) -> None:
    if not regrade:
        shared.run_stage("verify", experiment, overrides, workspace, as_json)
        return
    from distill import regrade as anew

    report = anew.regrade(shared.runner(experiment, overrides, workspace), show)
    if not as_json and report.data["examples"]:
        from distill.report import table

        table.show([{name: row[name] for name in anew.COLUMNS} for row in report.data["examples"]])
    shared.print_report(report.rows, report.summary, report.data, as_json)
    click.echo(f"kept in the ledger; `distill run {experiment}` brings the stages up to date with it", err=True)
