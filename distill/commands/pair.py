"""`distill pair`."""

from __future__ import annotations

import click

from distill.commands import shared


@click.command()
@click.argument("teacher")
@click.argument("student")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def command(teacher: str, student: str, as_json: bool) -> None:
    from distill.core.models import resolve_text
    from distill.text import pairing

    verdict = pairing.compare(resolve_text(teacher), resolve_text(student))
    data = {"kl_possible": verdict.kl_possible, "why": verdict.why, "notes": list(verdict.notes)}
    shared.print_report(list(verdict.facts), str(verdict), data, as_json)
    if not as_json:
        for note in verdict.notes:
            click.echo(f"- {note}")
