"""`distill runs`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distill.core.stage import Workspace
    from distill.runs import Relation, Run, Stage

LONGEST = 72
"""Characters of a setting's value in a table; `--json` has all of it."""


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--workspace and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")(command)
    return click.option(
        "--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs."
    )(command)


@click.group()
def command() -> None:
    pass


@command.command("list")
@options
def list_(workspace: str, as_json: bool) -> None:
    """All runs of the workspace, the latest first."""
    from distill.report import table
    from distill.report.wording import size

    place = _workspace(workspace)
    runs = _found(place)
    if as_json:
        click.echo(json.dumps([_plain(run, whole=False) for run in runs], ensure_ascii=False))
        return
    table.show([
        {
            "run": run.name, "when": _when(run.when), "arms x seeds": f"{len(run.arms)} x {len(run.seeds)}" if run.arms
            else "", "stages": f"{run.done} of {len(run.stages)}" if run.stages else "", "state": run.state,
            "result": _headline(run) or run.note, "size": size(run.bytes),
        }
        for run in runs
    ])  # fmt: skip
    click.echo(f"{len(runs)} folders in {place.root}, {size(sum(run.bytes for run in runs))}; beside them the ledger")


@command.command()
@click.argument("run")
@options
def show(run: str, workspace: str, as_json: bool) -> None:
    """One run: its stages, settings, results, and where they are."""
    from distill import runs as found
    from distill.report import table
    from distill.report.wording import duration, percent, size

    one = _look(_workspace(workspace), run)
    if as_json:
        click.echo(json.dumps(_plain(one, whole=True), ensure_ascii=False))
        return
    click.echo(f"{one.name}: {one.state}{f' ({one.note})' if one.note else ''}, {size(one.bytes)}, {one.folder}")
    single = len(one.arms) * len(one.seeds) <= 1
    rows = []
    for stages in _by_folder(one.stages):
        stage = stages[0]
        used = {} if single else {"arms and seeds": _used_by(stages, one)}
        seconds = "" if stage.seconds is None else duration(stage.seconds)
        rows.append({
            "stage": stage.stage, **used, "state": stage.state, "began": _when(stage.started), "took": seconds,
            "what it says": stage.summary + (f"; {stage.missed}" if stage.missed else ""), "folder": stage.folder or "",
        })  # fmt: skip
    table.show(rows)
    table.show([
        {"model": result.model, "task": result.task, "arm": result.arm, "seed": result.seed,
         "pass@1 [95%]": percent(dataclasses.asdict(result))}
        for result in one.results
    ])  # fmt: skip
    table.show([{"setting": name, "value": _short(value)} for name, value in found.collapsed(one).items()])
    for name, what in ((one.unused, "stages of earlier settings, which no arm uses"), (one.unknown, "not of distill")):
        if name:
            click.echo(f"{what}: {', '.join(name)}")


