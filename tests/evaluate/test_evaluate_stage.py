"""The evaluate stage on answers from a script: what counts, what does not, what is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from distill.core import files, tables
from distill.core.errors import DistillError
from distill.core.models import ModelConfig
from distill.core.plugins import Choice
from distill.core.records import Message, Problem, Sample, Verdict, problem_id
from distill.core.stage import Report, StageRun, Workspace
from distill.evaluate import scores
from distill.evaluate import stage as evaluate
from distill.stages import verify
from distill.text.think import THINK, Dialect
from tests.evaluate import scripted

ENGINE = {"engine": "tests.evaluate.scripted"}
RIGHT, WRONG = "one two </think> \\boxed{7}", "one two three </think> \\boxed{8}"


class Teacher(ModelConfig):
    """What `teachers.settings.Config` is to the stage."""

    engine: Choice
    dialect: Dialect = THINK
    asked_with: dict[str, Any] = Field(default_factory=dict)


def problem(number: int, gold: str = "7", split: Any = "test") -> Problem:
    messages = (Message("user", f"question {number}"),)
    return Problem(problem_id(messages), messages, gold, split, domain="d", level=str(number % 2))


class Bench:
    """A workspace with problems and scripted models."""

    def __init__(self, folder: Path, problems: list[Problem]) -> None:
        self.folder, self.problems, self.dialect = folder, problems, THINK
        (folder / "problems").mkdir()
        (folder / "train").mkdir()
        tables.write(folder / "problems" / "problems.parquet", problems, Problem)

    def script(self, name: str, answers: dict[int, tuple[str | None, str]], default: str = RIGHT) -> str:
        """Write a model that answers `default` except where `answers` (by question number) says otherwise."""
        numbers = {p.messages[0].content: int(p.messages[0].content.split()[1]) for p in self.problems}
        texts = {question: answers.get(number, (default, "stop")) for question, number in numbers.items()}
        path = self.folder / "train" / "student" if name == "student" else self.folder / f"{name}.script"
        path.write_text(json.dumps({"name": name, **texts}), encoding="utf-8")
        return str(path)

    def run(self, out: str = "out", **settings: Any) -> tuple[Report, Path]:
        """Evaluate with these settings."""
        config = evaluate.Config.model_validate({"engine": ENGINE, "max_tokens": 50, **settings})
        folder = self.folder / out
        folder.mkdir()
        for name in ("base", "teacher"):
            if not (self.folder / f"{name}.script").exists():
                self.script(name, {})
        sections = {
            "evaluate": config,
            "verify": verify.Config(),
            "student": ModelConfig(model=str(self.folder / "base.script")),
            "teacher": Teacher(model=str(self.folder / "teacher.script"), engine=config.engine, dialect=self.dialect),
        }
        inputs = {"problems": self.folder / "problems", "train": self.folder / "train"}
        report = evaluate.run(
            StageRun("evaluate", folder, inputs, sections, seed=0, workspace=Workspace(self.folder / "runs"))
        )
        return report, folder


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "runs").mkdir()
    return Bench(tmp_path, [*(problem(n) for n in range(10)), problem(10, split="train"), problem(11, split="dev")])


def outcomes(folder: Path, model: str) -> dict[str, int]:
    results = files.read_json(folder / "results.json")
    found: dict[str, int] = next(entry for entry in results["models"] if entry["name"] == model)["outcomes"]
    return {name: count for name, count in found.items() if count}


def test_three_models_on_the_test_problems_only(bench: Bench):
    bench.script("base", {}, default=WRONG)
    bench.script("student", {0: (WRONG, "stop")})
    bench.script("teacher", {})

    report, folder = bench.run()

    results = files.read_json(folder / "results.json")
    assert [(e["name"], e["rate"]["k"], e["rate"]["n"]) for e in results["models"]] == [
        ("base", 0, 10), ("student", 9, 10), ("teacher", 10, 10),
    ]  # fmt: skip
    assert results["problems"] == 10
    assert results["ratios"]["student/teacher"]["value"] == pytest.approx(0.9)
    assert results["models"][0]["thinking_tokens"]["value"] == 3
    assert set(results["models"][1]["by_level"]) == {"0", "1"}
    assert report.missed is None
    assert "student 90.0%" in report.summary and "10 test problems" in report.summary


def test_a_teacher_is_read_in_the_dialect_of_its_family(bench: Bench):
    bench.dialect = Dialect(open="[THINK]", close="[/THINK]")
    bench.script("teacher", {}, default="so 8 [/THINK] \\boxed{7}")
    bench.script("student", {}, default="so 8 [/THINK] \\boxed{7}")

    _, folder = bench.run(models=["teacher", "student"])

    assert outcomes(folder, "teacher") == {"correct": 10}
    assert outcomes(folder, "student") == {"unfinished": 10}


def test_answers_and_verdicts_are_written_with_the_model_named(bench: Bench):
    bench.script("student", {0: (WRONG, "stop")})

    _, folder = bench.run(models=["student"])

    lines = scores.read(folder)
    samples = {sample.key for sample in tables.read(folder / "samples.parquet", Sample)}
    verdicts = {verdict.sample_key for verdict in tables.read(folder / "verdicts.parquet", Verdict)}
    assert {line.model for line in lines} == {"student"}
    assert {line.sample_key for line in lines} == samples == verdicts
    assert all(sample.latency_s == 0 for sample in tables.read(folder / "samples.parquet", Sample))


def test_half_truncated_and_the_rest_right_is_half(bench: Bench):
    bench.script("student", dict.fromkeys(range(5), ("so far so", "length")))

    _, folder = bench.run(models=["student"])

    rate = files.read_json(folder / "results.json")["models"][0]["rate"]
    assert (rate["value"], rate["n"]) == (0.5, 10)
    assert outcomes(folder, "student") == {"correct": 5, "truncated": 5}


def test_answers_are_not_read_from_thinking(bench: Bench):
    bench.script(
        "student",
        {
            0: ("\\boxed{7} </think> \\boxed{8}", "stop"),
            1: ("it is \\boxed{7} and", "length"),
            2: ("it is \\boxed{7}", "stop"),
            3: ("hm </think> I do not know", "stop"),
        },
    )

    _, folder = bench.run(models=["student"])

    assert outcomes(folder, "student") == {"correct": 6, "wrong": 1, "truncated": 1, "unfinished": 1, "no answer": 1}


def test_bad_gold_is_excluded_shown_and_ends_the_evaluation_as_missed(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    bench = Bench(tmp_path, [*(problem(n) for n in range(9)), problem(9, gold="see figure")])
    bench.script("student", {})

    report, folder = bench.run(models=["student"])

    rate = files.read_json(folder / "results.json")["models"][0]["rate"]
    assert (rate["n"], rate["ungradable"], rate["value"]) == (9, 1, 1.0)
    assert report.missed is not None and "1 ungradable and 0 failed of 10" in report.missed
    assert report.rows[0]["ungradable"] == 1


def test_a_failed_engine_is_an_error_not_a_wrong_answer(bench: Bench):
    bench.script("student", {3: (None, "error")})

    report, folder = bench.run(models=["student"])

    assert outcomes(folder, "student") == {"correct": 9, "error": 1}
    assert report.missed is not None and "1 failed" in report.missed


def test_one_percent_excluded_is_not_missed(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    bench = Bench(tmp_path, [problem(n) for n in range(100)])
    bench.script("student", {3: (None, "error")})

    assert bench.run(models=["student"])[0].missed is None


def test_a_second_evaluation_draws_nothing_and_writes_the_same(bench: Bench):
    bench.script("student", {0: (WRONG, "stop")})
    _, first = bench.run("first", models=["student"], samples=2)
    drawn = len(scripted.DRAWN)

    _, second = bench.run("second", models=["student"], samples=2)

    assert len(scripted.DRAWN) == drawn
    for name in ("results.json", "scores.parquet", "samples.parquet", "verdicts.parquet"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_samples_of_an_item_are_averaged(bench: Bench):
    bench.script("student", {0: (WRONG, "stop")})

    _, folder = bench.run(models=["student"], samples=4)

    rate = files.read_json(folder / "results.json")["models"][0]["rate"]
    assert (rate["k"], rate["n"], rate["items"]) == (36, 40, 10)


def test_any_model_by_its_path(bench: Bench):
    path = bench.script("other", {})

    _, folder = bench.run(models=[path])

    assert files.read_json(folder / "results.json")["models"][0]["name"] == path


def test_two_names_of_one_model_are_drawn_once(bench: Bench):
    path = bench.script("base", {})
    scripted.DRAWN.clear()

    _, folder = bench.run(models=["base", path])

    assert len(scripted.DRAWN) == 10
    assert len(tables.read(folder / "samples.parquet", Sample)) == 10
    assert len(scores.read(folder)) == 20


def test_a_student_is_asked_in_the_form_it_was_trained_in(bench: Bench):
    bench.script("student", {})
    files.write_json(bench.folder / "train" / "report.json", {"target": "answer"})
    bench.script("base", {})

    _, folder = bench.run(models=["base", "student"])

    asked = {entry["name"]: entry["thinking"] for entry in files.read_json(folder / "results.json")["models"]}
    assert asked == {"base": None, "student": False}


def test_externals_name_every_model_that_no_stage_made(bench: Bench):
    base, teacher = bench.script("base", {}), bench.script("teacher", {1: (WRONG, "stop")})
    config = evaluate.Config.model_validate({"engine": ENGINE})
    sections = {
        "evaluate": config, "student": ModelConfig(model=base), "teacher": Teacher(model=teacher, engine=config.engine)
    }  # fmt: skip

    found = evaluate.externals(sections)

    assert set(found) == {"base", "teacher"}
    assert found["base"] != found["teacher"]


def test_refusals(bench: Bench):
    config = evaluate.Config.model_validate({"engine": ENGINE})
    fault = evaluate.check({"evaluate": config})
    assert fault is not None and fault[0] == ("evaluate", "models")
    assert evaluate.check({"evaluate": evaluate.Config.model_validate({"engine": ENGINE, "models": ["base"]})}) is None
    with pytest.raises(ValueError, match="named twice"):
        evaluate.Config.model_validate({"engine": ENGINE, "models": ["base", "base"]})
    with pytest.raises(ValueError, match="'studnet' is no such folder or file, and none of base, student, teacher"):
        evaluate.Config.model_validate({"engine": ENGINE, "models": ["studnet"]})
    with pytest.raises(DistillError, match="no `train:` stage"):
        evaluate.candidate("student", config, {}, None)


def test_a_real_model_on_the_transformers_engine(bench: Bench, tiny_model: Path):
    _, folder = bench.run(models=[str(tiny_model)], engine="transformers", max_tokens=12)

    (entry,) = files.read_json(folder / "results.json")["models"]
    assert entry["model"] == tiny_model.name  # never a path
    assert entry["answers"] == entry["rate"]["n"] == 10
    assert 0 < entry["thinking_tokens"]["value"] <= entry["completion_tokens"]["value"] <= 12
