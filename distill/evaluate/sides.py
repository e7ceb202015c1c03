"""Which models a comparison means, as they are written on the command line, and their scores.

A side is RUN[:ARM[:SEED]][@MODEL]: `runs/a`, `runs/a:kl`, `runs/a:kl:1@student@300`, `runs/a@teacher`. Without ARM, all
arms of the run, each a side; without SEED, all seeds of the arm, taken together; without MODEL, the student, or the
only model there is. One run with one arm compares the models of that run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core import files, rundir
from distill.core.errors import ConfigError, DistillError
from distill.evaluate import scores
from distill.evaluate.scores import Score

STUDENT = "student"

ANY_SEED = ""
"""Seed of a model that was not trained here: it is the same in all seeds, and stands beside each of them."""


@dataclass(frozen=True)
class Side:
    """One model on one side of a comparison, with the scores of each seed. `name` tells it from the other sides."""

    name: str
    run: Path
    arm: str
    model: str
    by_seed: Mapping[str, Sequence[Score]] = field(repr=False)
    settings: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """By task: sampling and verifier that it was measured with."""

    def lines(self, task: str) -> dict[str, list[Score]]:
        """Scores of a task by seed."""
        return {seed: [line for line in lines if line.task == task] for seed, lines in self.by_seed.items()}


def named(sides: Sequence[str], workspace: Path) -> list[Side]:
    """The sides that are meant, each with a name that tells it from the others."""
    chosen: list[tuple[Path, str, str | None, str | None]] = []  # run, arm, seed, model
    for text in sides:
        run, arm, seed, model = _parse(text, workspace)
        arms = [arm] if arm is not None else list(rundir.read_index(run)["arms"])
        evaluated = [name for name in arms if _evaluated(run, name, seed)]
        if not evaluated:
            raise DistillError(f"{text}: was not evaluated yet; `distill evaluate` its experiment first")
        chosen += [(run, name, seed, model) for name in evaluated]
    if len(chosen) == 1 and chosen[0][3] is None:
        run, name, seed, _ = chosen[0]
        models = list(dict.fromkeys(line.model for lines in _read(run, name, seed).values() for line in lines))
        chosen = [(run, name, seed, model) for model in models]
    made = [_side(*each) for each in chosen]
    if len(made) < 2:
        raise ConfigError(f"{sides[0]}: that is one model; name another side to compare it with")
    return _told_apart(made)


def _parse(text: str, workspace: Path) -> tuple[Path, str | None, str | None, str | None]:
    """RUN, ARM, SEED and MODEL of a side. Paths and model names may hold `:` and `@`: the run folder decides."""
    places = [place for place, character in enumerate(text) if character == "@"]
    for end in [*places, len(text)]:
        where, model = text[:end], text[end + 1 :] or None
        for parts in range(3):
            pieces = where.rsplit(":", parts)
            run = next((path for path in (Path(pieces[0]), workspace / pieces[0]) if _is_run(path)), None)
            if len(pieces) == parts + 1 and run is not None:
                arm, seed = (*pieces[1:], None, None)[:2]
                return run, _known_arm(run, arm), _known_seed(run, arm, seed), model
    raise ConfigError(f"{text}: no run folder; a side is RUN[:ARM[:SEED]][@MODEL], as `runs/a:kl:0@student`")


def _is_run(path: Path) -> bool:
    return (path / rundir.INDEX).is_file()


def _known_arm(run: Path, arm: str | None) -> str | None:
    arms = rundir.read_index(run)["arms"]
    if arm is not None and arm not in arms:
        raise ConfigError(f"{run}: no arm `{arm}`; it has {', '.join(arms)}")
    return arm


def _known_seed(run: Path, arm: str | None, seed: str | None) -> str | None:
    if seed is not None:
        seeds = rundir.read_index(run)["arms"][arm]
        if seed not in seeds:
            raise ConfigError(f"{run}: arm `{arm}` has no seed {seed}; it has {', '.join(seeds)}")
    return seed


def _evaluated(run: Path, arm: str, seed: str | None) -> dict[str, Path]:
    """Folders of finished evaluations by seed."""
    by_seed = rundir.read_index(run)["arms"][arm]
    return {
        name: run / stages["evaluate"]["folder"]
        for name, stages in by_seed.items()
        if "evaluate" in stages and seed in (None, name)
    }


def _read(run: Path, arm: str, seed: str | None) -> dict[str, list[Score]]:
    return {name: scores.read(folder) for name, folder in _evaluated(run, arm, seed).items()}


def _side(run: Path, arm: str, seed: str | None, model: str | None) -> Side:
    every = _read(run, arm, seed)
    models = list(dict.fromkeys(line.model for lines in every.values() for line in lines))
    if model is None:
        model = STUDENT if STUDENT in models or len(models) != 1 else models[0]
    if model not in models:
        raise ConfigError(f"{run}: arm `{arm}` was not evaluated with model `{model}`; it has {', '.join(models)}")
    by_seed = {name: [line for line in lines if line.model == model] for name, lines in every.items()}
    by_seed = {name: lines for name, lines in by_seed.items() if lines}
    if not _trained(model):
        by_seed = {ANY_SEED: next(iter(by_seed.values()))}
    label = f"{arm}:{seed}" if seed is not None else arm
    return Side(label, run, arm, model, by_seed, _settings(next(iter(_evaluated(run, arm, seed).values()))))


def _trained(model: str) -> bool:
    return model == STUDENT or model.startswith(f"{STUDENT}@")


def _settings(folder: Path) -> dict[str, dict[str, Any]]:
    """Sampling and verifier of each task, as results.json has them."""
    path = folder / "results.json"
    data = files.read_json(path) if path.exists() else {}
    return {
        about.get("name", "problems"): {name: about.get(name) for name in ("sampling", "verifier")}
        for about in data.get("tasks", [data])
    }


def _told_apart(sides: Sequence[Side]) -> list[Side]:
    """Sides named by what they differ in: run, arm with seed, model."""
    parts = [(side.run.resolve().name, side.name, side.model) for side in sides]
    paths = len({part[0] for part in parts}) < len({side.run.resolve() for side in sides})
    if paths:  # two folders of one name
        parts = [(str(side.run), side.name, side.model) for side in sides]
    differ = [len({part[place] for part in parts}) > 1 for place in range(3)]
    made: list[Side] = []
    for side, (run, arm, model) in zip(sides, parts, strict=True):
        name = ":".join(text for text, shown in ((run, differ[0]), (arm, differ[1])) if shown)
        name = f"{name}@{model}" if differ[2] and name else name or model
        if any(name == other.name for other in made):
            raise ConfigError(f"{name}: named twice; a comparison needs different sides")
        made.append(Side(name, side.run, side.arm, side.model, side.by_seed, side.settings))
    return made
