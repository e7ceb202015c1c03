"""The ledger keeps every paid answer once, and survives a kill at each of its write points."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.core.ledger import Ledger, Paid, Usage
from distill.core.protocols import TokenLogprobs
from distill.core.records import Sample, Verdict
from distill.core.shards import ShardInfo


def answer(key: str, **changes: object) -> Sample:
    sample = Sample(
        key=key,
        problem_id="p",
        index=0,
        model_id="m",
        model_name="model",
        engine="fake",
        max_tokens=10,
        finish_reason="stop",
        reasoning="2+2 = 4",
        answer="\\boxed{4}",
        closed=True,
        text="2+2 = 4</think>\\boxed{4}",
        prompt_ids=(1, 2),
        prefill_ids=(3,),
        completion_ids=(4, 5, 6),
        completion_tokens=3,
        settings={"temperature": 0.6},
    )
    return replace(sample, **changes)


def rows(n: int, k: int = 2) -> TokenLogprobs:
    ids = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    values = np.log(np.full((n, k), 0.4, np.float32))
    tail = np.full(n, np.log(0.2), np.float32)
    return TokenLogprobs(ids, values, tail, values[:, 0], np.ones(n, bool))


INFO = ShardInfo("m", "tok", "tmpl", 100, 2)


def test_an_answer_comes_back_as_it_was_put(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.lease(["a"])
        ledger.put(Paid(answer("a", top_logprobs=2), rows(3), INFO)).result()

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        (stored,) = ledger.samples(["a", "b"])["a"]
        logprobs = ledger.logprobs(stored)

    assert replace(stored, logits=None, created="") == answer("a", top_logprobs=2)
    assert stored.created
    np.testing.assert_allclose(logprobs.tail_N, np.log(0.2), rtol=1e-6)
    np.testing.assert_array_equal(logprobs.ids_NK, rows(3).ids_NK)


def test_a_key_is_paid_for_once_and_a_raised_limit_is_kept_beside_it(tmp_path: Path) -> None:
    cut = answer("a", finish_reason="length", max_tokens=10)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put(Paid(cut)).result()
        ledger.put(Paid(replace(cut, answer="another"))).result()
        ledger.put(Paid(answer("a", max_tokens=20, completion_tokens=15))).result()
        stored = ledger.samples(["a"])["a"]

    assert [(s.max_tokens, s.answer) for s in stored] == [(20, "\\boxed{4}"), (10, "\\boxed{4}")]
    assert not cut.serves(20)
    assert cut.serves(10)
    assert cut.serves(5)
    assert not answer("a", completion_tokens=15, max_tokens=20).serves(10)


def test_a_lease_is_refused_while_its_holder_lives_and_void_once_it_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "leased"
    with Ledger(path) as ledger:
        assert ledger.lease(["a", "b"]) == {"b"}
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert ledger.lease(["a"]) == {"a"}
        assert ledger.attempts()["failed"] == 1


_HOLDER = """
import sys, time
from pathlib import Path
from distill.core.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.lease(["a"])
print("leased", flush=True)
time.sleep(60)
"""


def test_closing_gives_the_leases_back(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.lease(["a"])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.lease(["a"]) == {"a"}


def test_verdicts_are_kept_by_key(tmp_path: Path) -> None:
    verdict = Verdict("v", "a", "correct", "equal", "4", verifier="math", verifier_version=1)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.put_verdicts([verdict])
        assert ledger.verdicts(["v", "w"]) == {"v": verdict}


def test_another_schema_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DistillError, match="schema 99"):
        Ledger(path)


def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("not a database, but long enough to be read as one\n" * 40)
    with pytest.raises(DistillError, match="cannot be used as a ledger"):
        Ledger(path)


def test_a_fault_of_the_writer_reaches_the_caller(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        wrong = Paid(answer("a", top_logprobs=2), rows(2), INFO)  # two rows for three tokens
        with pytest.raises(ValueError, match="2 rows for 3 tokens"):
            ledger.put(wrong).result()
        with pytest.raises(DistillError, match="could not be written"):
            ledger.put(Paid(answer("b")))


_WRITER = """
import sys
from pathlib import Path
from distill.core.ledger import Ledger, Paid
from tests.core.test_ledger import INFO, answer, rows
with Ledger(Path(sys.argv[1])) as ledger:
    have = ledger.samples([f"k{i}" for i in range(8)])
    keys = [f"k{i}" for i in range(8) if f"k{i}" not in have]
    for key in sorted(ledger.lease(keys)) if keys else []:
        print("paid", key, flush=True)
        ledger.put(Paid(answer(key, top_logprobs=2), rows(3), INFO)).result()
