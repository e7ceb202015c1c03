"""`distill train`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@shared.experiment_options
@click.option("--dry-run", is_flag=True, help="Check every row and show what would be trained on; load no weights.")
@shared.launch_option
def command(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, dry_run: bool, launch: str | None
) -> None:
    if not dry_run:
        shared.run_stage("train", experiment, overrides, workspace, as_json, launch)
        return
    import importlib
    from dataclasses import asdict

    from distill.core.errors import ConfigError

    runner = shared.runner(experiment, overrides, workspace)
    if not runner.has("train"):
        raise ConfigError(f"{experiment}: has no section `train:`")
    for planned in runner.planned("train"):
        train = importlib.import_module("students.train")  # by name, as stages are
        report, samples = train.dry_run(planned)
        data = {**report.data, "samples": [asdict(sample) for sample in samples]}
        shared.print_report(report.rows, report.summary, data, as_json)
        if not as_json:
            train.contract.show(samples)
