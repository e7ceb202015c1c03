"""`distill view`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("target", metavar="RUN|FILE.parquet|FILE.jsonl", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), help="Of 127.0.0.1; the first free one from 8310 unless given.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE",
    help="With a file: the folder that keeps its index.",
)  # fmt: skip
def command(target: Path, port: int | None, no_browser: bool, workspace: str) -> None:
    from distill.view.run import serve

    serve(target, workspace=Path(workspace), port=port, browser=not no_browser)
