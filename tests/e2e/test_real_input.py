"""Real problems and answers through the real command line: GSM8K's worked solutions, and what models said to it."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core import tables
from distill.core.models import resolve
from distill.core.records import Message, Problem, Trace, Verdict, problem_id
from distill.gguf.weights import FolderWeights
from distill.stages import problems as splitting
from students.rows import build_rows, read_student
from tests.e2e import small

CONFIG = Path(__file__).parents[2] / "configs" / "gsm8k-solutions.yaml"

N_FIRST, N_LONGEST = 215, 8

Row = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, its stages' manifests and folders by stage."""

    folder: Path
    manifests: dict[str, dict[str, Any]]
    stages: dict[str, Path]
    out: str
    err: str

    def counts(self, stage: str) -> dict[str, Any]:
        counts: dict[str, Any] = self.manifests[stage]["counts"]
        return counts


def finished_run(folder: Path, name: str, out: str, err: str) -> Finished:
    """Read what a run of the experiment `name` left in `folder`."""
    paths = {path.name.rpartition("-")[0]: path for path in (folder / "runs" / name).glob("*-*") if path.is_dir()}
    manifests = {stage: json.loads((path / "manifest.json").read_text()) for stage, path in paths.items()}
    return Finished(folder / "runs" / name, manifests, paths, out, err)


