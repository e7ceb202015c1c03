"""Files that are whole or absent: written beside their place, synced, then renamed into it.

`crash_point` marks every place where a kill matters. With `DISTILL_CRASH_AT=name` (or `name:3` for its third passing)
in the environment the process kills itself there with SIGKILL; the tests walk over all of `CRASH_POINTS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CRASH_POINTS = (
    "attempt.before-commit",
    "attempt.after-commit",
    "ledger.before-commit",
    "ledger.after-commit",
    "ledger.shard-written",
    "file.before-sync",
    "file.before-rename",
    "file.after-rename",
    "stage.outputs-written",
    "manifest.written",
    "run.index-written",
    "checkpoint.half-written",
    "checkpoint.before-rename",
    "checkpoint.after-rename",
    "train.before-final",
    "train.final-written",
    "gguf.tensor-written",
    "export.before-rename",
    "export.file-written",
)
"""Every named write point, in the order a run meets them."""

_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here, as `kill -9` would, when the environment asks for it; nothing otherwise."""
    wanted = os.environ.get("DISTILL_CRASH_AT")
    if not wanted:
        return
    if name not in CRASH_POINTS:
        raise ValueError(f"crash point {name!r} is not listed in CRASH_POINTS")
    target, _, count = wanted.partition(":")
    if target == name:
        _passed[name] += 1
        if _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit sync it and rename it into place, else remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        crash_point("file.before-sync")
        sync(partial)
        crash_point("file.before-rename")
        partial.replace(path)
        sync(path.parent)
        crash_point("file.after-rename")
    except BaseException:  # Ctrl-C too: whatever ends the write, no half file stays; raised again below
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, as UTF-8."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync(path: Path) -> None:
    """fsync a file, or a folder with everything directly in it."""
    if path.is_dir():
        for child in path.iterdir():
            if child.is_file():
                sync(child)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partials(folder: Path) -> None:
    """Remove what processes that are gone left half written directly in `folder`."""
    for left in folder.glob(".*.partial-*"):
        number = left.name.rpartition("-")[2]
        if number.isdecimal() and int(number) != os.getpid() and _is_running(int(number)):
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so it is there
        return True
    return True


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
