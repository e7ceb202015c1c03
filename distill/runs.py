"""The runs of a workspace: what there is, what one holds, what tells two apart, and how one goes.

Reads run.json, experiment.json, manifests and results, and writes nothing. A folder that cannot be read is listed with
the reason, never a traceback. What goes is renamed first, under every lock of the run, so that a kill leaves the whole
run or a hidden folder that the next call removes; the workspace's ledger and its log-probabilities always stay.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from distill.core import files, rundir
from distill.core.errors import Busy, ConfigError, DistillError
from distill.core.stage import Workspace

EXPERIMENT = "experiment.json"
STAGE_FOLDER = re.compile(r"[a-z]+-[0-9a-f]{12}")
OURS = re.compile(r"(run|pulled)\.json|experiment\.(json|yaml)|report\.(html|json|md)|publish|\.(view|pull|locks)")
"""What else than stages a run folder holds."""
SHARED = ("logits",)
"""Folders of a workspace that are no run."""

State = Literal["complete", "unfinished", "being written", "broken", "not a run"]
StageState = Literal["done", "being written", "unfinished", "missing"]


@dataclass(frozen=True)
class Stage:
    """One stage of one arm and seed. `folder` None: it has not begun, or nobody can say under which key."""

    arm: str
    seed: str
    stage: str
    state: StageState
    folder: str | None = None
    key: str | None = None
    started: str | None = None
    """ISO 8601 in UTC."""
    seconds: float | None = None
    summary: str = ""
    missed: str | None = None
    """A bound that it missed."""


@dataclass(frozen=True)
class Result:
    """The rate of one model on the first task of an evaluation; fractions."""

    arm: str
    seed: str
    task: str
    model: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Run:
    """One folder of a workspace."""

    name: str
    folder: Path
    state: State
    note: str = ""
    """Why it is broken or no run, or which stages are being written."""
    when: str | None = None
    """When its latest stage began, ISO 8601 in UTC."""
    arms: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By arm, under flat dotted names (`train.loss.weight`)."""
    results: tuple[Result, ...] = ()
    bytes: int = 0
    """Of its files, each once."""
    unused: tuple[str, ...] = ()
    """Stage folders of earlier settings, which no arm uses now."""
    unknown: tuple[str, ...] = ()
    """What distill did not put there."""

    @property
    def done(self) -> int:
        """Stages that are done, over arms and seeds."""
        return sum(stage.state == "done" for stage in self.stages)


@dataclass(frozen=True)
class Relation:
    """What another run has to do with one that may go."""

    name: str
    reads: tuple[str, ...]
    """Settings of the other run that name files of this one: without it, it cannot run again."""
    same_stages: tuple[str, ...]
    """Stages that both have, each with files of its own: nothing is lost to the other."""


@dataclass(frozen=True)
class Difference:
    """A setting that differs. A value is that of all arms, or `{arm: value}` where they differ; ABSENT: not there."""

    setting: str
    one: Any
    other: Any


ABSENT: Any = object()
"""In the place of a setting that is not there; None is a value."""


def found(workspace: Workspace, stages: Sequence[str]) -> list[Run]:
    """Every folder of the workspace that could be a run, the latest first; `stages` are the names of all stages.

    Raises DistillError if there is no such workspace.
    """
    if not workspace.root.is_dir():
        raise DistillError(f"{workspace.root}: no such workspace; `--workspace` names the folder of all runs")
    folders = [
        path
        for path in sorted(workspace.root.iterdir())
        if path.is_dir() and not path.name.startswith(".") and path.name not in SHARED
    ]
    runs = [look(folder, stages) for folder in folders]
    return sorted(runs, key=lambda run: (run.when or "", run.name), reverse=True)