def rows_of(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def is_trained_on(row: Row) -> bool:
    """Whether the problem's hash sends it to the training split."""
    config = splitting.Config()
    found = problem_id((Message("user", row["question"]),))
    return splitting.split_of(found, config.dev_share, config.test_share) == "train"


@pytest.fixture(scope="module")
def gold(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The shipped experiment on GSM8K's first rows and its longest, one gold lost, one no answer, one row twice."""
    rows = rows_of(shared_data / "gsm8k" / "train.jsonl.gz")
    chosen = rows[:N_FIRST] + sorted(rows[N_FIRST:], key=lambda row: -len(row["question"] + row["answer"]))[:N_LONGEST]
    lost, unknown, twice = [place for place, row in enumerate(chosen) if is_trained_on(row)][:3]
    chosen[lost] = {**chosen[lost], "answer": re.sub("####.*", "####", chosen[lost]["answer"])}
    chosen[unknown] = {**chosen[unknown], "answer": re.sub("####.*", "#### unknown", chosen[unknown]["answer"])}
    chosen.append(chosen[twice])
    folder = tmp_path_factory.mktemp("gsm8k")
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))

    done = small.run(
        folder, "run", str(CONFIG), "--set", f"problems.source.gsm8k.path={folder / 'train.jsonl'}",
        "--set", "problems.dev=2", "--set", "problems.test=6",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    return finished_run(folder, "gsm8k-solutions", done.stdout, done.stderr)


def test_every_row_is_counted_on_the_way_to_a_trace(gold: Finished) -> None:
    splits, imported = gold.counts("problems")["splits"], gold.counts("import")
    assert (splits["dev"], splits["test"]) == (2, 6)
    assert splits["train"] + 8 + gold.counts("problems")["over the limits"] == N_FIRST + N_LONGEST
    assert gold.counts("problems")["repeated"] == 1
    assert imported["samples"] == splits["train"] - 1
    assert imported["training problems without a worked solution or gold"] == 1

    verdicts = Counter(gold.counts("verify")["verdicts"])
    assert +verdicts == {"correct": imported["samples"] - 1, "ungradable": 1}

    funnel = gold.counts("filter")
    assert funnel["seen"] == imported["samples"]
    assert funnel["held_out"] == 0
    assert [step["filter"] for step in funnel["steps"] if step["rejected"]] == ["verdict"]
    assert funnel["kept"] == verdicts["correct"]


def test_what_is_kept_is_what_was_graded_correct(gold: Finished) -> None:
    problems = {p.id: p for p in tables.read(gold.stages["problems"] / "problems.parquet", Problem)}
    verdicts = tables.read(gold.stages["verify"] / "verdicts.parquet", Verdict)
    traces = tables.read(gold.stages["filter"] / "traces.parquet", Trace)

    assert {trace.key for trace in traces} == {v.sample_key for v in verdicts if v.value == "correct"}
    for trace in traces:
        problem = problems[trace.problem_id]
        assert problem.split == "train"
        assert trace.reasoning == problem.reference_reasoning
        assert trace.answer == f"Answer: \\boxed{{{problem.gold}}}"


def test_rows_beyond_the_context_are_counted_and_no_row_is_cut(gold: Finished) -> None:
    text = read_student(resolve("embedded-student"))
    assert text.context is not None
    traces = tables.read(gold.stages["filter"] / "traces.parquet", Trace)
    whole = build_rows(traces, text, target="trace", max_length=None).rows
    fitting = [row for row in whole if len(row.ids) <= text.context]
    report = gold.counts("train")

    assert len(whole) == len(traces) > len(fitting)
    assert report["dropped"] == {f"over {text.context:,} tokens": len(whole) - len(fitting)}
    assert report["rows"] == len(fitting)
    assert report["trained_tokens"] == sum(len(row.completion_ids) for row in fitting)
    assert f"{len(whole) - len(fitting)} dropped (over {text.context:,} tokens)" in gold.err


def test_the_adapter_is_trained_merged_and_proved_in_a_file(gold: Finished) -> None:
    student = gold.stages["train"] / "student"
    assert (student / "adapter_model.safetensors").exists()
    assert not (student / "model.safetensors").exists()

    proof = json.loads((gold.stages["export"] / "proof.json").read_text())
    merged, gguf = proof["files"]
    assert (merged["name"], gguf["name"]) == ("safetensors", "gguf-q8_0")
    for entry in proof["files"]:
        assert (gold.stages["export"] / entry["file"]).exists()
        assert entry["missed"] == []
        assert all(check["missed"] is None for check in entry["checks"])
    assert {"opens", "twin"} <= {check["name"] for check in gguf["checks"]}
    assert gguf["tiers"] == [1, 2, 3]
    base = FolderWeights(resolve("embedded-student"))
    trained = FolderWeights(gold.stages["export"] / merged["file"])
    changed = {name for name in base.names() if not np.array_equal(base.read(name), trained.read(name))}
    assert trained.names() == base.names()
    assert changed == {name for name in base.names() if "_proj" in name}


def test_the_run_ends_with_every_model_in_one_table_and_nobody_elses_warnings(gold: Finished) -> None:
    for word in ("base", "student", "gguf-q8_0"):
        assert word in gold.out
    assert "Warning" not in gold.err


# What four models said to GSM8K's test problems: graded and filtered, never trained on

RECORDED = """\
name: recorded
problems: {source: {jsonl: {path: said.jsonl.gz, question: question, gold: ground_truth, gold_pattern: 'A: (.*)',
                            split: test}}}
import: {layout: responses, path: said.jsonl.gz, responses: [6b_finetuning.solution, 175b_verification.solution]}
verify: {verifier: math}
filter: [verdict, unfinished, repetition, exact_duplicates]
"""
WHO = ("6b_finetuning", "175b_verification")
TRAINED = RECORDED + "student: {model: embedded}\ntrain: {loss: none}\n"


@pytest.fixture(scope="module")
def said(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recorded answers."""
    folder = tmp_path_factory.mktemp("said")
    shutil.copy(shared_data / "gsm8k_model_solutions" / "example_model_solutions.jsonl.gz", folder / "said.jsonl.gz")
    return folder


def test_recorded_answers_are_graded_as_their_authors_did_and_never_trained_on(said: Path) -> None:
    small.prepare(said, RECORDED)
    done = small.run(said, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    run = finished_run(said, "recorded", done.stdout, done.stderr)

    rows = rows_of(said / "said.jsonl.gz")
    expected = [row[who]["is_correct"] for row in rows for who in WHO]
    verdicts = tables.read(run.stages["verify"] / "verdicts.parquet", Verdict)
    assert [verdict.value == "correct" for verdict in verdicts] == expected

    assert run.counts("filter")["held_out"] == len(expected)
    assert run.counts("filter")["kept"] == 0
    assert tables.read(run.stages["filter"] / "traces.parquet", Trace) == []
    assert f"{len(expected):,} answer dev or test problems" in run.manifests["filter"]["summary"]


def test_asked_to_train_on_them_all_the_same_it_refuses(said: Path) -> None:
    (said / "trained.yaml").write_text(TRAINED)
    done = small.run(said, "run", "trained.yaml", "--workspace", "trained")
    assert done.returncode == 1
    assert "distill: no row to train on: there are no traces" in done.stderr
    assert not list((said / "trained").rglob("student"))


@pytest.mark.parametrize("who", WHO)
def test_a_plain_file_is_graded_without_an_experiment(who: str, said: Path) -> None:
    done = small.run(
        said, "grade", "said.jsonl.gz", "--verifier", "math", "--gold", "ground_truth",
        "--response", f"{who}.solution", "--out", f"{who}.jsonl.gz", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    rows, graded = rows_of(said / "said.jsonl.gz"), rows_of(said / f"{who}.jsonl.gz")
    assert [row["question"] for row in graded] == [row["question"] for row in rows]
    assert [row["verdict"] == "correct" for row in graded] == [row[who]["is_correct"] for row in rows]
    n_correct = sum(row[who]["is_correct"] for row in rows)
    assert json.loads(done.stdout)["counts"]["verdicts"]["correct"] == n_correct
