"""`distill pull`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--revision", help="Branch, tag (`distill-...` of a run) or commit. Unless given, the newest.")
@click.option("--name", help="Name of the run folder; the published run's own unless given.")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(repo: str, revision: str | None, name: str | None, workspace: str, as_json: bool) -> None:
    from distill.core.stage import Workspace
    from distill.publish import pull

    report = pull.pull(repo, Workspace(Path(workspace)), revision=revision, name=name)
    shared.print_report(report.rows, report.summary, report.data, as_json)
