"""`distill evaluate` of models that nobody trained here: an experiment of nothing but `evaluate:` and its tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill import cli
from distill.core import files, tables
from distill.core.records import Sample
from distill.evaluate import forcing, scores
from tests.served.process import FaultServer
from tests.tiny import make_tiny_model


def run(folder: Path, *words: str) -> str:
    """`distill WORDS` in a folder; what it prints."""
    done = CliRunner().invoke(cli.app, [*words, "--workspace", str(folder / "runs")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


def write(folder: Path, **sections: Any) -> str:
    """An experiment with these sections, and six sums as its test problems; JSON is YAML."""
    rows = [{"question": f"What is {n} + {7 * n + 2}?", "answer": str(8 * n + 2)} for n in range(6)]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = {"source": {"jsonl": {"path": str(folder / "problems.jsonl"), "split": "test"}}}
    path = folder / "alone.yaml"
    path.write_text(json.dumps({"name": "alone", "problems": problems, **sections}))
    return str(path)


def stage(folder: Path) -> Path:
    """The folder of the one evaluation."""
    (found,) = (folder / "runs" / "alone").glob("evaluate-*")
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    running = FaultServer.start()
    yield running
    running.close()


def test_a_served_model_needs_no_section_but_its_own(tmp_path: Path, server: FaultServer):
    engine = {"engine": "openai", "url": server.plan("alone")}
    served = {
        "api": {"model": "any-name", "engine": engine, "price": {"input": 1, "output": 2}, "instruction": "Be brief."}
    }
    file = write(tmp_path, verify={"verifier": "math"}, evaluate={"models": [served], "samples": 2, "max_tokens": 2000})

    run(tmp_path, "problems", file)
    dry = run(tmp_path, "evaluate", file, "--dry-run")
    calls = server.stats("alone")["calls"]
    report = run(tmp_path, "run", file)

    assert calls == 0 and "12 answers to buy" in dry
    assert "api" in report
    (task,) = files.read_json(stage(tmp_path) / "results.json")["tasks"]
    (entry,) = task["models"]
    assert (entry["engine"], entry["answers"], entry["cost"]["money"] > 0) == ("openai", 12, True)
    manifest = files.read_json(stage(tmp_path) / "manifest.json")
    assert set(manifest["inputs"]) == {"problems"}
    assert not list((tmp_path / "runs" / "alone").glob("verify-*"))  # no stage: it says how answers are graded
    run(tmp_path, "run", file)
    assert server.stats("alone")["calls"] == 12  # the second run found all of it done
    done = CliRunner().invoke(cli.app, ["verify", file, "--workspace", str(tmp_path / "runs")])
    assert "`verify` has no answers to grade" in str(done.exception)


def test_tasks_alone_need_no_problems(tmp_path: Path):
    path = tmp_path / "alone.yaml"
    steps = {"steps": {"size": 4}}
    path.write_text(json.dumps({"name": "alone", "evaluate": {"models": ["embedded-student"], "tasks": [steps]}}))

    shown = json.loads(run(tmp_path, "evaluate", str(path), "--json"))

    (task,) = shown["counts"]["tasks"]
    assert (task["name"], task["problems"], task["models"][0]["answers"]) == ("steps", 4, 4)
    assert files.read_json(stage(tmp_path) / "manifest.json")["inputs"] == {}


@pytest.mark.parametrize(
    ("evaluate", "why"),
    [
        ({"models": ["base"]}, "`base` needs the section `student:`"),
        ({"models": ["student"]}, "`student` needs the section `train:`"),
        ({"models": ["teacher"]}, "`teacher` needs the section `teacher:`"),
        ({"models": ["embedded-student"], "tasks": [{"gsm8k": {"path": "nowhere.jsonl"}}]}, "nowhere.jsonl"),
        ({"models": ["embedded-student"], "tasks": ["gsm9k"]}, "Did you mean `gsm8k`?"),
        ({"models": ["embedded-student"], "tasks": ["steps", "steps"]}, "a task is named twice"),
        (
            {"models": ["embedded-student"], "samples": 4, "sample_temperature": 0},
            "task `problems`: 4 answers at temperature 0 are one answer",
        ),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(tmp_path: Path, evaluate: dict[str, Any], why: str):
    file = write(tmp_path, evaluate=evaluate)

    done = CliRunner().invoke(cli.app, ["evaluate", file, "--workspace", str(tmp_path / "runs")])

    assert done.exception is not None
    assert why in str(done.exception) and "\n" not in str(done.exception)
    assert not list(tmp_path.rglob("manifest.json"))


def test_problems_that_are_not_there_are_refused(tmp_path: Path):
    path = tmp_path / "alone.yaml"
    path.write_text(json.dumps({"name": "alone", "evaluate": {"models": ["embedded-student"]}}))

    done = CliRunner().invoke(cli.app, ["evaluate", str(path)])

    assert "task `problems` is the experiment's own, and there is no section `problems:`" in str(done.exception)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("thinker") / "thinker", scale=0.1)


def test_two_runs_in_two_workspaces_give_the_same_bytes(tmp_path: Path, thinker: Path):
    """Budget forcing and all; the scripted verdicts of a random model are of no interest."""
    forced = {"budgets": [4], "waits": [1]}
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"models": [str(thinker)], "samples": 3, "max_tokens": 24, "forcing": forced}
        file = write(folder, evaluate=settings)
        run(folder, "problems", file)
        run(folder, "evaluate", file)
        found.append(stage(folder))

    one, two = found
    assert one.name == two.name  # the same key
    for name in ("results.json", "scores.parquet", "forced.parquet", "samples.parquet", "verdicts.parquet"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_forced_answers_stand_beside_those_that_were_drawn(tmp_path: Path):
    settings = {"models": ["embedded-teacher"], "max_tokens": 60, "forcing": {"budgets": [4, 16]}}
    file = write(tmp_path, evaluate=settings)
    run(tmp_path, "problems", file)

    run(tmp_path, "evaluate", file)

    (entry,) = files.read_json(stage(tmp_path) / "results.json")["tasks"][0]["models"]
    assert [point["budget"] for point in entry["forced"]] == [4, 16]
    assert all(point["answers"] == 6 for point in entry["forced"])
    assert entry["forced"][0]["thinking_tokens"]["value"] < entry["thinking_tokens"]["value"]
    assert len(forcing.read(stage(tmp_path))) == 12
    drawn = {sample.key for sample in tables.read(stage(tmp_path) / "samples.parquet", Sample)}
    assert {line.sample_key for line in scores.read(stage(tmp_path))} == drawn  # forced ones are not among them


def test_an_engine_that_cannot_continue_is_refused_before_anything_is_bought(tmp_path: Path, server: FaultServer):
    served = {"api": {"model": "any-name", "engine": {"engine": "openai", "url": server.plan("forced")}}}
    file = write(tmp_path, evaluate={"models": [served], "forcing": {"budgets": [4]}})

    done = CliRunner().invoke(cli.app, ["evaluate", file, "--workspace", str(tmp_path / "runs")])

    assert "model `api`" in str(done.exception) and "`forcing`" in str(done.exception)
    assert server.stats("forced")["calls"] == 0
