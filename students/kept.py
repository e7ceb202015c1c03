"""What the student was at certain steps of its training, kept as folders like the final one (`train.keep_every`).

    work/kept-PLAN/student@300/     written at that step, whole or not at all; a resumed run finds it there
    student@300/                    the same files beside `student/`, once training has ended

Such a folder comes before the checkpoint of its step, so that whoever resumes has all that were kept before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.core import files, rundir


class Kept:
    """Keeps the student every so many steps. `write(folder, model, weights)` writes it, and leaves it as it is.

    `plan` names rows, settings and seed, as for checkpoints. Of several processes the leader keeps; the others know
    when.
    """

    def __init__(self, every: int, work: Path, plan: str, write: Callable[[Path, Any, Any], None]) -> None:
        self.every, self._write = every, write
        self._folder = work / f"kept-{plan[:12]}"

    def due(self, step: int) -> bool:
        """Whether the student is kept after this step."""
        return step % self.every == 0

    def add(self, step: int, model: Any, weights: Any) -> None:
        """Keep it; one that a killed run has kept of a step after its last checkpoint is replaced."""
        files.remove_partials(self._folder)
        self._write(self._folder / rundir.snapshot_name(step), model, weights)

    def complete(self, step: int) -> bool:
        """Whether all that were due until this step are there: a checkpoint without them is not resumed."""
        return set(range(self.every, step + 1, self.every)) <= set(rundir.snapshots(self._folder))

    def put(self, out: Path) -> list[int]:
        """Link all of them into `out`, and say of which steps they are. They stay in the scratch, which goes last: a
        kill in between loses none.
        """
        steps = rundir.snapshots(self._folder)
        for step in steps:
            target = out / rundir.snapshot_name(step)
            if target.exists():
                shutil.rmtree(target)
            shutil.copytree(self._folder / target.name, target, copy_function=_link)
        return steps


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
