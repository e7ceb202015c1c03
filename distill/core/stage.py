"""What a stage is: a module with `Config`, `VERSION`, `run`, and, where they are needed, `externals`, `keyed` and
`unread`.

    VERSION = 1                                    # raised when the stage's meaning changes: old results go stale
    class Config(Settings): ...                    # its section of the experiment
    def externals(sections) -> dict[str, str]      # content hashes of model folders and files that it reads
    def keyed(sections) -> dict[str, Any]          # the settings that count, where not all of its sections do
    def unread(sections) -> set[str]               # inputs that these settings leave alone, where not all are read
    def run(stage: StageRun) -> Report             # reads stage.inputs, writes into stage.out; nothing else

The pipeline owns keys, folders, locks and manifests; a stage never writes its own manifest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core.config import Settings


@dataclass(frozen=True)
class Workspace:
    """Where runs live: `root` holds the shared ledger and one folder a run."""

    root: Path

    @property
    def ledger(self) -> Path:
        """The workspace's one SQLite ledger."""
        return self.root / "ledger.sqlite"

    def run_folder(self, name: str) -> Path:
        """Folder of the run called `name`."""
        return self.root / name


@dataclass(frozen=True)
class StageRun:
    """What a stage is given. `out` exists; `work` is scratch that survives a kill and goes when the stage is done."""

    name: str
    out: Path
    inputs: Mapping[str, Path]
    sections: Mapping[str, Settings]
    seed: int
    workspace: Workspace
    launch: str | None = None
    """Processes for a stage that can use several (`train`): a number, or accelerate's configuration file."""

    @property
    def work(self) -> Path:
        """Scratch folder of this stage (checkpoints): kept across kills, removed once the manifest is written."""
        folder = self.out / "work"
        folder.mkdir(exist_ok=True)
        return folder

    def say(self, text: str) -> None:
        """One line for the person, on stderr."""
        say(f"{self.name:<9} {text}")


@dataclass(frozen=True)
class Report:
    """What a stage says at its end: one line, a table for people, and the same as plain data for `--json`."""

    summary: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    missed: str | None = None
    """A bound that was missed: the work is done and written, the command ends with exit code 3 and this line."""


def say(text: str) -> None:
    """One line on stderr: progress and remarks go there, answers go to stdout."""
    print(text, file=sys.stderr, flush=True)
