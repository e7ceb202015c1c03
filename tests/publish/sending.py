"""What tests of `distill publish` share."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from tests.publish.process import WRITER, HubProcess

ALLOW = ("--allow", "nothing-measured")
"""A made run has no results."""
MODEL, GGUF = "model.safetensors", "student-q8_0.gguf"


def publish(hub: HubProcess, run: Path, *words: str, token: str | None = WRITER) -> subprocess.CompletedProcess[str]:
    """`distill publish RUN --allow nothing-measured WORDS`."""
    return hub.quickly(run.parents[1], "publish", str(run), *ALLOW, *words, token=token)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error, which is one line; no traceback anywhere."""
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def writes(hub: HubProcess) -> list[str]:
    """Requests that could change something."""
    return [note["asked"] for note in hub.log() if not note["asked"].startswith(("GET", "HEAD"))]
