"""`distill sample` against a server that misbehaves: everything comes, once, the same as from a good one."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.core.records import Message, problem_id
from distill.served.wire import seed_of
from tests.served import answers
from tests.served.fault_server import BREAKS, ODDITIES, REFUSALS
from tests.served.process import FaultServer
from tests.served.runs import Run, whole

PASSING = [kind for kind in REFUSALS if kind not in ("400", "401", "403", "404", "429 for years")]
"""Refusals that another try gets past."""

RARE = ("429 seconds", "503 seconds", "429 date", "503 date")
"""Those that hold up all calls: an endpoint that asks for time gets it from everybody."""


def every_fault(share: float) -> dict[str, float]:
    """A plan's faults: all at once, in about `share` of the calls.

    All but `hang`: a timeout short enough for it is passed by good answers too on a busy machine, and then paid twice.
    """
    kinds = [*PASSING, *(kind for kind in BREAKS if kind != "hang"), *ODDITIES]
    weights = {kind: 0.2 if kind in RARE else 1.0 for kind in kinds}
    return {kind: share * weight / sum(weights.values()) for kind, weight in weights.items()}


PATIENT = {"retries": 10}
"""Settings of the engine against a server that fails often."""


@pytest.fixture(scope="module")
def clean(server: FaultServer, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """300 samples from the server when it is well; a reply in two says what it cost."""
    url = server.plan("clean", usage=0.5)
    run = Run(tmp_path_factory.mktemp("clean"), url, questions=60, n=5).prepare()
    done = run.here()
    assert done.code == 0, done.stderr
    whole(run)
    return run


# ---- everything at once


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_every_fault_at_once(server: FaultServer, clean: Run, tmp_path: Path, stream: bool) -> None:
    name = f"every-{stream}"
    url = server.plan(
        name, faults=every_fault(0.6), delay_s=(0.0, 0.1), usage=0.5, retry_after_s=0.2, slow_s=0.3, in_a_row=2
    )
    run = Run(tmp_path, url, questions=60, n=5, engine={**PATIENT, "stream": stream}).prepare()

    done = run.distill()

    assert done.code == 0, done.stderr
    whole(run)
    assert run.parquet == clean.parquet
    stats = server.stats(name)
    assert (stats["keys"], stats["answered"]) == (300, 300)
    assert stats["paid_twice"] == 0
    assert stats["most_at_once"] <= 64
    assert len(stats["kinds"]) > 25, "the plan met too few kinds of faults"


def test_a_server_that_hangs_is_given_up_on_and_asked_again(server: FaultServer, tmp_path: Path) -> None:
    for stream in (False, True):
        url = server.plan("hang", faults={"hang": 0.2}, in_a_row=1)
        engine = {"total_s": 1.0, "first_token_s": 1.0, "stream": stream}
        run = Run(tmp_path / f"{stream}", url, questions=10, n=3, engine=engine).prepare()

        done = run.here()

        assert done.code == 0, done.stderr
        whole(run)
        assert server.stats("hang")["kinds"]["hang"] >= 2


def test_two_processes_share_one_ledger(server: FaultServer, clean: Run, tmp_path: Path) -> None:
    url = server.plan("shared", faults=every_fault(0.3), delay_s=(0.1, 0.3), usage=0.5, retry_after_s=0.2)
    first = Run(tmp_path, url, questions=60, n=5, name="first", engine={**PATIENT, "concurrency": 16}).prepare()
    second = Run(tmp_path, url, questions=60, n=5, name="second", engine={**PATIENT, "concurrency": 16}).prepare()

    processes = [first.start(), second.start()]
    ends = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0, 0], ends
    assert first.parquet == second.parquet == clean.parquet
    stats = server.stats("shared")
    assert (stats["answered"], stats["paid_twice"]) == (300, 0)
    workers = first.ledger("SELECT COUNT(DISTINCT worker) FROM attempt WHERE state = 'done'")
    assert workers == [(2,)], "one process did all the work; nothing was shared"


def test_a_finished_ledger_asks_for_nothing(server: FaultServer, clean: Run) -> None:
    before = server.stats("clean")["calls"]
    (clean.out / "manifest.json").unlink()

    done = clean.here()

    assert done.code == 0, done.stderr
    assert server.stats("clean")["calls"] == before == 300


# ---- who stops, and says why


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("400", "does not take the parameter `top_p`"),
        ("401", "Incorrect API key"),
        ("403", "may not use this model"),
        ("404", "does not exist"),
    ],
)
def test_what_cannot_work_stops_soon_with_the_servers_words(
    server: FaultServer, tmp_path: Path, kind: str, said: str
) -> None:
    url = server.plan(kind, faults={kind: 1.0}, in_a_row=None)
    run = Run(tmp_path, url, questions=100, n=2, engine={"concurrency": 8}).prepare()
    began_s = time.monotonic()

    done = run.here()

    assert time.monotonic() - began_s < 15
    stopped_with_one_line(done.code, done.stderr, said)
    assert server.stats(kind)["calls"] <= 40


def test_a_server_that_only_fails_stops_the_run(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("only-500", faults={"500": 1.0}, in_a_row=None)
    run = Run(tmp_path, url, questions=200, n=2, engine={"concurrency": 8, "retries": 1}).prepare()

    done = run.here()

    stopped_with_one_line(done.code, done.stderr, "internal error")
    assert server.stats("only-500")["calls"] < 400, "every answer was tried although none came"


def test_a_server_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    run = Run(tmp_path, f"http://127.0.0.1:{free_port()}/v1", questions=30, engine={"retries": 2}).prepare()

    done = run.here()

    stopped_with_one_line(done.code, done.stderr, "127.0.0.1")


def stopped_with_one_line(code: int, stderr: str, said: str) -> None:
    assert code == 1, stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("distill: ") and said in last, stderr
    assert "Traceback" not in stderr


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_one_answer_that_cannot_be_had_leaves_its_siblings(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("one-refused", refuse="What is 3 + 23?")
    run = Run(tmp_path, url, questions=20, n=3).prepare()

    done = run.here()

    assert done.code == 1
    assert "this question is refused" in done.stderr
    assert run.ledger("SELECT COUNT(*) FROM sample") == [(57,)]
    server.plan("one-refused")  # what was owed is asked for, and nothing else
    done = run.here()
    assert done.code == 0, done.stderr
    assert server.stats("one-refused")["calls"] == 3
    whole(run)


def test_a_prompt_that_cannot_fit_stops_before_the_first_call(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("short", context=1000)
    run = Run(tmp_path, url, sample={"max_tokens": 2000}).prepare()

    done = run.here()

    stopped_with_one_line(done.code, done.stderr, "1,000" if "1,000" in done.stderr else "1000")
    assert server.stats("short")["calls"] == 0


# ---- limits


def test_retry_after_is_obeyed(server: FaultServer, tmp_path: Path) -> None:
    wait_s = 0.6
    kinds = {"429 seconds": 0.04, "503 seconds": 0.04, "429 date": 0.02, "503 date": 0.02}
    url = server.plan("wait", faults=kinds, retry_after_s=wait_s, in_a_row=2)
    run = Run(tmp_path, url, questions=20, n=5, engine={"concurrency": 8}).prepare()

    done = run.here()

    assert done.code == 0, done.stderr
    whole(run)
    calls = server.stats("wait", full=True)["log"]
    waits = list(same_key_again(calls, kinds))
    assert len(waits) >= 8
    assert min(waits) >= wait_s


def same_key_again(calls: list[tuple[float, str, str]], kinds: Any) -> Iterator[float]:
    """Seconds from each call of these kinds to the next with its key."""
    for place, (at_s, key, kind) in enumerate(calls):
        if kind in kinds:
            yield next(later_s for later_s, other, _ in calls[place + 1 :] if other == key) - at_s


def test_a_retry_after_of_years_does_not_hang_the_run(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("years", faults={"429 for years": 1.0}, in_a_row=None)
    run = Run(tmp_path, url, questions=5, n=1).prepare()

    process = run.start()
    _, stderr = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "Rate limit reached" in stderr


def test_no_window_sees_more_requests_than_allowed(server: FaultServer, tmp_path: Path) -> None:
    per_minute = 900
    url = server.plan("rate", faults={"429": 0.1, "500": 0.1, "reset before": 0.1})
    engine = {"concurrency": 32, "requests_per_minute": per_minute}
    run = Run(tmp_path, url, questions=30, n=2, engine=engine).prepare()

    done = run.here()

    assert done.code == 0, done.stderr
    times_s = [at_s for at_s, _, _ in server.stats("rate", full=True)["log"]]
    assert len(times_s) > 60  # tries count, not answers
    assert most_in_a_window(times_s, 60.0) <= per_minute
    assert most_in_a_window(times_s, 1.0) <= per_minute / 60 + 2


def most_in_a_window(times_s: list[float], window_s: float) -> int:
    """Largest number of times within any window of this length."""
    return max(sum(start <= other < start + window_s for other in times_s) for start in times_s)


def test_no_more_calls_at_once_than_asked_for(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("at-once", delay_s=(0.02, 0.1), faults={"500": 0.2, "reset inside": 0.2})
    run = Run(tmp_path, url, questions=40, n=2, engine={"concurrency": 7}).prepare()

    done = run.here()

    assert done.code == 0, done.stderr
    assert server.stats("at-once")["most_at_once"] == 7


def test_a_budget_counts_what_failed_and_is_never_passed(server: FaultServer, tmp_path: Path) -> None:
    faults = {"half body": 0.05, "bad json": 0.05, "500": 0.2}
    url = server.plan("budget", faults=faults, delay_s=(0.0, 0.05))
    budget = 12_000
    sample = {"max_tokens": 200, "budget": {"tokens": budget}}
    run = Run(tmp_path, url, questions=50, n=5, engine={"concurrency": 16}, sample=sample).prepare()

    done = run.here()

    stats = server.stats("budget")
    spent = stats["tokens"] + stats["prompt_tokens"]
    assert budget / 3 < spent <= budget
    assert "budget" in done.stderr
    bought = stats["answered"]
    run.sample["budget"] = {"tokens": 1_000_000}
    run.write()
    done = run.here()
    assert done.code == 0, done.stderr
    stats = server.stats("budget")
    assert (stats["answered"], stats["paid_twice"]) == (250, 0)
    assert 0 < bought < 250
    whole(run)


# ---- what comes back


def test_answers_cut_at_the_limit_are_bought_once(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("cut", faults={"500": 0.1})
    run = Run(tmp_path, url, questions=10, n=3, sample={"max_tokens": 12}).prepare()

    assert run.here().code == 0

    assert {(s.finish_reason, s.closed, s.answer) for s in run.samples} == {("length", False, "")}
    assert server.stats("cut")["good"] == 30
    run.sample["max_tokens"] = 2000  # a larger limit buys them again, and only them
    run.write()
    assert run.here().code == 0
    assert server.stats("cut")["good"] == 60
    assert {s.finish_reason for s in run.samples} == {"stop"}


def test_samples_that_are_all_alike_are_reported(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("alike", seeded=False)
    run = Run(tmp_path, url, questions=5, n=3).prepare()

    done = run.here()

    assert done.code == 0, done.stderr
    assert "warning" in done.stderr and "identical" in done.stderr


def test_several_endpoints_of_one_model_share_the_work(server: FaultServer, clean: Run, tmp_path: Path) -> None:
    urls = [server.plan(f"shard-{i}", usage=0.5, delay_s=(0.05, 0.1)) for i in range(2)]
    dead = f"http://127.0.0.1:{free_port()}/v1"
    run = Run(tmp_path, "", questions=60, n=5, engine={"url": [*urls, dead]}).prepare()

    done = run.here()

    assert done.code == 0, done.stderr
    assert run.parquet == clean.parquet
    good = [server.stats(f"shard-{i}")["good"] for i in range(2)]
    assert sum(good) == 300
    assert min(good) >= 90


def test_the_key_is_sent_and_stays_in_memory(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-4fdd6c1f2a"
    url = server.plan("key", api_key=secret)
    run = Run(tmp_path, url, questions=3, engine={"api_key_env": "TEST_TEACHER_KEY"}).prepare()

    monkeypatch.setenv("TEST_TEACHER_KEY", secret)

    done = run.here()

    assert done.code == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    for path in (tmp_path / "runs").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_ctrl_c_keeps_what_came(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("ctrl-c", delay_s=(0.05, 0.3))
    run = Run(tmp_path, url, questions=100, n=5, engine={"concurrency": 8}).prepare()
    process = run.start()
    wait_for_calls(server, "ctrl-c", 40)

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    stats = server.stats("ctrl-c")
    ((kept,),) = run.ledger("SELECT COUNT(*) FROM sample")
    assert stats["good"] - kept <= 8 + 2  # in flight, and on their way to the ledger
    assert stats["good"] < 500


def wait_for_calls(server: FaultServer, name: str, calls: int) -> None:
    """Wait until an endpoint saw so many calls."""
    end_s = time.monotonic() + 60
    while server.stats(name)["calls"] < calls:
        assert time.monotonic() < end_s, "the run never got so far"
        time.sleep(0.01)


# ---- dialects

DIALECTS: dict[str, str | None] = {
    "inline": None,
    "prefilled": "deepseek-r1",
    "reasoning_content": None,
    "reasoning": None,
    "both": None,
    "details": None,
    "parts": None,
    "thinking_blocks": None,
    "r1_zero": "r1-zero",
    "harmony": "gpt-oss",
    "kimi": "kimi",
}
"""Ways in which reasoning arrives, and the family that must be named for it to be understood."""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_record(server: FaultServer, tmp_path: Path, dialect: str, stream: bool) -> None:
    family = DIALECTS[dialect]
    url = server.plan(f"dialect-{dialect}", dialect=dialect)
    run = Run(
        tmp_path, url, questions=4, n=2, engine={"stream": stream},
        sample={"instruction": "", "system": ""}, teacher={"family": family} if family else {},
    ).prepare()  # fmt: skip

    done = run.here()

    assert done.code == 0, done.stderr
    questions = [json.loads(line)["question"] for line in (tmp_path / "problems.jsonl").open()]
    texts = {problem_id((Message("user", question),)): question for question in questions}
    assert len(run.samples) == 8
    for sample in run.samples:
        plain = answers.think(
            texts[sample.problem_id], seed_of(sample.key), 2000, right=0.7, thought_chars=160, dialect="reasoning"
        )
        assert (sample.reasoning, sample.answer) == (plain.reasoning, plain.answer)
        assert (sample.closed, sample.reasoning_kind, sample.finish_reason) == (True, "full", "stop")
        assert (sample.prompt_tokens, sample.completion_tokens) == (plain.prompt_tokens, plain.completion_tokens)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_thinking_that_was_cut_is_unfinished_in_every_dialect(
    server: FaultServer, tmp_path: Path, dialect: str, stream: bool
) -> None:
    family = DIALECTS[dialect]
    url = server.plan(f"cut-{dialect}", dialect=dialect)
    run = Run(
        tmp_path, url, questions=2, n=2, engine={"stream": stream},
        sample={"instruction": "", "system": "", "max_tokens": 12}, teacher={"family": family} if family else {},
    ).prepare()  # fmt: skip

    done = run.here()

    assert done.code == 0, done.stderr
    for sample in run.samples:
        assert sample.reasoning is not None and sample.reasoning.startswith("Adding [")
        assert (sample.answer, sample.closed, sample.finish_reason) == ("", False, "length")


def test_a_plain_answer_has_no_reasoning(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("none", dialect="none")
    run = Run(tmp_path, url, questions=3, n=2).prepare()

    assert run.here().code == 0

    for sample in run.samples:
        assert (sample.reasoning, sample.reasoning_kind, sample.closed) == (None, "none", True)
        assert sample.answer.endswith("}.")


def test_hidden_reasoning_is_counted_and_said_to_be_hidden(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("hidden", dialect="hidden")
    run = Run(tmp_path, url, questions=3, n=2).prepare()

    assert run.here().code == 0

    for sample in run.samples:
        assert (sample.reasoning, sample.reasoning_kind, sample.closed) == (None, "hidden", True)
        assert sample.reasoning_tokens and sample.reasoning_tokens < sample.completion_tokens


def test_two_fields_that_differ_are_an_error(server: FaultServer, tmp_path: Path) -> None:
    url = server.plan("differ", dialect="both_differ")
    run = Run(tmp_path, url, questions=3, n=2).prepare()

    done = run.here()

    assert done.code == 1
    assert "`reasoning`" in done.stderr and "`reasoning_content`" in done.stderr


def test_completions_give_the_same_answers(server: FaultServer, tmp_path: Path) -> None:
    found = {}
    for api in ("chat", "completions"):
        url = server.plan(f"api-{api}")
        run = Run(tmp_path / api, url, questions=5, n=2, engine={"api": api}).prepare()
        assert run.here().code == 0
        found[api] = [(s.reasoning is None, s.answer[:10], s.finish_reason) for s in run.samples]
    assert found["chat"] == found["completions"]
