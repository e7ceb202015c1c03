"""What a person asks to publish: an experiment's run or a run folder, with its settings of `publish:`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill import experiment as experiments
from distill import pipeline
from distill.core import files, rundir, yaml
from distill.core.errors import ConfigError
from distill.core.stage import Workspace
from distill.publish.settings import Config


def read(
    what: Path, arm: str | None, given: Mapping[str, Any], overrides: Sequence[str], workspace: Path
) -> tuple[Path, Config]:
    """The run folder that `what` means and its settings; `given` are those of the command line.

    An experiment file is taken at its word: it must be as it was when it ran, its `publish:` aside. Raises ConfigError,
    one line, for anything that is wrong.
    """
    if what.suffix in (".yaml", ".yml"):
        said = [f"publish.{name}={json.dumps(value)}" for name, value in given.items()]
        loaded = experiments.load(what, pipeline.SECTIONS, [*said, *overrides])
        run = Workspace(workspace).run_folder(loaded.name)
        rundir.read_index(run)
        told = loaded.resolved()
        if _without_publish(told) != _without_publish(_resolved(run)):
            raise ConfigError(
                f"{what}: has changed since {run} was made of it; `distill run {what}` brings it up to date, "
                f"`distill publish {run}` publishes what is there"
            )
        where = str(what)
    else:
        run, where = what, str(what)
        rundir.read_index(run)
        told = _resolved(run)
        for text in overrides:
            document = yaml.assignment(text)
            if set(document.data) != {"publish"}:
                raise ConfigError(f"--set {text}: with a run folder only `publish.` can be set")
            given = {**document.data["publish"], **given}
    arms: Mapping[str, Any] = told["arms"]
    chosen = next(iter(arms), None) if arm is None else arm
    if arm is not None and arm not in arms:
        raise ConfigError(f"{where}: no arm `{arm}`; it has {', '.join(arms)}")
    section = {**(arms.get(chosen or "", {}).get("publish") or {}), **given}
    if "repo" not in section:
        raise ConfigError(f"{where}: says not where to: give `publish: {{repo: you/name}}`, or --repo you/name")
    try:
        return run, Config.model_validate(section)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(("publish", *(str(part) for part in first["loc"])))
        raise ConfigError(f"{where}: `{place}`: {first['msg'].removeprefix('Value error, ')}") from error


def _resolved(run: Path) -> dict[str, Any]:
    path = run / "experiment.json"
    if not path.exists():
        raise ConfigError(f"{run}: has no experiment.json, so it is no run folder of `distill run`")
    found: dict[str, Any] = files.read_json(path)
    return found


def _without_publish(resolved: Mapping[str, Any]) -> dict[str, Any]:
    arms = {
        arm: {name: section for name, section in sections.items() if name != "publish"}
        for arm, sections in resolved["arms"].items()
    }
    return {**resolved, "arms": arms}