@command.command()
@click.argument("run", metavar="RUN[:ARM]")
@click.argument("other", metavar="RUN[:ARM]")
@options
def diff(run: str, other: str, workspace: str, as_json: bool) -> None:
    """The settings in which two runs differ, with their results beside; RUN:ARM takes one arm of a run."""
    from distill import runs as found
    from distill.core.errors import ConfigError
    from distill.report import table

    place = _workspace(workspace)
    a, b = _side(place, run), _side(place, other)
    if a.folder.resolve() == b.folder.resolve() and a.arms == b.arms:
        raise ConfigError(f"{run} and {other} are the same run; give two, or two arms of it (RUN:ARM)")
    names = (run, other)
    differ, same = found.difference(a, b), found.same_stages(a, b)
    mine, theirs = found.means(a), found.means(b)
    if as_json:
        click.echo(json.dumps({
            "runs": list(names),
            "settings": [
                {"setting": d.setting, "values": [None if v is found.ABSENT else v for v in (d.one, d.other)],
                 "there": [v is not found.ABSENT for v in (d.one, d.other)]}
                for d in differ
            ],
            "same_stages": list(same),
            "results": [[dataclasses.asdict(r) for r in one.results] for one in (a, b)],
        }, ensure_ascii=False))  # fmt: skip
        return
    table.show([{"setting": d.setting, names[0]: _short(d.one), names[1]: _short(d.other)} for d in differ])
    table.show([
        {"result": label, names[0]: _mean(a, mine, label), names[1]: _mean(b, theirs, label)}
        for label in dict.fromkeys([*_labels(a, mine), *_labels(b, theirs)])
    ])  # fmt: skip
    count = f"{len(differ)} settings differ" if differ else "no setting differs"
    shared = f"; the same under the same key: {', '.join(same)}" if same else ""
    click.echo(f"{count}{shared}. Whether results differ: distill compare {run} {other}")


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN...")
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would go.")
@click.option("--force", is_flag=True, help="Also where another run reads files of it.")
@options
def delete(names: tuple[str, ...], yes: bool, force: bool, workspace: str, as_json: bool) -> None:
    """Say what would go with a run, or let it go with `--yes`. The ledger and its answers always stay."""
    from distill import runs as found
    from distill.core.errors import DistillError
    from distill.report.wording import size

    place = _workspace(workspace)
    everything = _found(place)
    going = list({run.folder.resolve(): run for run in (_look(place, name) for name in names)}.values())
    staying = [run for run in everything if run.folder.resolve() not in {one.folder.resolve() for one in going}]
    broken = [f"{run.name} ({run.note})" for run in staying if run.state == "broken"]
    told = []
    for run in going:
        related = found.relations(run, staying)
        read = [relation for relation in related if relation.reads]
        why = found.refusal(place, run)
        if why is None and read and not force:
            why = (
                f"{run.folder}: run {read[0].name} reads it (`{read[0].reads[0]}`) and could not run again; delete "
                "that first, or add `--force`"
            )
        told.append({
            "run": run.name, "folder": str(run.folder), "state": run.state, "bytes": run.bytes, "refused": why,
            "unknown": list(run.unknown), "unreadable": broken,
            "others": [dataclasses.asdict(relation) for relation in related],
        })  # fmt: skip
        if not as_json:
            _tell(run, related, broken, why)
    refused = [entry["refused"] for entry in told if entry["refused"] is not None]
    gone = yes and not refused
    for run in going if gone else ():
        found.delete(place, run)
    total = sum(run.bytes for run in going)
    if as_json:
        click.echo(json.dumps({"deleted": gone, "bytes": total, "runs": told}, ensure_ascii=False))
    if yes and refused:
        raise DistillError(f"nothing was deleted: {refused[0]}")
    if not as_json:
        click.echo(
            f"deleted, {size(total)} are free; the ledger {place.ledger} keeps every answer" if gone
            else f"{size(total)} would be free; the ledger {place.ledger} would keep every answer. Add --yes to delete"
        )  # fmt: skip


def _tell(run: Run, related: Sequence[Relation], broken: Sequence[str], why: str | None) -> None:
    """What goes with a run, what is in it that distill did not put there, and what it has to do with other runs."""
    from distill.report.wording import size

    click.echo(f"{run.name}: {run.state}, {size(run.bytes)} in {run.folder}")
    if run.unknown:
        click.echo(f"  with what distill did not put there: {', '.join(run.unknown)}")
    for relation in related:
        if relation.reads:
            click.echo(f"  {relation.name} reads it: {', '.join(relation.reads)}")
        elif relation.same_stages:
            click.echo(f"  {relation.name} has its own files of the same stages: {', '.join(relation.same_stages)}")
    for name in broken:
        click.echo(f"  {name} cannot be read: whether it needs this one is not known")
    if not any(relation.reads or relation.same_stages for relation in related):
        click.echo("  no other run shares anything with it but the ledger")
    if why is not None:
        click.echo(f"  refused: {why}")


def _workspace(path: str) -> Workspace:
    """The workspace, cleared of what killed deletions have left."""
    from distill import runs as found
    from distill.core.stage import Workspace, say

    place = Workspace(Path(path))
    for name in found.clear(place):
        say(f"runs      removed what a deletion of {name} had left")
    return place


def _stages() -> list[str]:
    from distill import pipeline

    return [stage.name for stage in pipeline.STAGES]