def named(workspace: Workspace, name: str) -> Path:
    """Folder of a run by its name in the workspace, or by its path. Raises ConfigError with the nearest name."""
    name = name.rstrip("/") or name
    path = workspace.root / name
    if name and Path(name).name == name and not name.startswith(".") and path.is_dir():
        return path
    given = Path(name).expanduser()
    if given.is_dir() and ((given / rundir.INDEX).exists() or (given / EXPERIMENT).exists()):
        return given
    there = sorted(p.name for p in workspace.root.iterdir() if p.is_dir()) if workspace.root.is_dir() else []
    there = [other for other in there if not other.startswith(".") and other not in SHARED]
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"Did you mean `{near[0]}`?" if near else f"There is {', '.join(there) or 'none'}."
    raise ConfigError(f"{workspace.root}: no run `{name}`. {hint}")


def look(folder: Path, stages: Sequence[str]) -> Run:
    """What a folder holds. Never raises for what is in it."""
    empty = Run(folder.name, folder, "not a run")
    try:
        empty = replace(empty, bytes=size_of(folder))
        if not (folder / rundir.INDEX).exists() and not (folder / EXPERIMENT).exists():
            return replace(empty, note=f"no {rundir.INDEX} and no {EXPERIMENT}")
        return _look(empty, stages)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, DistillError) as error:
        return replace(empty, state="broken", note=_reason(error, folder))


def narrowed(run: Run, arm: str) -> Run:
    """A run as if it had this arm alone. Raises ConfigError if it has no such arm."""
    if arm not in run.arms:
        raise ConfigError(f"{run.folder}: no arm `{arm}`; it has {', '.join(run.arms) or 'none'}")
    return replace(
        run,
        arms=(arm,),
        stages=tuple(stage for stage in run.stages if stage.arm == arm),
        settings={name: settings for name, settings in run.settings.items() if name == arm},
        results=tuple(result for result in run.results if result.arm == arm),
    )


def difference(one: Run, other: Run) -> list[Difference]:
    """The settings that differ, by name. Arms of one run that agree count as one value, whatever they are called."""
    mine, theirs = collapsed(one), collapsed(other)
    pairs = ((name, mine.get(name, ABSENT), theirs.get(name, ABSENT)) for name in sorted({*mine, *theirs}))
    return [Difference(name, a, b) for name, a, b in pairs if a is ABSENT or b is ABSENT or a != b]


def collapsed(run: Run) -> dict[str, Any]:
    """Settings by flat name: the value of all arms, or `{arm: value}` (without arms that lack it) where they differ."""
    flat: dict[str, Any] = {}
    for name in dict.fromkeys(name for settings in run.settings.values() for name in settings):
        values = {arm: settings[name] for arm, settings in run.settings.items() if name in settings}
        first = next(iter(values.values()))
        same = len(values) == len(run.settings) and all(value == first for value in values.values())
        flat[name] = first if same else values
    return flat


def same_stages(one: Run, other: Run) -> tuple[str, ...]:
    """Names of stages that both have done under the same key, which is to say with the same content."""
    keys = {stage.key for stage in one.stages if stage.state == "done"}
    return tuple(dict.fromkeys(s.stage for s in other.stages if s.state == "done" and s.key in keys))


def relations(run: Run, others: Sequence[Run]) -> list[Relation]:
    """What each other run has to do with this one."""
    return [
        Relation(other.name, tuple(_reads(other, run.folder)), same_stages(run, other))
        for other in others
        if other.folder.resolve() != run.folder.resolve() and other.state != "not a run"
    ]


def means(run: Run) -> dict[tuple[str, str], tuple[float, int]]:
    """By arm and model: the mean rate over seeds, and over how many."""
    values: dict[tuple[str, str], list[float]] = {}
    for result in run.results:
        if result.value is not None:
            values.setdefault((result.arm, result.model), []).append(result.value)
    return {name: (fmean(rates), len(rates)) for name, rates in values.items()}


