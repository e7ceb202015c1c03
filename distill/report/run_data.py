"""What a run folder holds, gathered for tables and pages. Reads run.json, manifests and stage outputs; writes nothing.

A stage that is not there leaves its part empty and its name in `missing`, so that a run of any length has a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from distill.core import files, rundir
from distill.evaluate.metrics import Mean, Rate
from distill.report import evaluated, examples, taught
from distill.report.evaluated import Evaluated, Kind, Task, as_mean
from distill.report.parts import Example
from distill.report.svg import SERIES
from distill.report.taught import Taught

OWN_SERIES: dict[Kind, int] = {"student": 0, "base": 1, "teacher": 2, "file": 3, "other": 4}

OWN_TASK = "problems"
"""The task of the experiment's own test problems."""

REPORTED = ("evaluate", "filter", "train", "export")
"""Stages whose absence the page mentions, where the experiment has them."""


@dataclass(frozen=True)
class StageFacts:
    """One finished stage folder and the arms and seeds that use it."""

    stage: str
    folder: str
    used_by: tuple[str, ...]
    manifest: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return float(self.manifest["seconds"])


@dataclass(frozen=True)
class Entry:
    """One line of the final table: a model or an exported file, and how good it is on the first task. Rates are
    fractions.
    """

    label: str
    kind: Kind
    accuracy: Mean
    thinking_tokens: Mean
    outcomes: Mapping[str, int]
    bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """One training run: steps and, by name, values: `loss`, `ce`, `kd` in nats per trained token, `dev_accuracy` a
    share. NaN-free.
    """

    arm: str
    seed: str
    points: Mapping[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class RunData:
    """Everything a report says. The first arm and seed stand for the run where only one can."""

    name: str
    folder: Path
    experiment: Mapping[str, Any]
    arms: tuple[str, ...]
    seeds: tuple[str, ...]
    stages: tuple[StageFacts, ...]
    entries: tuple[Entry, ...] = ()
    evaluated: Evaluated = field(default_factory=lambda: Evaluated(split="test"))
    taught: Taught = field(default_factory=Taught)
    curves: tuple[Curve, ...] = ()
    exports: tuple[Mapping[str, Any], ...] = ()
    """Entries of proof.json."""
    export_rows: tuple[Mapping[str, Any], ...] = ()
    """The same as the export stage shows them."""
    examples: tuple[Example, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def task(self) -> Task | None:
        """The first task: the experiment's own test problems, where it has them."""
        return next(iter(self.evaluated.tasks), None)

    def entry(self, kind: Kind) -> Entry | None:
        """The first line of that kind; of students, none that is a kept step, where there is another."""
        found = [entry for entry in self.entries if entry.kind == kind]
        return min(found, key=lambda entry: entry.label.startswith("student@"), default=None)

    def series(self, label: str, kind: Kind) -> int:
        """Colour, shape and dash of a model, the same in every plot: student, base, teacher and files have their own,
        and so has every other model as long as there are enough.
        """
        return self._series.get(label, OWN_SERIES[kind])

    @cached_property
    def _series(self) -> dict[str, int]:
        models = [model for task in self.evaluated.tasks for model in task.models]
        named = {model.label: model.kind for model in sorted(models, key=lambda it: it.label.startswith("student@"))}
        kinds = {*named.values(), *(entry.kind for entry in self.entries)}
        own = {kind: place for kind, place in OWN_SERIES.items() if kind in kinds}
        given = {next((label for label in named if named[label] == kind), ""): place for kind, place in own.items()}
        free = [place for place in range(SERIES) if place not in own.values()]
        rest = [label for label in named if label not in given]
        return given | {label: free[place % len(free)] for place, label in enumerate(rest)}


def collect(run: Path) -> RunData:
    """Gather a run folder. Raises DistillError if it is not one, or holds results of an older version."""
    index = rundir.read_index(run)
    first = _first(index)
    parts: dict[str, Any] = {"taught": taught.collect(run, first), "curves": tuple(_curves(run, index))}
    entries: list[Entry] = []
    if "evaluate" in first:
        found = evaluated.collect(run, index, first)
        parts["evaluated"] = found
        entries += [
            Entry(model.label, model.kind, model.rate, model.thinking_tokens, model.outcomes, note=model.note)
            for model in found.tasks[0].models
        ]
        if "problems" in first and found.tasks[0].name == OWN_TASK:
            problems = run / first["problems"] / "problems.parquet"
            parts["examples"] = tuple(examples.collect(run / first["evaluate"], problems, found.lines))
    if "export" in first:
        parts["exports"] = tuple(files.read_json(run / first["export"] / "proof.json")["files"])
        parts["export_rows"] = tuple(files.read_json(run / first["export"] / rundir.MANIFEST)["rows"])
        entries += _file_entries(parts["exports"])
    done = {*first} - {"train"} | ({"train"} if parts["curves"] else set())
    experiment = files.read_json(run / "experiment.json") if (run / "experiment.json").exists() else {}
    asked: Mapping[str, Any] = next(iter(experiment.get("arms", {}).values()), {})
    return RunData(
        name=str(index["name"]),
        folder=run,
        experiment=experiment,
        arms=tuple(index["arms"]),
        seeds=tuple(dict.fromkeys(seed for seeds in index["arms"].values() for seed in seeds)),
        stages=_stages(run, index),
        entries=tuple(entries),
        missing=tuple(stage for stage in REPORTED if stage not in done and _is_asked(asked.get(stage))),
        **parts,
    )


def _is_asked(section: Any) -> bool:
    """Whether an experiment's section asks for its stage: `export: []` does not."""
    return section is not None and not (isinstance(section, Mapping) and section.get("formats") == [])


def _first(index: Mapping[str, Any]) -> dict[str, str]:
    """Stage folders of the first arm and seed."""
    for seeds in index["arms"].values():
        for stages in seeds.values():
            return {stage: about["folder"] for stage, about in stages.items()}
    return {}


def _stages(run: Path, index: Mapping[str, Any]) -> tuple[StageFacts, ...]:
    """Every finished stage once, in the order first used."""
    users: dict[tuple[str, str], list[str]] = {}
    several = len(index["arms"]) > 1 or any(len(seeds) > 1 for seeds in index["arms"].values())
    for arm, seeds in index["arms"].items():
        for seed, stages in seeds.items():
            for stage, about in stages.items():
                users.setdefault((stage, about["folder"]), []).append(f"{arm}, seed {seed}" if several else "")
    facts = []
    for (stage, folder), used_by in users.items():
        path = run / folder / rundir.MANIFEST
        if path.exists():
            facts.append(StageFacts(stage, folder, tuple(filter(None, used_by)), files.read_json(path)))
    return tuple(facts)


def _curves(run: Path, index: Mapping[str, Any]) -> Iterator[Curve]:
    for arm, seeds in index["arms"].items():
        for seed, stages in seeds.items():
            path = run / stages["train"]["folder"] / "history.json" if "train" in stages else None
            if path is None or not path.exists():
                continue
            history = files.read_json(path)
            points = {
                name: tuple((float(row["step"]), float(row[name])) for row in history if row.get(name) is not None)
                for name in ("loss", "ce", "kd", "dev_accuracy")
            }
            yield Curve(arm, seed, {name: values for name, values in points.items() if values})


def _file_entries(exports: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """The student's own greedy answers, then each file that answered: greedily too, unlike the models above."""
    answered = [about for about in exports if about.get("rate") is not None]
    unknown = Mean(None, None, None, 0, 0)
    if answered:
        own = as_mean(Rate(**answered[0]["student_rate"]))
        yield Entry("student, greedy", "student", own, unknown, {}, note="greedy")
    for about in answered:
        thinking = Mean(**about["thinking_tokens"])
        rate = as_mean(Rate(**about["rate"]))
        yield Entry(about["name"], "file", rate, thinking, about["outcomes"], about["bytes"], "greedy")
