"""A sampling run against the fault server, by the real command line: its folder, its commands, what it left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from distill import cli
from distill.core import tables
from distill.core.records import Sample
from tests.served.process import ROOT


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Run:
    """One experiment in a folder of its own; several may share a workspace.

    `engine`, `sample`, `teacher` and `problems` are settings on top of the plain ones.
    """

    folder: Path
    url: str
    questions: int = 20
    n: int = 3
    name: str = "served"
    engine: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> Run:
        """Write problems and experiment, and do what comes before sampling."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = [{"question": f"What is {i} + {7 * i + 2}?", "answer": str(8 * i + 2)} for i in range(self.questions)]
        (self.folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.write()
        done = self.here("problems")
        assert done.code == 0, done.stderr
        return self

    def write(self) -> None:
        """Write the experiment's file as the settings are now."""
        engine = {"url": self.url, "concurrency": 64, **self.engine}
        sections = {
            "name": self.name,
            "problems": {"source": {"jsonl": {"path": str(self.folder / "problems.jsonl"), "split": "train"}}},
            "teacher": {"model": "acme/teacher-7b", "engine": {"openai": engine}} | self.teacher,
            "sample": {"policy": {"fixed": self.n}, "max_tokens": 2000, **self.sample},
        }
        (self.folder / f"{self.name}.yaml").write_text(json.dumps(sections))  # JSON is YAML

    def command(self, stage: str = "sample", *more: str) -> list[str]:
        """The command line of one stage, as a process of its own."""
        return [sys.executable, "-m", "distill", *self.words(stage, *more)]

    def words(self, stage: str = "sample", *more: str) -> list[str]:
        """What follows `distill` on the command line."""
        return [stage, str(self.folder / f"{self.name}.yaml"), "--workspace", str(self.folder / "runs"), *more]

    def here(self, stage: str = "sample", *more: str) -> Ended:
        """Run a stage to its end by the command line's own entry, in this process: a second or more is saved."""
        out, err = io.StringIO(), io.StringIO()
        code: Any = 0
        with (
            mock.patch.object(sys, "argv", ["distill", *self.words(stage, *more)]),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(),
        ):  # fmt: skip
            try:
                cli.main()
            except SystemExit as ended:
                code = ended.code
        return Ended(0 if code is None else int(code), out.getvalue(), err.getvalue())

    def distill(self, stage: str = "sample", *more: str, **environment: str) -> Ended:
        """Run a stage to its end in a process of its own."""
        done = subprocess.run(
            self.command(stage, *more),
            cwd=self.folder, env=self.environment(**environment), capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        """Start sampling and come back at once."""
        return subprocess.Popen(
            self.command(),
            cwd=self.folder, env=self.environment(**environment),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    @staticmethod
    def environment(**more: str) -> dict[str, str]:
        """This process's environment, on one thread."""
        return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}

    @property
    def out(self) -> Path:
        """The stage's folder once it is done; the last one, where settings were changed."""
        manifests = (self.folder / "runs" / self.name).glob("sample-*/manifest.json")
        return max(manifests, key=lambda path: path.stat().st_mtime_ns).parent

    @property
    def parquet(self) -> bytes:
        """The result, byte for byte."""
        return (self.out / "samples.parquet").read_bytes()

    @property
    def samples(self) -> list[Sample]:
        """The result as records."""
        return tables.read(self.out / "samples.parquet", Sample)

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the workspace's ledger."""
        with sqlite3.connect(self.folder / "runs" / "ledger.sqlite") as connection:
            return connection.execute(query).fetchall()


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9, and wait until it is gone."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def whole(run: Run) -> None:
    """Every sample is there exactly once, in order, with an answer of its own."""
    samples = run.samples
    questions = list(dict.fromkeys(sample.problem_id for sample in samples))
    assert len(questions) == run.questions
    assert [(s.problem_id, s.index) for s in samples] == [(q, i) for q in questions for i in range(run.n)]
    assert len({sample.key for sample in samples}) == len(samples) == run.questions * run.n
    assert len({(s.problem_id, s.reasoning) for s in samples}) == len(samples)  # no two with the same seed
    assert {s.finish_reason for s in samples} == {"stop"}
    assert all(s.answer.strip().startswith("The sum is") for s in samples)
    assert run.ledger("SELECT COUNT(*), COUNT(DISTINCT key) FROM sample") == [(len(samples), len(samples))]
