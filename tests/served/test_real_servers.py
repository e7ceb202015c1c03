"""Real servers over HTTP: llama.cpp's, and `transformers serve`, both with the embedded teacher.

Whoever writes a server of his own for tests writes down what he believes; these say what they say.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml

from distill import cli
from distill.core import shards, tables
from distill.core.models import resolve
from distill.core.protocols import Keep, ScoreRequest
from distill.core.records import Message, Problem, Sample, Verdict
from distill.engines import transformers as local
from distill.gguf.convert import convert
from distill.gguf.runtime import Runtime, RuntimeSettings
from distill.text.chat import decode, load_tokenizer, render_prompt
from tests.e2e import small

KEY = "DISTILL_TEST_KEY"
START_S = 120.0
"""How long `transformers serve` may take to load: it imports much."""


@dataclass(frozen=True)
class Server:
    """A running server: its address, what it calls the model, and its key."""

    url: str
    served_name: str
    key: str = ""


@pytest.fixture(scope="module")
def teacher() -> Path:
    """Folder of the embedded teacher."""
    return resolve("embedded-teacher")


@pytest.fixture(scope="module")
def llama(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama.cpp's own server on the embedded teacher in F32."""
    file = tmp_path_factory.mktemp("gguf") / "teacher.gguf"
    convert(teacher, file, "f32")
    with Runtime(file, RuntimeSettings(context=512, slots=4)) as running:
        yield Server(f"http://{running.host}:{running.port}/v1", "teacher", running._key)