def refusal(workspace: Workspace, run: Run) -> str | None:
    """Why a folder is not deleted; None: it may be."""
    if run.folder.is_symlink():
        return f"{run.folder}: is a link; delete what it leads to, or remove the link by hand"
    if run.folder.resolve().parent != workspace.root.resolve():
        return f"{run.folder}: is not in the workspace {workspace.root}; name its workspace with `--workspace`"
    if run.state == "not a run":
        return f"{run.folder}: is not a run ({run.note}); remove it by hand"
    if run.state == "being written":
        return f"{run.folder}: is being written ({run.note}); wait for it, or stop it"
    return None


def delete(workspace: Workspace, run: Run) -> None:
    """Rename the run out of sight under all its locks, then remove it.

    Raises Busy if a process is writing one of its stages, DistillError where `refusal` has something to say.
    """
    from filelock import FileLock, Timeout

    if (why := refusal(workspace, run)) is not None:
        raise DistillError(why)
    gone = workspace.root / f".{run.name}.partial-{os.getpid()}"
    with ExitStack() as held:
        for path in sorted((run.folder / ".locks").glob("*.lock")):
            try:
                held.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise Busy(f"{run.folder}: {path.stem} is being written; wait for it, or stop it") from None
        run.folder.rename(gone)
    files.sync(workspace.root)
    shutil.rmtree(gone)


