"""`distill grade`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distill.commands import shared


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verifier", default="math", show_default=True, help="Which verifier judges.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting: --set percent=ignore")
@click.option("--gold", metavar="FIELD", help="Field of the gold answer; dots reach into objects.")
@click.option("--tests", metavar="FIELD", help="Field of hidden tests, for `--verifier code`.")
@click.option("--response", metavar="FIELD", help="Field of a whole model output, thinking and all.")
@click.option("--answer", metavar="FIELD", help="Field of an already extracted answer.")
@click.option("--finish-reason", metavar="FIELD", help="Field that says how the response ended (stop, length).")
@click.option(
    "--thinker", is_flag=True, help="The model thinks: a response that never closed its thinking is unfinished."
)
@click.option(
    "--dialect", type=click.Choice(["think", "begin_of_thought", "harmony", "none"]), default="think",
    show_default=True, help="What stands around the thinking of a response.",
)  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write: .jsonl(.gz|.zst), .parquet."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(
    file: Path, verifier: str, settings: tuple[str, ...], out: Path, as_json: bool,
    **fields: Any,
) -> None:  # fmt: skip
    if (fields["response"] is None) == (fields["answer"] is None):
        raise click.UsageError("give one of --response and --answer")
    if fields["gold"] is None and fields["tests"] is None:
        raise click.UsageError("give --gold, --tests, or both")
    from distill.grade import Fields, grade_file

    asked = Fields(**fields)
    report = grade_file(file, asked, verifier=verifier, settings=settings, out=out)
    shared.print_report(report.rows, report.summary, report.data, as_json)