"""

POINTS = (
    "attempt.before-commit", "attempt.after-commit", "ledger.before-commit", "ledger.after-commit",
    "ledger.shard-written", "file.before-sync", "file.before-rename",
)  # fmt: skip


@pytest.mark.parametrize(("point", "passing"), [(point, 1) for point in POINTS] + [("ledger.before-commit", 4)])
def test_a_kill_at_a_write_point_loses_and_repeats_at_most_what_was_in_flight(
    tmp_path: Path, point: str, passing: int
) -> None:
    path = tmp_path / "ledger.sqlite"
    paid: list[str] = []
    killed = 0
    for crash in (f"{point}:{passing}", None):
        env = dict(os.environ) | ({"DISTILL_CRASH_AT": crash} if crash else {})
        done = subprocess.run(
            [sys.executable, "-c", _WRITER, str(path)], capture_output=True, text=True, env=env, check=False
        )
        killed += done.returncode == -signal.SIGKILL
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        paid += [line.split()[1] for line in done.stdout.splitlines() if line.startswith("paid")]

    with Ledger(path) as ledger:
        stored = ledger.samples([f"k{i}" for i in range(8)])
        assert len(stored) == 8
        for (sample,) in stored.values():
            assert len(ledger.logprobs(sample).tail_N) == 3
        open_attempts = {state: n for state, n in ledger.attempts().items() if state in ("planned", "sent")}
    assert open_attempts == {}
    assert len(paid) <= 8 + killed  # one answer was in flight at the kill
    assert killed == 1
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_about_holds_no_path_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.put(Paid(answer("a"))).result()
    (about,) = sqlite3.connect(path).execute("SELECT about FROM sample").fetchone()
    assert str(tmp_path) not in json.dumps(about)


def test_reading_leaves_no_trace_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.lease(["a"])
        ledger.put(Paid(answer("a"))).result()
    with Ledger(path) as ledger:
        assert ledger.served(["a"], 10) == {"a"}
        assert ledger.samples(["a"])
    assert sqlite3.connect(path).execute("SELECT COUNT(*) FROM worker").fetchone() == (1,)


STORED = st.builds(
    answer,
    st.just("a"),
    max_tokens=st.integers(1, 6),
    completion_tokens=st.integers(0, 6),
    finish_reason=st.sampled_from(["stop", "length", "error"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STORED, max_size=4, unique_by=lambda s: s.max_tokens), st.integers(1, 7), st.integers(0, 1))
def test_the_query_for_what_serves_says_what_the_record_says(
    stored: list[Sample], max_tokens: int, top_logprobs: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        for sample in stored:
            ledger.put(Paid(sample))
        ledger.flush()
        serving = [sample for sample in stored if sample.serves(max_tokens, top_logprobs)]
        found = ledger.serving(["a", "b"], max_tokens, top_logprobs)
        assert ledger.served(["a", "b"], max_tokens, top_logprobs) == set(found) == ({"a"} if serving else set())
        if serving:
            assert found["a"].max_tokens == min(sample.max_tokens for sample in serving)


def test_what_has_arrived_meanwhile_is_not_leased_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as first, Ledger(tmp_path / "ledger.sqlite") as second:
        assert first.lease(["a", "b"], max_tokens=10) == {"a", "b"}
        assert second.lease(["a", "b"], max_tokens=10) == set()
        first.put(Paid(answer("a"))).result()
        assert second.lease(["a", "b"], max_tokens=10) == set()  # looked up before it came, asked for after
        assert second.lease(["a"], max_tokens=2) == {"a"}


def test_usage_is_kept_with_the_attempt_and_summed_by_key(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as buyer, Ledger(path) as other:
        buyer.lease(["a", "b", "c", "d"])
        buyer.put(Paid(answer("a"), usage=Usage(2, 20, 30, 0.5)))
        buyer.fail("b", "503", Usage(3, 30, 0, 0.25))
        buyer.fail("c", "503", Usage(1, 10, 5))
        buyer.put(Paid(answer("d", prompt_tokens=7))).result()  # as an older version put it
        assert buyer.usage(["a", "b", "c"]) == (Usage(cost=0.0), Usage())  # its own is counted elsewhere
        assert buyer.failed_here(["a", "b", "c", "d"]) == {"b", "c"}
        assert other.failed_here(["a", "b", "c", "d"]) == set()
        known, unknown = other.usage(["a", "b", "c", "d", "e"])
        assert known == Usage(5, 50, 30, 0.75)
        assert unknown == Usage(2, 17, 8)
        assert other.usage(["a", "d"], since_s=time.time() + 1) == (Usage(cost=0.0), Usage())
        assert other.usage(["a"], since_s=1.0)[0] == Usage(2, 20, 30, 0.5)


OLD_SCHEMA = """
CREATE TABLE sample (
    key TEXT NOT NULL, max_tokens INTEGER NOT NULL, problem_id TEXT NOT NULL, model_id TEXT NOT NULL,
    sample_index INTEGER NOT NULL, finish_reason TEXT NOT NULL, completion_tokens INTEGER NOT NULL,
    top_logprobs INTEGER NOT NULL, shard TEXT, about TEXT NOT NULL, created TEXT NOT NULL,
    PRIMARY KEY (key, max_tokens, top_logprobs)
) STRICT;
CREATE TABLE body (
    key TEXT NOT NULL, max_tokens INTEGER NOT NULL, top_logprobs INTEGER NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (key, max_tokens, top_logprobs)
) STRICT;
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, worker TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('planned', 'sent', 'submitted', 'done', 'failed')),
    lease_until REAL, batch TEXT, usage TEXT, error TEXT, created REAL NOT NULL, updated REAL NOT NULL
) STRICT;
CREATE INDEX attempt_open ON attempt (key) WHERE state IN ('planned', 'sent', 'submitted');
CREATE TABLE worker (id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL) STRICT;
CREATE TABLE verdict (
    key TEXT PRIMARY KEY, sample_key TEXT NOT NULL, value TEXT NOT NULL, about TEXT NOT NULL, created TEXT NOT NULL
) STRICT;
PRAGMA user_version = 1;
"""
OLD_ABOUT = (  # a row as version 0.1 wrote it, before `rationalised` and the like
    '{"problem_id": "p", "index": 0, "model_id": "m", "model_name": "model", "engine": "fake", "finish_reason": "stop",'
    ' "closed": true, "reasoning_kind": "full", "system": null, "tokenizer": null, "prompt_tokens": 4,'
    ' "completion_tokens": 3, "reasoning_tokens": null, "latency_s": 0.5, "cost": null, "error": null, "logits": null,'
    ' "settings": "{\\"temperature\\": 0.6}"}'
)
OLD_BODY = (
    '{"text": "2+2 = 4</think>\\\\boxed{4}", "reasoning": "2+2 = 4", "answer": "\\\\boxed{4}", "prompt_ids": [1, 2],'
    ' "prefill_ids": [3], "completion_ids": [4, 5, 6]}'
)


def test_a_ledger_of_the_first_version_is_read_and_written_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    old = sqlite3.connect(path)
    old.executescript(OLD_SCHEMA)
    row = ("a", 10, "p", "m", 0, "stop", 3, 0, None, OLD_ABOUT, "2026-01-01T00:00:00+00:00")
    old.execute("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    old.execute("INSERT INTO body VALUES ('a', 10, 0, ?)", (zlib.compress(OLD_BODY.encode(), 6),))
    old.commit()
    old.close()

    with Ledger(path) as ledger:
        (stored,) = ledger.samples(["a"])["a"]
        assert ledger.lease(["a", "b"], max_tokens=10) == {"b"}
        ledger.put(Paid(answer("b"), usage=Usage(1, 1, 3))).result()
        assert ledger.usage(["a", "b"])[1] == Usage(1, 4, 3)

    assert replace(stored, created="") == answer("a", prompt_tokens=4, latency_s=0.5)
    assert stored.created == "2026-01-01T00:00:00+00:00"
    assert not stored.rationalised
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (1,)  # the old version reads it still


def test_a_lease_of_another_host_runs_out_by_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.lease(["mine"])
    now_s = time.time()
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO worker VALUES ('far', 'another.host', 1, 0.0)")
    for key, until_s in (("fresh", now_s + 30), ("stale", now_s - 1), ("never", None)):
        row = (key, until_s, now_s, now_s)
        connection.execute(
            "INSERT INTO attempt (key, worker, state, lease_until, created, updated)"
            " VALUES (?, 'far', 'sent', ?, ?, ?)",
            row,
        )
    connection.commit()
    connection.close()
    with Ledger(path) as ledger:
        assert ledger.lease(["fresh", "stale", "never", "new"]) == {"stale", "never", "new"}


def test_open_shards_are_few_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.core.ledger.OPEN_SHARDS", 3)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for key in "abcdef":
            ledger.put(Paid(answer(key, top_logprobs=2), rows(3), INFO)).result()
        for key, (sample,) in sorted(ledger.samples(list("abcdef")).items()):
            assert len(ledger.logprobs(sample).tail_N) == 3, key
        assert len(ledger._open_shards) == 3
