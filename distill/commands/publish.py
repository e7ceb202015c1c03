"""`distill publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distill.commands import shared


@click.command()
@click.argument("what", metavar="EXPERIMENT.yaml|RUN_FOLDER", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Send it. Without this nothing on the Hub is touched.")
@click.option("--repo", metavar="OWNER/NAME", help="Model repository, in place of `publish.repo`.")
@click.option("--public", is_flag=True, help="Make new repositories public, and let existing public ones take it.")
@click.option("--arm", help="Which arm; the first unless given.")
@click.option("--seed", type=click.IntRange(min=0), help="Which seed; the first unless given.")
@click.option("--allow", multiple=True, metavar="NAME", help="Publish in spite of this refusal; the card says so.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting: publish.licence=mit")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    what: Path,
    yes: bool,
    repo: str | None,
    public: bool,
    arm: str | None,
    seed: int | None,
    allow: tuple[str, ...],
    overrides: tuple[str, ...],
    workspace: str,
    as_json: bool,
) -> None:
    from distill.publish import asked, send

    given: dict[str, Any] = {**({"repo": repo} if repo else {}), **({"private": False} if public else {})}
    run, config = asked.read(what, arm, given, overrides, Path(workspace))
    report = send.publish(run, config, arm=arm, seed=seed, allow=allow, yes=yes)
    shared.print_report(report.rows, report.summary, report.data, as_json)
    if report.missed:
        from distill.core.errors import ThresholdMissed

        raise ThresholdMissed(report.missed)
