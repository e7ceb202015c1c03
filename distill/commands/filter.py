"""`distill filter`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@shared.experiment_options
@click.option("--traces", type=click.Path(path_type=Path), help="Filter this file (.jsonl, .parquet), not the run.")
@click.option("--out", type=click.Path(path_type=Path), help="With --traces: folder to write.")
def command(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, traces: Path | None, out: Path | None
) -> None:
    if (traces is None) != (out is None):
        raise click.UsageError("--traces and --out go together")
    if traces is None or out is None:
        shared.run_stage("filter", experiment, overrides, workspace, as_json)
        return
    from distill import experiment as experiments
    from distill import filter_file, pipeline

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    report = filter_file.filter_file(traces, loaded.arms[0].sections, out, str(experiment))
    shared.print_report(report.rows, report.summary, report.data, as_json)
