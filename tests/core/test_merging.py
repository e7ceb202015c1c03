"""Ledgers merge by key: each answer once, with its log-probabilities, and with all that was paid."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill.cli import app
from distill.core import merging
from distill.core.errors import DistillError
from distill.core.ledger import Ledger, Paid, Usage
from distill.core.merging import Merged
from distill.core.records import Verdict
from tests.core.test_ledger import INFO, answer, rows


def fill(path: Path, keys: str, word: str = "x") -> None:
    with Ledger(path) as ledger:
        ledger.lease([*keys, "lost"])
        for key in keys:
            paid = Paid(answer(key, text=word, top_logprobs=2), rows(3), INFO, Usage(1, 10, 3, 0.5))
            ledger.put(paid)
        ledger.fail("lost", "503", Usage(2, 20, 0, 1.0))
        ledger.put_verdicts([Verdict(f"v{key}", key, "correct", "equal") for key in keys])


def test_each_answer_is_taken_once_with_its_log_probabilities_and_its_cost(tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "ledger.sqlite", tmp_path / "there" / "ledger.sqlite"
    fill(here, "ab", "here")
    fill(there, "bc", "there")

    assert merging.merge(here, there) == Merged(answers=1, already=1, verdicts=1, shards=1)
    assert merging.merge(here, there) == Merged(0, 2, 0, 0)

    with Ledger(here) as ledger:
        found = {key: sample for key, (sample,) in ledger.samples(["a", "b", "c"]).items()}
        assert {key: sample.text for key, sample in found.items()} == {"a": "here", "b": "here", "c": "there"}
        assert all(len(ledger.logprobs(sample).tail_N) == 3 for sample in found.values())
        assert set(ledger.verdicts(["va", "vb", "vc"])) == {"va", "vb", "vc"}
        assert ledger.usage(["a", "b", "c", "lost"]) == (Usage(4 + 4, 40 + 40, 12, 4.0), Usage())  # b was paid twice
        assert ledger.lease(["c"], max_tokens=10) == set()
    with Ledger(there) as ledger:
        assert set(ledger.samples(["a", "b", "c"])) == {"b", "c"}


def test_an_empty_workspace_takes_all(tmp_path: Path) -> None:
    fill(tmp_path / "there" / "ledger.sqlite", "abc")
    merged = merging.merge(tmp_path / "new" / "ledger.sqlite", tmp_path / "there" / "ledger.sqlite")
    assert merged.answers == 3
    report = merging.report(tmp_path / "new" / "ledger.sqlite")
    assert report.rows == [
        {"model": "model", "answers": 3, "problems": 1, "cut": 0, "tokens": 9, "with log-probabilities": 3}
    ]
    assert report.data["attempts"] == [
        {"state": "done", "attempts": 3, "tries": 3, "tokens": 39, "cost": 1.5},
        {"state": "failed", "attempts": 1, "tries": 2, "tokens": 20, "cost": 1.0},
    ]
    assert report.summary == "3 answers; attempts: 3 done, 1 failed; 59 tokens read and written, cost 2.50"


def test_the_command_merges_and_shows(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "ledger.sqlite", "ab")
    fill(tmp_path / "b" / "ledger.sqlite", "bc")
    command = ["ledger", "--workspace", str(tmp_path / "a"), "--merge", str(tmp_path / "b" / "ledger.sqlite")]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    assert "1 answers taken in, 1 were there" in result.stderr
    assert json.loads(result.stdout)["counts"]["models"][0]["answers"] == 3
    with pytest.raises(DistillError, match="no such ledger"):
        CliRunner().invoke(app, ["ledger", "--workspace", str(tmp_path / "none")], catch_exceptions=False)


def test_what_is_no_ledger_is_refused_and_nothing_is_taken(tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "ledger.sqlite", tmp_path / "there" / "ledger.sqlite"
    fill(here, "a")
    fill(there, "b")
    with pytest.raises(DistillError, match="into itself"):
        merging.merge(here, here)
    with pytest.raises(DistillError, match="no such ledger"):
        merging.merge(here, tmp_path / "nowhere.sqlite")
    (tmp_path / "text").write_text("no database at all, " * 100)
    with pytest.raises(DistillError, match="cannot be used as a ledger"):
        merging.merge(here, tmp_path / "text")
    sqlite3.connect(tmp_path / "other.sqlite").execute("PRAGMA user_version = 7").connection.close()
    with pytest.raises(DistillError, match="schema 7"):
        merging.merge(here, tmp_path / "other.sqlite")
    for shard in (there.parent / "logits").iterdir():
        shard.unlink()
    with pytest.raises(DistillError, match="missing, but the ledger names it"):
        merging.merge(here, there)
    with Ledger(here) as ledger:
        assert set(ledger.samples(["a", "b"])) == {"a"}
        ((kept,),) = ledger.samples(["a"]).values()
    assert replace(kept, created="", logits=None) == answer("a", text="x", top_logprobs=2)