def _found(place: Workspace) -> list[Run]:
    from distill import runs as found

    return found.found(place, _stages())


def _look(place: Workspace, name: str) -> Run:
    from distill import runs as found

    return found.look(found.named(place, name), _stages())


def _side(place: Workspace, name: str) -> Run:
    """A run, or one arm of it."""
    from distill import runs as found

    run, colon, arm = name.rpartition(":")
    return found.narrowed(_look(place, run), arm) if colon else _look(place, name)


def _plain(run: Run, *, whole: bool) -> dict[str, Any]:
    """A run as plain data; stages and settings where `whole`."""
    data: dict[str, Any] = {
        "name": run.name, "folder": str(run.folder), "state": run.state, "note": run.note, "when": run.when,
        "arms": list(run.arms), "seeds": list(run.seeds), "stages_done": run.done, "stages_asked": len(run.stages),
        "results": [dataclasses.asdict(result) for result in run.results], "bytes": run.bytes,
    }  # fmt: skip
    if whole:
        data |= {
            "stages": [dataclasses.asdict(stage) for stage in run.stages],
            "settings": {arm: dict(settings) for arm, settings in run.settings.items()},
            "unused": list(run.unused), "unknown": list(run.unknown),
        }  # fmt: skip
    return data


def _headline(run: Run) -> str:
    """The student's rate; of several arms the lowest and the highest. Without a student, the last model's."""
    from distill import runs as found
    from distill.report.wording import bare_percent, percent

    models = list(dict.fromkeys(result.model for result in run.results if result.value is not None))
    if not models:
        return ""
    model = "student" if "student" in models else models[-1]
    mine = [result for result in run.results if result.model == model and result.value is not None]
    if len(mine) == 1:
        return f"{model} {percent(dataclasses.asdict(mine[0]))}"
    rates = {arm: value for (arm, name), (value, _) in found.means(run).items() if name == model}
    low, high = min(rates, key=lambda arm: rates[arm]), max(rates, key=lambda arm: rates[arm])
    if len(rates) == 1:
        return f"{model} {bare_percent(rates[low])}, mean of {len(mine)} seeds"
    return f"{model} {bare_percent(rates[low])} ({low}) to {bare_percent(rates[high])} ({high})"


def _labels(run: Run, means: dict[tuple[str, str], tuple[float, int]]) -> list[str]:
    return [model if len(run.arms) == 1 else f"{model} ({arm})" for arm, model in means]


def _mean(run: Run, means: dict[tuple[str, str], tuple[float, int]], label: str) -> str:
    """A model's rate with its interval, or the mean over seeds."""
    from distill.report.wording import bare_percent, percent

    for (arm, model), (value, seeds) in means.items():
        if label == (model if len(run.arms) == 1 else f"{model} ({arm})"):
            if seeds > 1:
                return f"{bare_percent(value)} ({seeds} seeds)"
            (result,) = (r for r in run.results if (r.arm, r.model) == (arm, model) and r.value is not None)
            return percent(dataclasses.asdict(result))
    return "-"


def _by_folder(stages: Sequence[Stage]) -> Iterable[list[Stage]]:
    """Stages that are one folder together; each that has none alone."""
    groups: dict[Any, list[Stage]] = {}
    for place, stage in enumerate(stages):
        groups.setdefault(stage.folder or place, []).append(stage)
    return groups.values()


def _used_by(stages: Sequence[Stage], run: Run) -> str:
    """Whose a stage is: `all`, or arms with their seeds."""
    if len(stages) == len(run.arms) * len(run.seeds):
        return "all"
    arms: dict[str, list[str]] = {}
    for stage in stages:
        arms.setdefault(stage.arm, []).append(stage.seed)
    parts = (f"{arm} {','.join(seeds)}" if len(seeds) < len(run.seeds) else arm for arm, seeds in arms.items())
    return _cut("; ".join(parts))


def _when(moment: str | None) -> str:
    return "" if moment is None else moment[:16].replace("T", " ")


def _short(value: Any) -> str:
    from distill.runs import ABSENT

    return "-" if value is ABSENT else _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
