"""The llamacpp engine beyond the contract: bare files, missing rows, and a child that dies, hangs or is left."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.errors import DistillError
from distill.core.protocols import Keep, Request, ScoreRequest
from distill.core.records import Message, Sampling
from distill.engines import llamacpp
from distill.gguf.convert import convert
from distill.gguf.runtime import Runtime, RuntimeSettings, ServerEnded
from distill.text.chat import load_tokenizer, render_prompt

CONFIG = llamacpp.Config(threads=1, slots=4, exact=True)
QUESTION = (Message("system", "Be brief."), Message("user", "What is 17*23? <think> is a tag."))


@pytest.fixture(scope="module")
def file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    convert(tiny_model, made, "f32")
    return made


@pytest.fixture(scope="module")
def bare(file: Path) -> Iterator[Any]:
    engine = llamacpp.build(CONFIG, str(file))
    yield engine
    engine.close()


@pytest.mark.parametrize("thinking", [True, False, None])
def test_a_bare_file_makes_the_folder_s_prompts(bare, tiny_model, thinking):
    expected = render_prompt(load_tokenizer(tiny_model), QUESTION, thinking)

    assert bare._prompt(QUESTION, thinking) == expected


def test_a_bare_file_knows_its_context(bare):
    assert bare.context == 512
    with pytest.raises(DistillError, match="512"):
        list(bare.generate([Request("k", QUESTION, Sampling(max_tokens=512))]))


def test_a_bare_file_answers_in_text_and_ids(bare, tiny_model):
    tokenizer = load_tokenizer(tiny_model)

    (got,) = bare.generate([Request("k", QUESTION, Sampling(temperature=0.0, max_tokens=8))])

    assert got.text.rstrip("\ufffd") == tokenizer.decode(got.completion_ids).rstrip("\ufffd")
    assert got.opened


def test_a_folder_is_converted_once_and_into_a_folder_of_one_s_own(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first = llamacpp._converted(tiny_model, "identity", "f16")
    made = first.stat()

    assert llamacpp._converted(tiny_model, "identity", "f16").stat().st_mtime_ns == made.st_mtime_ns
    assert first.parent.stat().st_mode & 0o077 == 0
    first.parent.rename(tmp_path / "theirs")
    first.parent.symlink_to(tmp_path / "theirs")
    with pytest.raises(DistillError, match="another user"):
        llamacpp._converted(tiny_model, "identity", "f16")


def test_a_longer_request_restarts_the_server(bare):
    before = bare._serve().pid

    assert bare._serve(1500).settings.context == 1536
    assert bare._serve(100).pid != before


def test_only_the_asked_samplers_are_on(bare):
    """Min-p, penalties, DRY, XTC and top-k 40 are llama.cpp's defaults elsewhere; they would bend the distribution."""
    (job,) = bare._plan([Request("k", QUESTION, Sampling(temperature=0.6, max_tokens=2))])

    used = bare._serve().post("/completion", bare._body(job))["generation_settings"]

    assert used["samplers"] == ["temperature", "top_k", "top_p"]
    assert (used["top_k"], used["temperature"]) == (0, pytest.approx(0.6))
    assert used["logit_bias"] == [] and used["grammar"] == "" and used["mirostat"] == 0


def test_sampled_frequencies_are_the_distribution_s(bare):
    """At temperature 2 over everything: the first token of many draws against its recorded log-probabilities."""
    hot = Sampling(temperature=2.0, top_p=1.0, max_tokens=1, top_logprobs=320)
    drawn = list(bare.generate([Request(f"draw {i}", QUESTION, hot) for i in range(600)]))
    row = drawn[0].logprobs
    if not row.present_N[0]:
        row = next(c.logprobs for c in drawn if c.logprobs.present_N[0])
    p = np.exp(row.logprobs_NK[0].astype(np.float64) / 2)
    p /= p.sum()

    firsts = np.bincount([c.completion_ids[0] for c in drawn], minlength=320)[row.ids_NK[0]] / len(drawn)

    head = p.argsort()[::-1][:40]
    error = math.sqrt(p[head].sum() * (1 - p[head].sum()) / len(drawn))
    assert abs(firsts[head].sum() - p[head].sum()) < 4 * error


def test_scoring_is_refused_in_one_line(bare):
    with pytest.raises(DistillError, match="cannot score.*transformers"):
        next(iter(bare.score([ScoreRequest("k", (1,), (2,))], Keep(4))))


def test_an_answer_that_takes_too_long_carries_its_error(file):
    slow = llamacpp.build(llamacpp.Config(threads=1, slots=1, timeout_s=0.001), str(file))
    try:
        (got,) = slow.generate([Request("k", QUESTION, Sampling(max_tokens=400))])
    finally:
        slow.close()

    assert (got.finish_reason, got.completion_ids) == ("error", ())
    assert "0.001 s" in got.error


