"""`distill plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distill.commands import shared


@click.command()
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, in bytes and seconds.")
@click.option(
    "--gpus", required=True, metavar="GPU[:COUNT]", help="h100:8, rtx4090, 24GB:2, or cpu for this machine's memory."
)
@click.option(
    "--sharding",
    type=click.Choice(["ddp", "fsdp2", "zero3"]),
    default="ddp",
    show_default=True,
    help="How several GPUs share a training.",
)
@click.option("--price", type=click.FloatRange(min=0), help="Of one GPU for an hour.")
@click.option("--rows", type=click.IntRange(min=1), help="Traces of an epoch, where you know it.")
@click.option("--row-tokens", type=click.IntRange(min=1), help="Their mean length, prompt included.")
def command(experiment: Path, overrides: tuple[str, ...], as_json: bool, gpus: str, **asked: Any) -> None:
    from distill import experiment as experiments
    from distill import pipeline
    from distill.plan import experiment as planning
    from distill.plan.gpus import parse

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    report, changes = planning.run(loaded, planning.Question(*parse(gpus), **asked))
    if not as_json and changes:
        from distill.report import table

        table.show(report.rows)
        table.show(changes)
    shared.print_report([] if changes and not as_json else report.rows, report.summary, report.data, as_json)
    if report.missed:
        from distill.core.errors import ThresholdMissed

        raise ThresholdMissed(report.missed)
