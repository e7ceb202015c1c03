"""A finished run folder, made in a second: real manifests and formats, with weights that are noise."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distill.core import files, rundir, tables
from distill.core.config import digest
from distill.core.models import resolve
from distill.core.records import Message, Problem, Sample, Trace, Verdict
from distill.evaluate import scores
from distill.export import merge

WEIGHTS = 2_300_000
"""Bytes of the model: three parts of a test Hub's megabyte each."""

PUBLISH = {"repo": "you/student"}


def make(run: Path, *, weights: int = 0, publish: Mapping[str, Any] | None = None, name: str = "made") -> Path:
    """A run of one arm and seed, whose student's weights are the noise of seed `weights`."""
    made = _Run(run)
    embedded = resolve("embedded-student")
    noise = random.Random(weights).randbytes(WEIGHTS)

    def student(out: Path) -> None:
        out.mkdir(parents=True)
        for file in merge.SMALL_FILES:
            if (embedded / file).exists() and file != "README.md":
                (out / file).write_bytes((embedded / file).read_bytes())
        (out / "model.safetensors").write_bytes(noise)
        (out / "training_args.bin").write_bytes(b"\x80\x04pickled, and never published")

    def train(out: Path) -> None:
        student(out / "student")
        files.write_json(out / "report.json", {"target": "trace"})

    def evaluate(out: Path) -> None:
        files.write_json(out / "results.json", {"split": "test", "tasks": [], "guard": None})
        scores.write(out, [])

    def export(out: Path) -> None:
        student(out / "safetensors" / "student")
        (out / "gguf-q8_0").mkdir()
        (out / "gguf-q8_0" / "student-q8_0.gguf").write_bytes(b"GGUF" + noise[:200_000])
        (out / "gguf-q8_0" / "Modelfile").write_text("FROM ./student-q8_0.gguf\n")
        (out / "logs").mkdir()
        (out / "logs" / "gguf-q8_0.log").write_text(f"loading {out}\n")
        entries = [
            _proof("safetensors", "safetensors/student", WEIGHTS),
            _proof("gguf-q8_0", "gguf-q8_0/student-q8_0.gguf", 200_004),
        ]
        files.write_json(out / "proof.json", {"files": entries, "problems": 8})

    made.stage("problems", lambda out: tables.write(out / "problems.parquet", [], Problem))
    made.stage("sample", lambda out: tables.write(out / "samples.parquet", [], Sample))
    made.stage("verify", lambda out: tables.write(out / "verdicts.parquet", [], Verdict))
    made.stage("filter", _filter)
    made.stage("train", train)
    made.stage("evaluate", evaluate)
    made.stage("export", export)
    made.end(name, dict(publish or PUBLISH))
    return run


def _filter(out: Path) -> None:
    traces = [
        Trace(
            key=digest(n), problem_id=digest(["problem", n]), messages=(Message("user", f"What is {n} plus {n}?"),),
            reasoning=f"{n} and {n} is {2 * n}.", answer=f"\\boxed{{{2 * n}}}", gold=str(2 * n), domain="sums",
            source="embedded", licence="Apache-2.0", model_name="embedded-teacher", verdict="correct",
        )
        for n in range(6)
    ]  # fmt: skip
    tables.write(out / "traces.parquet", traces, Trace)
    files.write_json(out / "funnel.json", {})
    files.write_json(out / "rejected.json", [{"question": "a text that stays at home"}])


def _proof(name: str, file: str, n_bytes: int) -> dict[str, Any]:
    checks = [{"name": "values", "tier": tier, "missed": None, "figures": {}, "notes": []} for tier in (1, 2)]
    return {
        "name": name, "file": file, "bytes": n_bytes, "bits_per_weight": 8.5, "run": f"distill chat {file}",
        "types": {"Q8_0": 3}, "fallback": 0, "tiers": [1, 2], "missed": [], "checks": checks, "notes": [],
        "max_logprob_diff": 1e-5,
    }  # fmt: skip


class _Run:
    """Stage after stage, each finished as the pipeline finishes it."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.done: dict[str, tuple[str, Path, rundir.Manifest]] = {}

    def stage(self, name: str, write: Callable[[Path], object]) -> None:
        """Write its outputs and its manifest."""
        about = {
            "stage": name, "version": 1, "settings": {}, "externals": {}, "seed": 0 if name == "train" else None,
            "inputs": {stage: manifest.content for stage, (_, _, manifest) in self.done.items()},
        }  # fmt: skip
        key = digest(about)
        folder = self.run / rundir.folder_name(name, key)
        rundir.begin(folder)
        write(folder)
        student = {"model": "embedded-student", "revision": None}
        settings = {"train": {"train": {}, "student": student}, "export": {"export": {}, "student": student}}
        counts = {"where": str(self.run), "samples": 6, "problems": 6, "tokens": 60}
        manifest = rundir.finish(
            folder,
            {
                "key": key, "made_of": about, "inputs": {}, "settings": settings.get(name, {name: {}}), "seed": None,
                "summary": name, "rows": [], "counts": counts, "missed": None, "environment": {},
                "started": "2026-01-01T00:00:00+00:00", "seconds": 1.0,
            },
        )  # fmt: skip
        self.done[name] = (key, folder, manifest)

    def end(self, name: str, publish: dict[str, Any]) -> None:
        """Experiment and index."""
        sections: dict[str, Any] = {stage: {} for stage in self.done}
        sections |= {"export": {"formats": [{"format": "safetensors"}]}, "publish": publish}
        files.write_json(self.run / "experiment.json", {"name": name, "seeds": [0], "arms": {"main": sections}})
        stages = {
            stage: {"key": key, "folder": folder.name, "seconds": 1.0} for stage, (key, folder, _) in self.done.items()
        }
        index = {"name": name, "experiment": "made.yaml", "arms": {"main": {"0": stages}}}
        files.write_json(self.run / rundir.INDEX, index)
