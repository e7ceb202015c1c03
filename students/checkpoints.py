"""Checkpoints that are whole or absent: filled in a temporary folder, hashed, renamed; resumed only if all hashes hold.

    work/checkpoint-12/     what transformers writes (weights or adapter, optimizer.pt, scheduler.pt, rng_state.pth),
                            history.json, and last checkpoint.json: step, plan, SHA-256 of every other file

A missing optimizer file would resume with a fresh Adam in silence: the hashes refuse it. The pickled files are our own
and hash-checked, and transformers reads them with `weights_only`, so that nothing in them is run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.errors import DistillError
from students.processes import Ranks

MANIFEST = "checkpoint.json"
ALONE = Ranks()


@contextmanager
def writing(work: Path, step: int, plan: str, ranks: Ranks = ALONE, *, sharded: bool = False) -> Iterator[Path]:
    """Yield a scratch folder in which `checkpoint-STEP` is to be filled; on a clean exit it is hashed and put in place.

    `plan` names what is trained (rows, settings, seed): a checkpoint of another plan is never resumed. Older
    checkpoints go once the new one is in place. Several processes come here together: each puts its own files into the
    scratch folder, and the leader does the rest.
    """
    scratch = work / ranks.agreed(f".checkpoint.partial-{os.getpid()}")
    if ranks.leads:
        files.remove_partials(work)
        scratch.mkdir()
    ranks.wait()
    yield scratch
    ranks.wait()
    if ranks.leads:
        _put_in_place(work, scratch, {"step": step, "plan": plan, "sharded": sharded})


def _put_in_place(work: Path, scratch: Path, about: dict[str, Any]) -> None:
    step = about["step"]
    folder = scratch / f"checkpoint-{step}"
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.sync(path)
            hashes[path.relative_to(folder).as_posix()] = files.sha256_file(path)
    files.write_json(folder / MANIFEST, {**about, "files": hashes})
    files.sync(folder)
    files.crash_point("checkpoint.before-rename")
    target = work / folder.name
    if target.exists():
        shutil.rmtree(target)
    folder.replace(target)
    files.sync(work)
    files.crash_point("checkpoint.after-rename")
    scratch.rmdir()
    for older in work.glob("checkpoint-*"):
        if older != target:
            shutil.rmtree(older)


def check_layout(folder: Path, *, sharded: bool) -> None:
    """Raise DistillError if a checkpoint holds whole weights and these are sharded, or the other way round."""
    was = files.read_json(folder / MANIFEST)["sharded"]
    if was != sharded:
        how = {True: "a sharded model (FSDP2, ZeRO-3)", False: "whole weights (one process, DDP)"}
        raise DistillError(
            f"{folder}: written of {how[was]}, and cannot go on with {how[sharded]}; go on with the `--launch` that it "
            f"was written with, or remove {folder.parent} to train anew"
        )


def latest(work: Path, plan: str) -> Path | None:
    """The newest complete checkpoint of this plan, or None."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((folder for folder in found if _complete(folder, plan)), None)


def _complete(folder: Path, plan: str) -> bool:
    if not (folder / MANIFEST).exists():
        return False
    about = files.read_json(folder / MANIFEST)
    return about["plan"] == plan and all(
        (folder / name).is_file() and files.sha256_file(folder / name) == sha256
        for name, sha256 in about["files"].items()
    )
