"""The run directory: one folder a stage, keyed by content; the manifest is written last, so "done" means it is there.

runs/                        the workspace
  ledger.sqlite  logits/     every paid answer, shared by all experiments
  quickstart/                one run
    experiment.json          the resolved experiment
    run.json                 which stage folder belongs to which arm and seed
    train-1a2b3c4d5e6f/      a stage: its outputs, then manifest.json
    report.html
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.config import digest
from distill.core.errors import Busy, ConfigError, DistillError

MANIFEST = "manifest.json"
INDEX = "run.json"
ABSENT = "absent.json"
"""In a stage that was pulled from the Hub: names of those outputs that were not published with it."""
UNHASHED = ("timing.json", "*.log")
"""Outputs that hold clock figures: kept, but no part of a stage's content."""
PACKAGES = (
    "reasoning-distill", "torch", "transformers", "trl", "peft", "datasets", "tokenizers", "safetensors", "gguf",
    "xllamacpp", "math-verify", "numpy", "pyarrow",
)  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself. `content` is the hash of its outputs: what later stages are keyed by."""

    data: Mapping[str, Any]

    @property
    def content(self) -> str:
        """Hash over names and SHA-256 of all outputs."""
        return str(self.data["content"])


def folder_name(stage: str, key: str) -> str:
    """Folder of a stage inside its run."""
    return f"{stage}-{key[:12]}"


def finished(folder: Path, key: str) -> Manifest | None:
    """The manifest of a finished stage, or None if it is not done: no manifest, or an output missing or resized.

    A pulled stage is done without the outputs that were not published: its content is known by their hashes.
    Raises DistillError if the folder belongs to another key (a collision, or a hand-made folder).
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["key"] != key:
        raise DistillError(f"{path}: holds key {data['key'][:12]}, not {key[:12]}; move the folder away")
    unpublished = absent(folder)
    for name, about in data["files"].items():
        output = folder / name
        if name in unpublished:
            continue
        if not output.is_file() or output.stat().st_size != about["bytes"]:
            return None
    return Manifest(data)


def absent(folder: Path) -> frozenset[str]:
    """Outputs that a pulled stage knows by their hashes alone; none in a stage that was run here."""
    path = folder / ABSENT
    return frozenset(files.read_json(path)) if path.exists() else frozenset()


def content_of(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """A stage's content: the hash over names and SHA-256 of its outputs, clock figures and logs aside."""
    return digest({name: about["sha256"] for name, about in outputs.items() if not unhashed(name)})


@contextmanager
def locked(run: Path, stage: str, key: str) -> Iterator[None]:
    """Hold the lock of one stage, or raise Busy at once: two processes never write the same manifest.

    The lock is the system's (flock), so it ends with the process, however that ends.
    """
    from filelock import FileLock, Timeout

    folder = run / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{folder_name(stage, key)}.lock"
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        owner = path.with_suffix(".pid")
        by = f" (process {owner.read_text(encoding='utf-8').strip()})" if owner.exists() else ""
        raise Busy(
            f"{run.name}: stage {stage} is being written by another process{by}; wait for it, or stop it"
        ) from None
    try:
        path.with_suffix(".pid").write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        path.with_suffix(".pid").unlink(missing_ok=True)
        lock.release()


def begin(folder: Path) -> None:
    """Make the stage's folder ready: the scratch of a killed run stays, its half-written files and old outputs go."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for left in folder.iterdir():
        if left.name == "work":
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def finish(folder: Path, about: Mapping[str, Any]) -> Manifest:
    """Hash the outputs, write the manifest last, drop the scratch."""
    files.crash_point("stage.outputs-written")
    outputs = outputs_of(folder)
    data = {**about, "content": content_of(outputs), "files": outputs}
    files.write_json(folder / MANIFEST, data)
    files.crash_point("manifest.written")
    if (folder / "work").exists():
        shutil.rmtree(folder / "work")
    return Manifest(data)


def outputs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every output in a stage's folder, by name."""
    outputs = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("work/") and name not in (MANIFEST, ABSENT):
            outputs[name] = {"sha256": files.sha256_file(path), "bytes": path.stat().st_size}
    return outputs


def unhashed(name: str) -> bool:
    """Whether an output is kept without being part of the stage's content."""
    return any(fnmatch(Path(name).name, pattern) for pattern in UNHASHED)


def environment() -> dict[str, Any]:
    """Versions and machine facts for the record; none of it is keyed, and none names the machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": versions,
    }


def read_index(run: Path) -> dict[str, Any]:
    """`run.json` of a run folder. Raises ConfigError if it is not one."""
    path = run / INDEX
    if not path.exists():
        raise ConfigError(f"{run}: not a run folder (no {INDEX}); `distill run EXPERIMENT.yaml` makes one")
    index: dict[str, Any] = files.read_json(path)
    return index


def student_of(run: Path, arm: str | None = None, seed: int | None = None, step: int | None = None) -> Path:
    """Folder of the trained student of a run: of the first arm and seed unless named.

    `step` asks for what it was at that step, where that was kept. Raises DistillError if that arm or seed is unknown or
    not trained yet, or the step was not kept.
    """
    arms = read_index(run)["arms"]
    arm = arm if arm is not None else next(iter(arms))
    if arm not in arms:
        raise DistillError(f"{run}: no arm `{arm}`; it has {', '.join(arms)}")
    by_seed = arms[arm]
    chosen = str(seed) if seed is not None else next(iter(by_seed))
    if chosen not in by_seed:
        raise DistillError(f"{run}: arm `{arm}` has no seed {chosen}; it has {', '.join(by_seed)}")
    if "train" not in by_seed[chosen]:
        raise DistillError(f"{run}: arm `{arm}` is not trained yet; `distill train` its experiment first")
    train = run / str(by_seed[chosen]["train"]["folder"])
    return train / "student" if step is None else snapshot_of(train, step)


def snapshot_name(step: int) -> str:
    """Folder of what a student was at a step of its training, beside `student`."""
    return f"student@{step}"


def snapshots(train: Path) -> list[int]:
    """Steps of which a train stage kept the student (`train.keep_every`), ascending."""
    steps = (path.name.removeprefix("student@") for path in train.glob("student@*"))
    return sorted(int(step) for step in steps if step.isdecimal())


def snapshot_of(train: Path, step: int) -> Path:
    """Folder of what the student of a train stage was at this step. Raises DistillError if that was not kept."""
    kept = snapshots(train)
    if step not in kept:
        there = ", ".join(map(str, kept)) if kept else "none; set `train.keep_every` and train anew"
        raise DistillError(f"{train}: the student of step {step} was not kept; there is {there}")
    return train / snapshot_name(step)
