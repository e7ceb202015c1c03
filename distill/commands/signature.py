"""`distill signature`."""

from __future__ import annotations

from pathlib import Path

import click

from distill.commands import shared


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--field", required=True, help="Field with the question; dots reach into objects.")
@click.option("--name", required=True, help="What the benchmark is called in reasons and reports.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Signature file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(file: Path, field: str, name: str, out: Path, as_json: bool) -> None:
    from distill.signature import sign_file

    report = sign_file(file, field=field, name=name, out=out)
    shared.print_report(report.rows, report.summary, report.data, as_json)
