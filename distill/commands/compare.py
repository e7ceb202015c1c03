"""`distill compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distill.evaluate.compare import Comparison, TaskComparison


@click.command()
@click.argument("sides", nargs=-1, required=True, metavar="RUN[:ARM[:SEED]][@MODEL]...")
@click.option("--all-pairs", is_flag=True, help="Each side with each other, not only with the first.")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="This task only; may be given several times.")
@click.option(
    "--equal-tokens", "along", type=click.Choice(["budget", "pass", "maj"]),
    help="Also accuracy at equal tokens per problem: by budget of an answer, pass@k, or majority of k samples.",
)  # fmt: skip
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page that opens offline.")
def command(
    sides: tuple[str, ...], all_pairs: bool, tasks: tuple[str, ...], along: Any, workspace: str, as_json: bool,
    markdown: bool, html: Path | None,
) -> None:  # fmt: skip
    if as_json and markdown:
        raise click.UsageError("give one of --json and --markdown")
    import json

    from distill.evaluate import compare

    found = compare.table(sides, Path(workspace), all_pairs=all_pairs, tasks=tasks)
    if html is not None:
        from distill.report import comparison

        comparison.write(found, html)
        click.echo(f"written {html}", err=True)
    equal = {task.task: _equal_tokens(task, along) for task in found.tasks} if along else {}
    if as_json:
        data = compare.plain(found)
        for task in data["tasks"]:
            if along:
                task["equal_tokens"] = {"along": along, "pairs": equal[task["task"]][0]}
        click.echo(json.dumps(data, ensure_ascii=False, allow_nan=False))
        return
    _show(found, {name: rows for name, (_, rows) in equal.items()}, along, markdown)


def _show(found: Comparison, equal: dict[str, list[dict[str, Any]]], along: str | None, markdown: bool) -> None:
    from distill.evaluate import compare
    from distill.report import table

    def show(rows: list[dict[str, Any]]) -> None:
        if markdown:
            click.echo(table.markdown(rows))
        else:
            table.show(rows)

    for task in found.tasks:
        title = f"{task.task}: {task.common:,} problems in common"
        left = ", ".join(f"{side.name} {side.left_out:,}" for side in task.sides if side.left_out)
        title += f" (left out: {left})" if left else ""
        click.echo(f"## {title}\n" if markdown else title)
        show(compare.side_rows(task))
        show(compare.pair_rows(task))
        if along:
            heading = f"at equal tokens per problem, by {ALONG[along]}"
            click.echo(f"### {heading}\n" if markdown else heading)
            if equal[task.task]:
                show(equal[task.task])
            else:
                click.echo("the curves have no cost in common\n")
        for note in task.notes:
            click.echo(f"note: {note}")
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(
        "Differences in points with 95% intervals, paired over problems and seeds; verdicts by Holm's adjustment over "
        "the comparisons of a task; detectable: the true difference found with 80% power."
    )


ALONG = {"budget": "budget of an answer", "pass": "samples, any of them right", "maj": "samples, majority vote"}


def _equal_tokens(task: TaskComparison, along: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Matched-cost comparisons of a task's pairs, as plain data and as rows for people."""
    from dataclasses import asdict

    from distill.core.errors import DistillError
    from distill.evaluate import curves

    lines = {side.name: side.lines for side in task.sides}
    data, rows = [], []
    for pair in task.pairs:
        try:
            points = curves.at_equal_tokens(lines[pair.a], lines[pair.b], along)
        except ValueError as error:
            raise DistillError(f"task `{task.task}`, {pair.a} - {pair.b}: {error}") from None
        data.append({"a": pair.a, "b": pair.b, "points": [asdict(point) for point in points]})
        rows += [
            {
                "comparison": f"{pair.a} - {pair.b}",
                "tokens": f"{point.tokens:,.0f}",
                "left [95%]": point.a.percent,
                "right [95%]": point.b.percent,
                "difference [95%]": point.difference.points,
            }
            for point in points
        ]
    return data, rows
