"""The whole road on the embedded models, small enough for a test: the real command line in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EXPERIMENT = """\
name: small
seed: 0
problems: {source: embedded, train: 16, dev: 2, test: 8}
teacher: {model: embedded, engine: transformers}
sample: {policy: {fixed: 2}, max_tokens: 160, top_logprobs: 8}
verify: {verifier: math}
filter: [verdict, unfinished, repetition, exact_duplicates, {at_most: 2}]
student: {model: embedded, adapter: none}
train: {epochs: 2, learning_rate: 2.0e-3, batch_size: 8, checkpoint_every_s: 0.0, loss: {forward_kl: {top_k: 8}}}
evaluate: {models: [base, student], max_tokens: 160}
export: [{format: gguf, type: q8_0}]
"""


STAGES = ("problems", "sample", "verify", "filter", "train", "evaluate", "export")


def command(*words: str) -> list[str]:
    """The command line for `words`."""
    return [sys.executable, "-m", "distill", *words]


def run(
    folder: Path, *words: str, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `distill WORDS` in `folder` to its end."""
    return subprocess.run(
        command(*words), cwd=folder, env=environment(env), input=stdin, capture_output=True, text=True, check=False
    )


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment, on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **(more or {})}


def prepare(folder: Path, text: str = EXPERIMENT) -> Path:
    """Write the experiment into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Manifests of the run, by stage folder."""
    found = sorted((folder / "runs" / "small").glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def contents(folder: Path, stages: Sequence[str]) -> dict[str, str]:
    """Content hash of the named stages: equal hashes are equal outputs, byte for byte."""
    return {
        name.rpartition("-")[0]: manifest["content"]
        for name, manifest in manifests(folder).items()
        if name.rpartition("-")[0] in stages
    }