@pytest.fixture(scope="module")
def transformers(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`transformers serve` on the embedded teacher."""
    for package in ("fastapi", "uvicorn", "openai"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"`transformers serve` needs {package}: pip install 'transformers[serving]'")
    folder = tmp_path_factory.mktemp("serve")
    (folder / "hub").mkdir()
    port = _free_port()
    program = "from transformers.cli.transformers import main; main()"
    words = ["serve", str(teacher), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=small.environment({"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub")}),
        )  # fmt: skip
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        yield Server(f"http://127.0.0.1:{port}/v1", str(teacher))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until_s = time.monotonic() + START_S
    while True:
        try:
            opener.open(url, timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until_s:
                pytest.fail(f"`transformers serve` did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.2)


class Experiment:
    """A dozen problems put to a server through the command line."""

    def __init__(self, folder: Path, server: Server, teacher: Path, **more: Any) -> None:
        self.folder, self.server, self.code = folder, server, 0
        engine = {"url": server.url, "served_name": server.served_name, "concurrency": 4, "tokenizer": str(teacher)}
        engine |= {"api_key_env": KEY} if server.key else {}
        sample = {"policy": {"fixed": 1}, "max_tokens": 160, **more.pop("sample", {})}
        sections = {
            "name": "small",
            "problems": {"source": "embedded", "train": 12, "dev": 0, "test": 1},
            "teacher": {"engine": {"openai": engine | more.pop("engine", {})}, "model": "embedded", "price": "free"},
            "sample": sample,
            "verify": {"verifier": "math"},
            "student": {"model": "embedded"},
        }
        small.prepare(folder, yaml.safe_dump(sections))

    def run(self, command: str, *more: str) -> str:
        """Run a command to its end by the command line's own entry, in this process, and return its stdout."""
        out, err = io.StringIO(), io.StringIO()
        asked = ["distill", command, str(self.folder / "small.yaml"), "--workspace", str(self.folder / "runs"), *more]
        with (
            mock.patch.object(sys, "argv", asked), mock.patch.dict(os.environ, {KEY: self.server.key}),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(),
            pytest.raises(SystemExit) as ended,
        ):  # fmt: skip
            cli.main()
        assert ended.value.code == self.code, err.getvalue()
        return out.getvalue() if self.code == 0 else err.getvalue()

    def sampled(self) -> list[Sample]:
        """The answers, after `problems` and `sample`."""
        for stage in ("problems", "sample", "verify"):
            self.run(stage)
        return tables.read(self.stage("sample") / "samples.parquet", Sample)

    def correct(self) -> int:
        """How many were judged correct."""
        verdicts = tables.read(self.stage("verify") / "verdicts.parquet", Verdict)
        return sum(verdict.value == "correct" for verdict in verdicts)

    def problems(self) -> dict[str, tuple[Message, ...]]:
        """Messages by problem."""
        found = tables.read(self.stage("problems") / "problems.parquet", Problem)
        return {problem.id: problem.messages for problem in found}

    def probe(self) -> dict[str, Any]:
        """What `probe` found."""
        data: dict[str, Any] = json.loads(self.run("probe", "--json"))["counts"]
        return data

    def stage(self, name: str) -> Path:
        """Folder of a finished stage."""
        (folder,) = (self.folder / "runs" / "small").glob(f"{name}-*")
        return folder


def words(probe: dict[str, Any]) -> dict[str, str]:
    """What was seen of each setting."""
    return {name: item["word"] for name, item in probe["settings"].items()}


@pytest.mark.parametrize("engine", [{}, {"api": "completions"}], ids=["chat", "completions"])
def test_llama_cpp_answers_with_ids_and_log_probabilities(
    tmp_path: Path, llama: Server, teacher: Path, engine: dict[str, Any]
):
    experiment = Experiment(tmp_path, llama, teacher, sample={"top_logprobs": 8}, engine=engine)

    samples = experiment.sampled()

    assert len(samples) == 12
    assert experiment.correct() >= 8
    tokenizer = load_tokenizer(teacher)
    (shard,) = shards.find(experiment.stage("sample"))
    requests, rows = [], {}
    for sample in samples:
        assert sample.finish_reason == "stop" and sample.closed and sample.reasoning and "boxed" in sample.answer
        assert "think>" not in sample.reasoning + sample.answer and sample.reasoning_kind == "full"
        assert sample.completion_ids is not None and len(sample.completion_ids) == sample.completion_tokens
        text = decode(tokenizer, sample.completion_ids)
        assert sample.reasoning.strip() in text and sample.answer.strip() in text
        prompt = render_prompt(tokenizer, experiment.problems()[sample.problem_id])
        assert len(prompt.ids) == sample.prompt_tokens
        requests.append(ScoreRequest(sample.key, prompt.ids, sample.completion_ids))
        rows[sample.key] = shard.rows(sample.key, sample.completion_ids)
    scoring = local.build(local.Config(), "embedded-teacher")
    try:
        for key, scored in scoring.score(requests, Keep(8)):
            there = rows[key].present_N
            assert there.mean() > 0.9
            difference = np.abs(rows[key].realised_N - scored.realised_N)[there]
            assert difference.max() < 0.05
            assert np.array_equal(rows[key].ids_NK[there][:, 0], scored.ids_NK[there][:, 0])
    finally:
        scoring.close()


def test_llama_cpp_streams_the_same_answers(tmp_path: Path, llama: Server, teacher: Path):
    whole, streamed = (
        Experiment(tmp_path / name, llama, teacher, engine={"concurrency": 1, "stream": name == "streamed"}).sampled()
        for name in ("whole", "streamed")
    )

    assert [(s.reasoning, s.answer, s.completion_tokens) for s in streamed] == [
        (s.reasoning, s.answer, s.completion_tokens) for s in whole
    ]


def test_llama_cpp_leaves_rows_out_of_streams_and_that_is_found_out(tmp_path: Path, llama: Server, teacher: Path):
    experiment = Experiment(tmp_path, llama, teacher, sample={"top_logprobs": 8}, engine={"stream": True})
    experiment.run("problems")
    experiment.code = 1

    assert "no log-probabilities that can be kept" in experiment.run("sample")


def test_probe_of_llama_cpp(tmp_path: Path, llama: Server, teacher: Path):
    found = Experiment(tmp_path, llama, teacher).probe()

    assert (found["reasoning"]["where"], found["reasoning"]["note"]) == ("field", "`reasoning_content`")
    assert found["kl"] and found["logprobs"]["top"] == 128
    assert found["usage_given"] is True and found["context"] == 512
    assert words(found) == {
        "seed": "honoured", "temperature": "honoured", "top_p": "honoured", "top_k": "honoured",
        "max_tokens": "honoured", "unknown setting": "ignored", "thinking off": "honoured",
    }  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_wrong_key_is_told_in_the_server_s_words(tmp_path: Path, llama: Server, teacher: Path):
    experiment = Experiment(tmp_path, replace(llama, key="not-the-key-of-this-server"), teacher)
    experiment.code = 1

    said = experiment.run("probe")

    assert "401" in said and "API" in said
    assert "not-the-key" not in said


def test_transformers_serve_gives_text_only(tmp_path: Path, transformers: Server, teacher: Path):
    experiment = Experiment(tmp_path, transformers, teacher, engine={"concurrency": 1})  # its seeds are the process's

    samples = experiment.sampled()

    assert len(samples) == 12
    assert experiment.correct() >= 8
    for sample in samples:
        assert sample.finish_reason == "stop" and sample.closed and sample.reasoning and "boxed" in sample.answer
        assert "think>" not in sample.reasoning + sample.answer
        assert "<|end|>" not in sample.answer  # which this server leaves there
        assert sample.completion_ids is None and sample.completion_tokens > 0


def test_probe_of_transformers_serve(tmp_path: Path, transformers: Server, teacher: Path):
    found = Experiment(tmp_path, transformers, teacher).probe()

    assert (found["reasoning"]["where"], found["reasoning"]["note"]) == ("field", "`reasoning_content`")
    assert not found["kl"] and "no log-probabilities" in found["kl_why_not"]
    assert found["token_ids"] == {"prompt": False, "answer": False}
    assert words(found) == {
        "seed": "honoured", "temperature": "honoured", "top_p": "honoured", "top_k": "refused",
        "max_tokens": "honoured", "unknown setting": "refused", "thinking off": "honoured",
    }  # fmt: skip
    assert "top_k" in found["settings"]["top_k"]["why"]
