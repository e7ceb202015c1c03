"""`distill sample` with its own options: a dry run buys nothing, an escalation buys what was cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill.cli import app
from distill.core.errors import ConfigError
from tests.teachers.scripted_engine import ASKED, BUILT

EXPERIMENT = """\
name: asked
problems: {source: {jsonl: {path: problems.jsonl, question: question, gold: answer, split: train}}}
teacher: {model: stub, engine: tests.teachers.scripted_engine, price: {input: 1.0, output: 2.0}}
sample: {policy: {adaptive: {k: 2, max_n: 4}}, max_tokens: 100}
verify: {verifier: math}
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An experiment of four problems, one of which is long, with its problems chosen."""
    ASKED.clear()
    BUILT.clear()
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"p=1 long={long} n{n}", "answer": "7"} for n, long in enumerate((10, 10, 10, 150))]
    Path("problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("asked.yaml").write_text(EXPERIMENT)
    distill("problems", "asked.yaml")
    return "asked.yaml"


def distill(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False, standalone_mode=False)
    return result.stdout


def test_a_dry_run_gives_range_and_price_and_buys_nothing(experiment: str):
    found = json.loads(distill("sample", experiment, "--dry-run", "--json"))

    assert (ASKED, BUILT) == ([], [])
    assert [row["to buy"] for row in found["rows"]] == [8, 16]
    assert found["counts"]["most"]["worst_cost"] > 16 * 100 * 2 / 1e6
    assert "nothing was bought" in found["summary"]
    assert not list(Path("runs/asked").glob("sample-*"))


def test_a_dry_run_after_the_run_has_nothing_to_buy(experiment: str):
    distill("sample", experiment)

    found = json.loads(distill("sample", experiment, "--dry-run", "--json"))

    assert found["counts"]["least"]["missing"] == 0
    assert found["counts"]["most"]["basis"] > 0
    assert found["counts"]["most"]["low"] <= found["counts"]["most"]["expected"] <= found["counts"]["most"]["worst"]


def test_escalate_asks_again_for_what_was_cut_alone(experiment: str):
    before = json.loads(distill("sample", experiment, "--json"))["counts"]
    assert before["cut"] == 4
    ASKED.clear()

    after = json.loads(distill("sample", experiment, "--escalate", "200", "--json"))["counts"]

    assert {request.sampling.max_tokens for request in ASKED} == {200}
    assert {request.messages[0].content for request in ASKED} == {"p=1 long=150 n3"}
    assert (after["cut"], after["stopped"]) == (0, {"k correct": 4})
    distill("sample", experiment, "--set", "sample.escalate_to=200")
    assert len(list(Path("runs/asked").glob("sample-*"))) == 2, "the setting is the same stage as the option"


def test_a_policy_that_looks_at_verdicts_needs_a_verifier(experiment: str):
    text = Path(experiment).read_text().replace("verify: {verifier: math}\n", "")
    Path(experiment).write_text(text)

    with pytest.raises(ConfigError, match=r"asked.yaml:4: policy `adaptive` looks at answers and needs .*`verify:`"):
        distill("sample", experiment)
