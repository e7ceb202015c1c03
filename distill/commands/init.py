"""`distill init`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--preset", metavar="NAME", help="Start from a pair of real models: r1-distill-qwen-7b, qwen3-4b ...")
def command(folder: Path, preset: str | None) -> None:
    from distill import init as initial
    from distill.pipeline import SECTIONS

    for path in initial.write(folder, SECTIONS, preset):
        click.echo(f"written {path}")
