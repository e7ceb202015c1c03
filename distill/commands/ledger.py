"""`distill ledger`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@click.option("--merge", "others", multiple=True, type=click.Path(path_type=Path), help="Take in this ledger.sqlite.")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(others: tuple[Path, ...], workspace: str, as_json: bool) -> None:
    from distill.core import merging
    from distill.core.stage import Workspace

    path = Workspace(Path(workspace)).ledger
    for other in others:
        merged = merging.merge(path, other)
        click.echo(
            f"{other}: {merged.answers:,} answers taken in, {merged.already:,} were there, "
            f"{merged.verdicts:,} verdicts, {merged.shards:,} files of log-probabilities", err=True,
        )  # fmt: skip
    report = merging.report(path)
    shared.print_report(report.rows, report.summary, report.data, as_json)