def test_rows_find_their_tokens():
    """Two tokens of half a character have no row; a row that could belong to either of two equal ones is left out."""
    entry = {"logprob": -0.5, "top_logprobs": [{"id": 3, "logprob": -0.5}, {"id": 2, "logprob": -3.4e38}]}

    plain = llamacpp._recorded((9, 3, 8, 7), [entry | {"id": i} for i in (9, 8, 7)], 2, 320)
    doubtful = llamacpp._recorded((5, 5, 7), [entry | {"id": i} for i in (5, 7)], 2, 320)

    assert plain.present_N.tolist() == [True, False, True, True]
    assert doubtful.present_N.tolist() == [False, False, True]
    assert plain.logprobs_NK[0].tolist() == pytest.approx([-0.5, llamacpp.LEAST_LOGPROB])
    assert (plain.ids_NK[1] == [0, 1]).all(), "ids of an absent row are still distinct and inside the vocabulary"


@pytest.mark.parametrize(
    ("inside", "vocabulary", "expected"),
    [
        ([-1.0, -2.0], 320, math.log(1 - math.exp(-1) - math.exp(-2))),
        ([-1e-9, -30.0], 320, math.log(318) - 30.0),  # one minus the sum is noise: what the rest could have at most
        ([1e-8, -40.0], 320, math.log(318) - 40.0),
        ([math.log(0.5)] * 2, 2, -math.inf),
    ],
)
def test_the_tail_is_safe(inside, vocabulary, expected):
    assert llamacpp._tail(inside, vocabulary) == pytest.approx(expected)


def test_a_malformed_file_is_one_line_and_takes_nothing_along(tmp_path, file):
    whole = file.read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "noise": b"GGUF" + bytes(range(256)) * 8,
        "empty": b"",
    }.items():
        broken = tmp_path / f"{name}.gguf"
        broken.write_bytes(content)
        with pytest.raises(ServerEnded, match=f"{name}.gguf: llama.cpp cannot run it") as failure:
            Runtime(broken, RuntimeSettings(256))
        assert "\n" not in str(failure.value)


def test_a_server_that_does_not_start_in_time_is_ended(file):
    with pytest.raises(ServerEnded, match="not loaded within"):
        Runtime(file, RuntimeSettings(256), start_timeout_s=0.01)


def test_a_child_that_dies_is_said_and_close_is_safe_twice(file):
    runtime = Runtime(file, RuntimeSettings(256, threads=1))
    os.kill(runtime.pid, signal.SIGKILL)

    with pytest.raises(ServerEnded, match="SIGKILL"):
        runtime.get("/v1/models")
    runtime.close()
    runtime.close()


def test_the_key_is_needed(file):
    import http.client

    with Runtime(file, RuntimeSettings(256, threads=1)) as runtime:
        connection = http.client.HTTPConnection(runtime.host, runtime.port)
        connection.request("POST", "/completion", '{"prompt": [1], "n_predict": 1}')
        reply = connection.getresponse()
        reply.read()
        connection.close()
        assert runtime.host == "127.0.0.1"
    assert reply.status == 401


def test_the_child_dies_with_its_parent(file, tmp_path):
    """Also when the parent is killed outright."""
    script = (
        "import sys, time; from pathlib import Path; from distill.gguf.runtime import Runtime, RuntimeSettings\n"
        "runtime = Runtime(Path(sys.argv[1]), RuntimeSettings(256, threads=1)); print(runtime.pid, flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    deadline_s = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _alive(child)


def test_leaving_early_ends_at_once(file):
    engine = llamacpp.build(llamacpp.Config(threads=1, slots=2), str(file))
    stream = engine.generate([Request(f"k{i}", QUESTION, Sampling(max_tokens=400)) for i in range(64)])
    next(stream)
    child = engine._serve().pid
    started_s = time.monotonic()

    stream.close()

    assert time.monotonic() - started_s < 5
    assert not _alive(child)
    engine.close()


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("text", ["\n</think>\n\n", "Wait", " 3*4=12 \u00e9", "<think>\nso"])
def test_a_bare_file_reads_text_as_the_folder_does(file, tiny_model, text):
    ours = llamacpp.codec(CONFIG, str(tiny_model))
    its = llamacpp.codec(CONFIG, str(file))
    try:
        assert its.encode(text) == ours.encode(text)
        assert its.decode(its.encode(text)) == ours.decode(ours.encode(text)) == text
    finally:
        its.close()