def clear(workspace: Workspace) -> list[str]:
    """Remove what killed deletions have left; returns the names of those runs."""
    left = {path.name: path for path in workspace.root.glob(".*.partial-*")}
    files.remove_partials(workspace.root)
    return sorted(name[1:].rpartition(".partial-")[0] for name, path in left.items() if not path.exists())


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, each once however many names it has there; links are not followed."""
    seen: dict[tuple[int, int], int] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                about = Path(where, name).lstat()
            except FileNotFoundError:  # a run that is being written moves its files
                continue
            if stat.S_ISREG(about.st_mode):
                seen[about.st_dev, about.st_ino] = about.st_size
    return sum(seen.values())


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Settings under dotted names: `{"a": {"b": 1}}` gives `("a.b", 1)`; members of a list of mappings are `a[0].b`."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        for place, inner in enumerate(value):
            yield from flat(inner, f"{name}[{place}]")
    else:
        yield name, value


def _look(empty: Run, stages: Sequence[str]) -> Run:
    folder = empty.folder
    experiment = _read(folder / EXPERIMENT, {"arms": {}, "seeds": []})
    index = _read(folder / rundir.INDEX, {"arms": {}})["arms"]
    writing = _being_written(folder)
    arms = tuple(dict.fromkeys([*experiment["arms"], *(() if experiment["arms"] else index)]))
    seeds = tuple(dict.fromkeys([*map(str, experiment["seeds"]), *(() if experiment["seeds"] else _seeds(index))]))
    entries: list[Stage] = []
    results: list[Result] = []
    for arm in arms:
        there = {name for by_stage in index.get(arm, {}).values() for name in by_stage}
        asked = [name for name in stages if _asks(experiment["arms"].get(arm, {}).get(name))]
        for seed in seeds:
            noted = index.get(arm, {}).get(seed, {})
            for name in [name for name in stages if name in asked or name in there]:
                stage = _stage(folder, arm, seed, name, noted.get(name), writing)
                entries.append(stage)
                if name == "evaluate" and stage.state == "done":
                    results += _results(folder / str(stage.folder), arm, seed)
    used = {stage.folder for stage in entries}
    present = sorted(path.name for path in folder.iterdir())
    complete = bool(entries) and all(stage.state == "done" for stage in entries)
    began = max((stage.started for stage in entries if stage.started), default=None)
    return replace(
        empty,
        state="being written" if writing else "complete" if complete else "unfinished",
        note=", ".join(f"{name} by process {pid}" for name, pid in sorted(writing.items())),
        when=began or _modified(folder),
        arms=arms,
        seeds=seeds,
        stages=tuple(entries),
        settings={arm: dict(flat(sections)) for arm, sections in experiment["arms"].items()},
        results=tuple(results),
        unused=tuple(n for n in present if STAGE_FOLDER.fullmatch(n) and n not in used and n not in writing),
        unknown=tuple(n for n in present if not STAGE_FOLDER.fullmatch(n) and not OURS.fullmatch(n)),
    )


def _asks(section: Any) -> bool:
    """Whether a resolved section asks for its stage; `export: []` does not."""
    return section is not None and not (isinstance(section, Mapping) and section.get("formats") == [])


def _stage(
    run: Path, arm: str, seed: str, name: str, noted: Mapping[str, Any] | None, writing: Mapping[str, int]
) -> Stage:
    """One stage, by what the index says of it and what its folder holds."""
    if noted is None:
        state: StageState = "being written" if any(other.rpartition("-")[0] == name for other in writing) else "missing"
        return Stage(arm, seed, name, state)
    folder, key = str(noted["folder"]), str(noted["key"])
    try:
        manifest = rundir.finished(run / folder, key)
    except ValueError as error:
        raise DistillError(f"{folder}/{rundir.MANIFEST} is not JSON ({error})") from error
    if manifest is None:
        return Stage(arm, seed, name, "being written" if folder in writing else "unfinished", folder, key)
    data = manifest.data
    return Stage(
        arm, seed, name, "done", folder, key, str(data["started"]), float(data["seconds"]), str(data["summary"]),
        data["missed"],
    )  # fmt: skip


def _results(folder: Path, arm: str, seed: str) -> Iterator[Result]:
    """The rates of the first task; of an evaluation of before there were tasks, its only ones. None of a pulled stage
    that was published without them.
    """
    if not (folder / "results.json").exists():
        return
    data = files.read_json(folder / "results.json")
    for task in data.get("tasks", [data])[:1]:
        for model in task["models"]:
            rate = model["rate"]
            name = str(task.get("name", "problems"))
            yield Result(arm, seed, name, str(model["name"]), rate["value"], rate["low"], rate["high"])


def _reads(other: Run, folder: Path) -> Iterator[str]:
    """Settings of another run that name a file or folder in this one."""
    target = folder.resolve()
    places = (Path.cwd(), other.folder.parent.resolve().parent)  # where relative paths may have been meant
    for name, value in dict.fromkeys((n, v) for s in other.settings.values() for n, v in _texts(s)):
        path = Path(value).expanduser()
        if any((place / path).resolve().is_relative_to(target) for place in places):
            yield name


def _texts(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "/" in text and "\n" not in text and len(text) < 4096:
                yield name, text


def _being_written(folder: Path) -> dict[str, int]:
    """Stage folders that a living process of this host says it is writing, with its number.

    From what the processes note beside their locks: to try a lock would hold it for a moment, and another process
    would find it held.
    """
    import psutil

    found = {}
    for path in (folder / ".locks").glob("*.pid"):
        try:
            number, noted_s = int(path.read_text(encoding="utf-8")), path.stat().st_mtime
            if psutil.Process(number).create_time() <= noted_s + 1:  # a later process may have the number of a dead one
                found[path.stem] = number
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            continue  # it has just ended, or was killed as it noted itself
    return found


def _seeds(index: Mapping[str, Any]) -> list[str]:
    return [seed for by_seed in index.values() for seed in by_seed]


def _read(path: Path, otherwise: Mapping[str, Any]) -> Any:
    """A JSON object, `otherwise` where there is no such file. Raises DistillError with the file's name."""
    if not path.exists():
        return otherwise
    try:
        data = files.read_json(path)
    except ValueError as error:
        raise DistillError(f"{path.name} is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise DistillError(f"{path.name} holds a {type(data).__name__}, not an object")
    return data


def _modified(folder: Path) -> str:
    """When the experiment was last started here, as far as the file's date says."""
    path = folder / EXPERIMENT if (folder / EXPERIMENT).exists() else folder / rundir.INDEX
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _reason(error: Exception, folder: Path) -> str:
    """One line on what could not be read."""
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    text = " ".join(str(error).replace(f"{folder}{os.sep}", "").split())
    return text[:200] or type(error).__name__
