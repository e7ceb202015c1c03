"""What several commands share: their options, the experiment made ready, and how results are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from distill.core.rundir import Manifest
    from distill.pipeline import Done, Runner


def experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """EXPERIMENT, --set, --workspace and --json."""
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)
    command = click.option(
        "--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs."
    )(command)
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting: --set train.epochs=1"
    )(command)
    return click.argument("experiment", type=click.Path(path_type=Path))(command)


def launch_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--launch."""
    return click.option(
        "--launch", metavar="N|CONFIG.yaml",
        help="Train on N processes, or as an accelerate configuration says (configs/accelerate/).",
    )(command)  # fmt: skip


def runner(experiment: Path, overrides: tuple[str, ...], workspace: str, launch: str | None = None) -> Runner:
    """The experiment, read and checked, ready to run in its workspace."""
    from distill import experiment as experiments
    from distill import pipeline
    from distill.core.stage import Workspace

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    if launch is not None:
        import importlib

        launch = launch if importlib.import_module("students.launch").read(launch) is not None else None
    made = pipeline.Runner(loaded, Workspace(Path(workspace)), launch=launch)
    experiments.check(loaded, pipeline.CHECKS, experiment, overrides)
    return made


def refuse_pairs(planned: Runner) -> None:
    """Before anything is bought: a teacher and a student whose logits cannot be matched, though a loss asks for it."""
    import importlib

    from distill.core.errors import ConfigError

    for arm in planned.experiment.arms:
        why = importlib.import_module("students.contract").refusal(arm.sections, fetch=True)  # by name, as stages are
        if why is not None:
            raise ConfigError(f"{planned.experiment.file}: {why}")


def run_stage(
    name: str,
    experiment: Path,
    overrides: tuple[str, ...],
    workspace: str,
    as_json: bool,
    launch: str | None = None,
) -> None:
    """Run one stage of an experiment, whose inputs must be there, and show what it has to say."""
    from distill.core.errors import ConfigError

    planned = runner(experiment, overrides, workspace, launch)
    if not planned.has(name):
        if name == "verify" and any(name in arm.sections for arm in planned.experiment.arms):
            raise ConfigError(f"{experiment}: `verify` has no answers to grade; give `sample:` or `import:`")
        raise ConfigError(f"{experiment}: has no section `{name}:`")
    if name == "train" and _is_follower(launch):
        import importlib

        importlib.import_module("students.launch").follow(planned)
        return
    done = [item for item in planned.run(until=name) if item.stage.name == name]
    folders = {item.folder: item for item in done}
    for item in folders.values():
        _show(item, as_json)
    end_with_missed(item.manifest for item in done)


def _is_follower(launch: str | None) -> bool:
    """Whether torchrun or `accelerate launch` started this process beside the one that writes and speaks."""
    import importlib

    from distill.core.errors import ConfigError

    me = importlib.import_module("students.processes").here()
    if me.count > 1 and launch is not None:
        raise ConfigError(f"--launch {launch}: this already is one of {me.count} processes; leave it out")
    return bool(me.index)


def _show(done: Done, as_json: bool) -> None:
    data = done.manifest.data
    print_report(data["rows"], f"{done.stage.name}: {data['summary']}", data["counts"], as_json)
    click.echo(f"written {done.folder}", err=True)


def print_report(rows: list[dict[str, Any]], summary: str, data: dict[str, Any], as_json: bool) -> None:
    """What a command has to say, on stdout: a table (one for each task, where rows have one) and a line; or as JSON."""
    if as_json:
        click.echo(json.dumps({"summary": summary, "rows": rows, "counts": data}, ensure_ascii=False))
        return
    if rows:
        from distill.report import table

        for task in dict.fromkeys(row.get("task") for row in rows):
            mine = [row for row in rows if row.get("task") == task]
            bare = [{name: cell for name, cell in row.items() if name != "task"} for row in mine]
            table.show(bare, title=task)
    click.echo(summary)


def end_with_missed(manifests: Iterable[Manifest]) -> None:
    """Raise ThresholdMissed for the first stage that missed a bound."""
    from distill.core.errors import ThresholdMissed

    missed = [manifest for manifest in manifests if manifest.data["missed"]]
    if missed:
        raise ThresholdMissed(missed[0].data["missed"])
