"""`distill report`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def command(run_folder: Path, as_json: bool) -> None:
    from distill.report import final

    final.write(run_folder)
    final.show(run_folder, as_json=as_json)
