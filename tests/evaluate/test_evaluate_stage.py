"""The evaluate stage on answers from a script: what counts, what does not, what is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core import files, tables
from distill.core.errors import DistillError
from distill.core.models import ModelConfig
from distill.core.records import Sample, Verdict
from distill.evaluate import models, scores
from distill.evaluate import stage as evaluate
from distill.text.think import Dialect
from tests.evaluate import scripted
from tests.evaluate.bench import ENGINE, WRONG, Bench, Teacher, measured, outcomes, problem


def test_three_models_on_the_test_problems_only(bench: Bench):
    bench.script("base", {}, default=WRONG)
    bench.script("student", {0: (WRONG, "stop")})
    bench.script("teacher", {})

    report, folder = bench.run()

    results = measured(folder)
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

    rate = measured(folder)["models"][0]["rate"]
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

    rate = measured(folder)["models"][0]["rate"]
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

    rate = measured(folder)["models"][0]["rate"]
    assert (rate["k"], rate["n"], rate["items"]) == (36, 40, 10)


def test_any_model_by_its_path(bench: Bench):
    path = bench.script("other", {})

    _, folder = bench.run(models=[path])

    assert measured(folder)["models"][0]["name"] == Path(path).name  # a path is a machine's own


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

    asked = {entry["name"]: entry["thinking"] for entry in measured(folder)["models"]}
    assert asked == {"base": None, "student": False}


def test_externals_name_every_model_that_no_stage_made(bench: Bench):
    base, teacher = bench.script("base", {}), bench.script("teacher", {1: (WRONG, "stop")})
    config = evaluate.Config.model_validate({"engine": ENGINE})
    sections = {
        "evaluate": config, "student": ModelConfig(model=base), "teacher": Teacher(model=teacher, engine=config.engine),
    }  # fmt: skip

    found = evaluate.externals(sections)

    assert set(found) == {"base", "teacher", "verifiers"}
    assert found["base"] != found["teacher"]


def test_refusals(bench: Bench):
    config = evaluate.Config.model_validate({"engine": ENGINE})
    fault = evaluate.check({"evaluate": config})
    assert fault == (("evaluate", "models"), "`evaluate.models`: `base` needs the section `student:`")
    with pytest.raises(ValueError, match="named twice"):
        evaluate.Config.model_validate({"engine": ENGINE, "models": ["base", "base"]})
    with pytest.raises(ValueError, match="'studnet' is no such folder or file, and none of base, student, teacher"):
        evaluate.Config.model_validate({"engine": ENGINE, "models": ["studnet"]})
    with pytest.raises(DistillError, match="no `train:` before this"):
        models.candidate(models.Entry.model_validate("student"), config.engine, None, {}, None)


def test_a_real_model_on_the_transformers_engine(bench: Bench, tiny_model: Path):
    _, folder = bench.run(models=[str(tiny_model)], engine="transformers", max_tokens=12)

    (entry,) = measured(folder)["models"]
    assert entry["model"] == tiny_model.name  # never a path
    assert entry["answers"] == entry["rate"]["n"] == 10
    assert 0 < entry["thinking_tokens"]["value"] <= entry["completion_tokens"]["value"] <= 12
