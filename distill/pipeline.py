"""What runs when: the stages of an experiment, their keys, and the run that executes what is missing or stale.

A stage's key is its name, the version of its meaning, the settings that change its result, and the hashes of its
inputs. Package versions, batch sizes and paths are recorded in the manifest, not keyed. A stage is done when its
manifest is there; stages with equal keys (several arms) are one folder and run once.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from distill.core import files, rundir
from distill.core.config import Settings, digest
from distill.core.errors import ConfigError, DistillError
from distill.core.rundir import Manifest
from distill.core.stage import Report, StageRun, Workspace, say
from distill.experiment import Arm, Experiment


@dataclass(frozen=True)
class Stage:
    """One stage: its module, the sections it reads (its own first), and the stages it reads from.

    An input in parentheses, `(score)`, is read where the experiment has it. `stands_for` names the stage whose place
    it takes (`import` stands for `sample`).
    """

    name: str
    module: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    seeded: bool = False
    stands_for: str | None = None

    def load(self) -> ModuleType:
        """The module that does the work."""
        return importlib.import_module(self.module)


STAGES = (
    Stage("problems", "distill.stages.problems", ("problems",)),
    Stage("sample", "teachers.sample", ("sample", "teacher", "(verify)"), ("problems",)),
    Stage("import", "distill.stages.imports", ("import", "(problems)"), ("problems",), stands_for="sample"),
    Stage("verify", "distill.stages.verify", ("verify",), ("problems", "sample")),
    Stage("filter", "distill.stages.filter", ("filter",), ("problems", "sample", "verify")),
    Stage("score", "teachers.score", ("score", "teacher"), ("filter",)),
    Stage(
        "train", "students.train", ("train", "student", "(teacher)", "(verify)"),
        ("filter", "sample", "(score)", "(problems)"), seeded=True,
    ),
    Stage(
        "evaluate", "distill.evaluate.stage", ("evaluate", "(verify)", "(student)", "(teacher)", "(sample)"),
        ("(problems)", "(train)"),
    ),
    Stage(
        "export", "distill.export.stage", ("export", "verify", "student"), ("problems", "filter", "train", "evaluate"),
    ),
)  # fmt: skip
"""In the order they run."""

SECTIONS = {
    "problems": "distill.stages.problems:Config",
    "teacher": "teachers.settings:Config",
    "sample": "teachers.sample:Config",
    "import": "distill.stages.imports:Config",
    "verify": "distill.stages.verify:Config",
    "filter": "distill.stages.filter:Config",
    "score": "teachers.score:Config",
    "student": "students.settings:Config",
    "train": "students.train:Config",
    "evaluate": "distill.evaluate.stage:Config",
    "export": "distill.export.stage:Config",
    "publish": "distill.publish.settings:Config",
}
"""Settings class of each section of an experiment."""

CHECKS = (
    "distill.stages.problems", "distill.stages.imports", "distill.stages.verify", "distill.stages.filter",
    "teachers.sample", "teachers.score", "students.train", "distill.evaluate.stage", "distill.export.stage",
)  # fmt: skip
"""Modules with a `check(sections)` for combinations of settings that cannot work."""


@dataclass(frozen=True)
class Done:
    """A finished stage of one arm and seed."""

    stage: Stage
    folder: Path
    manifest: Manifest
    ran: bool


def stages_of(arm: Arm, file: str, stages: Sequence[Stage] = STAGES) -> list[Stage]:
    """The stages an arm asks for, in order. Raises ConfigError if one lacks a section or an input it needs.

    A section whose settings say that they ask for nothing (`export: []`) is no stage, nor is `verify:` where there are
    no answers but those that `evaluate` draws itself: it then says how these are graded.
    """
    present = [
        stage
        for stage in stages
        if stage.sections[0] in arm.sections and not getattr(arm.sections[stage.sections[0]], "asks_nothing", False)
    ]
    if not present:
        raise ConfigError(f"{file}: no stage to run; it has none of {', '.join(s.name for s in stages)}")
    provided = {stage.stands_for or stage.name for stage in present}
    if "evaluate" in provided and "sample" not in provided:
        present = [stage for stage in present if stage.name != "verify"]
        provided.discard("verify")
    if {"sample", "import"} <= {stage.name for stage in present}:
        raise ConfigError(f"{file}: `sample` and `import` are two ways to get answers; give one of them")
    for stage in present:
        for section in stage.sections:
            if not section.startswith("(") and section not in arm.sections:
                raise ConfigError(f"{file}: stage `{stage.name}` needs the section `{section}:`")
        for name in stage.inputs:
            if not name.startswith("(") and name not in provided:
                ways = "`sample:` or `import:`" if name == "sample" else f"`{name}:`"
                raise ConfigError(f"{file}: stage `{stage.name}` needs the section {ways}")
    return present


class Runner:
    """Runs stages of one experiment in one workspace."""

    def __init__(
        self,
        experiment: Experiment,
        workspace: Workspace,
        stages: Sequence[Stage] = STAGES,
        launch: str | None = None,
    ) -> None:
        self.experiment = experiment
        self.workspace = workspace
        self.launch = launch
        self.folder = workspace.run_folder(experiment.name)
        self._plan = {arm.name: stages_of(arm, experiment.file, stages) for arm in experiment.arms}
        self._done: dict[tuple[str, int, str], Done] = {}
        self._whole = True

    def run(self, until: str | None = None) -> Iterator[Done]:
        """Run every stage that is missing or stale, arm by arm and seed by seed; `until` names one stage to stop at.

        With `until`, the stages before it must be done already: a single stage's command never starts another.
        """
        self._whole = until is None
        self.folder.mkdir(parents=True, exist_ok=True)
        files.remove_partials(self.folder)
        files.write_json(self.folder / "experiment.json", self.experiment.resolved())
        for arm in self.experiment.arms:
            for seed in self.experiment.seeds:
                for stage in self._plan[arm.name]:
                    yield self._advance(arm, seed, stage, only_check=until is not None and stage.name != until)
                    if stage.name == until:
                        break

    def planned(self, name: str) -> Iterator[StageRun]:
        """What a stage would be run with, once where several arms or seeds agree; runs nothing.

        The stages before it must be done already.
        """
        seen: set[Path] = set()
        for arm in self.experiment.arms:
            for seed in self.experiment.seeds:
                for stage in self._plan[arm.name]:
                    if stage.name == name:
                        inputs, sections = self._inputs(arm, seed, stage), _sections(arm, stage)
                        about = _about(stage, stage.load(), sections, inputs, seed)
                        folder = self.folder / rundir.folder_name(stage.name, digest(about))
                        if folder not in seen:
                            yield self._stage_run(stage, folder, inputs, sections, seed)
                        seen.add(folder)
                        break
                    self._advance(arm, seed, stage, only_check=True)

    def has(self, stage: str) -> bool:
        """Whether any arm asks for this stage."""
        return any(stage == planned.name for plan in self._plan.values() for planned in plan)

    def _advance(self, arm: Arm, seed: int, stage: Stage, only_check: bool) -> Done:
        inputs = self._inputs(arm, seed, stage)
        sections = _sections(arm, stage)
        module = stage.load()
        about = _about(stage, module, sections, inputs, seed)
        key = digest(about)
        folder = self.folder / rundir.folder_name(stage.name, key)
        known = next((d for d in self._done.values() if d.folder == folder), None)
        manifest = known.manifest if known is not None else rundir.finished(folder, key)
        ran = False
        if manifest is None:
            if only_check:
                raise ConfigError(
                    f"stage `{stage.name}` is not done for this experiment; "
                    f"run `distill {stage.name} {self.experiment.file}` first, or `distill run {self.experiment.file}`"
                )
            manifest = self._execute(arm, seed, stage, module, sections, inputs, about, key, folder)
            ran = True
        done = Done(stage, folder, manifest, ran)
        self._done[arm.name, seed, stage.stands_for or stage.name] = done
        if not only_check and (ran or self._whole or not (self.folder / rundir.INDEX).exists()):
            self._write_index()  # a stage's own command that found it done leaves what comes after it in the index
        if not only_check and known is None:
            _tell(done, self.folder)
        return done

    def _inputs(self, arm: Arm, seed: int, stage: Stage) -> dict[str, Done]:
        found = {}
        module = stage.load()
        unread = module.unread(_sections(arm, stage)) if hasattr(module, "unread") else ()
        for name in stage.inputs:
            plain = name.strip("()")
            if plain in unread:
                continue
            done = self._done.get((arm.name, seed, plain))
            if done is not None:
                found[plain] = done
        return found

    def _execute(
        self,
        arm: Arm,
        seed: int,
        stage: Stage,
        module: ModuleType,
        sections: Mapping[str, Settings],
        inputs: Mapping[str, Done],
        about: Mapping[str, Any],
        key: str,
        folder: Path,
    ) -> Manifest:
        with rundir.locked(self.folder, stage.name, key):
            manifest = rundir.finished(folder, key)  # another process may have finished it while we came here
            if manifest is not None:
                return manifest
            rundir.begin(folder)
            label = (
                f" (arm {arm.name}, seed {seed})" if len(self.experiment.arms) * len(self.experiment.seeds) > 1 else ""
            )
            say(f"{stage.name:<9} starts{label}")
            started, began_s = datetime.now(UTC), time.monotonic()
            self._make_again(arm, seed, inputs.values())
            try:
                report: Report = module.run(self._stage_run(stage, folder, inputs, sections, seed))
            except (OSError, DistillError) as error:
                unpublished = _unpublished(error, inputs.values())
                if unpublished is None:
                    raise
                raise DistillError(f"{stage.name}: {unpublished}") from error
            return rundir.finish(
                folder,
                {
                    "key": key,
                    "made_of": about,
                    "inputs": {name: done.folder.name for name, done in inputs.items()},
                    "settings": {name: section.dump() for name, section in sections.items()},
                    "seed": seed if stage.seeded else None,
                    "summary": report.summary,
                    "rows": report.rows,
                    "counts": report.data,
                    "missed": report.missed,
                    "environment": rundir.environment(),
                    "started": started.isoformat(timespec="seconds"),
                    "seconds": round(time.monotonic() - began_s, 3),
                },
            )

    def _make_again(self, arm: Arm, seed: int, inputs: Iterable[Done]) -> None:
        """Fill pulled stages that read no other stage: what they make must be, byte for byte, what was published."""
        for done in inputs:
            lacking = sorted(name for name in rundir.absent(done.folder) if not rundir.unhashed(name))
            if done.stage.inputs or not lacking:
                continue
            say(f"{done.stage.name:<9} was pulled without its files; they are made again from its source")
            again = done.folder / "work" / "again"
            shutil.rmtree(again, ignore_errors=True)
            again.mkdir(parents=True)
            done.stage.load().run(self._stage_run(done.stage, again, {}, _sections(arm, done.stage), seed))
            made, published = rundir.outputs_of(again), done.manifest.data["files"]
            for name in lacking:
                if made.get(name) != published[name]:
                    raise DistillError(
                        f"{done.folder / name}: made again from its source, it is not what was published; "
                        "the source, or the code that reads it, has changed since"
                    )
            for name in lacking:
                (done.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (again / name).replace(done.folder / name)
            shutil.rmtree(done.folder / "work")
            files.write_json(done.folder / rundir.ABSENT, sorted(rundir.absent(done.folder) - set(lacking)))

    def _stage_run(
        self, stage: Stage, folder: Path, inputs: Mapping[str, Done], sections: Mapping[str, Settings], seed: int
    ) -> StageRun:
        folders = {name: done.folder for name, done in inputs.items()}
        return StageRun(stage.name, folder, folders, sections, seed, self.workspace, self.launch)

    def _write_index(self) -> None:
        """`run.json`: the folders of the experiment as it stands, by arm and seed. Written after every stage."""
        arms: dict[str, dict[str, dict[str, Any]]] = {}
        for arm in self.experiment.arms:
            for seed in self.experiment.seeds:
                stages: dict[str, Any] = {}
                for (name, at, _), done in self._done.items():
                    if (name, at) == (arm.name, seed):
                        data = done.manifest.data
                        stages[done.stage.name] = {
                            "key": data["key"], "folder": done.folder.name, "seconds": data["seconds"],
                        }  # fmt: skip
                if stages:
                    arms.setdefault(arm.name, {})[str(seed)] = stages
        index = {"name": self.experiment.name, "experiment": Path(self.experiment.file).name, "arms": arms}
        path = self.folder / rundir.INDEX
        if not path.exists() or files.read_json(path) != index:
            files.write_json(path, index)
            files.crash_point("run.index-written")


def _sections(arm: Arm, stage: Stage) -> dict[str, Settings]:
    """The sections that a stage reads, those in parentheses where the arm has them."""
    names = [name.strip("()") for name in stage.sections]
    return {name: arm.sections[name] for name in names if name in arm.sections}


def _unpublished(error: OSError | DistillError, inputs: Iterable[Done]) -> str | None:
    """What to say of a fault that names a file which a pulled stage does not have; None if it has another cause."""
    for done in inputs:
        for name in sorted(rundir.absent(done.folder)):
            for place in (done.folder / name, done.folder / Path(name).parts[0]):
                if str(place) in str(error) and not place.exists():
                    return (
                        f"needs {done.folder.name}/{name}, which was not published with this run; "
                        f"remove {done.folder} and run the experiment to make it anew"
                    )
    return None


def _about(
    stage: Stage, module: ModuleType, sections: Mapping[str, Settings], inputs: Mapping[str, Done], seed: int
) -> dict[str, Any]:
    """What a stage is made of; its hash is the stage's key."""
    externals = module.externals(sections) if hasattr(module, "externals") else {}
    settings = {name: section.keyed() for name, section in sections.items()}
    return {
        "stage": stage.name,
        "version": module.VERSION,
        "settings": module.keyed(sections) if hasattr(module, "keyed") else settings,
        "externals": externals,
        "inputs": {name: done.manifest.content for name, done in inputs.items()},
        "seed": seed if stage.seeded else None,
    }


def _tell(done: Done, run: Path) -> None:
    verb = "" if done.ran else "already done: "
    say(f"{done.stage.name:<9} {verb}{done.manifest.data['summary']}  [{run.name}/{done.folder.name}]")
