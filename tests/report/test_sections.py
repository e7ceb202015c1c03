"""What single chapters say of runs that differ from the usual one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from distill.core import files
from distill.core.errors import DistillError
from distill.evaluate import compare
from distill.evaluate.metrics import Difference
from distill.evaluate.scores import Score
from distill.report import comparison, examples, page, summary
from distill.report.evaluated import Evaluated, kind_of
from distill.report.run_data import RunData, collect
from distill.report.sections import (
    accuracy,
    at_k,
    behaviours,
    compute,
    cost,
    differences,
    forcing,
    funnel,
    guard,
    lengths,
    sampling,
    training,
)
from tests.report.synthetic import make_run
from tests.report.test_page import read

Row = Mapping[str, Any]


def with_task(data: RunData, **about: Any) -> RunData:
    """The run with its first task alone, and something else said of it."""
    task = data.evaluated.tasks[0]
    told = replace(task, about={**task.about, **about})
    return replace(data, evaluated=replace(data.evaluated, tasks=(told,)))


def test_every_chapter_is_one_file_and_is_on_the_page():
    folder = Path(page.__file__).parent / "sections"

    names = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert names == {chapter.__name__.rpartition(".")[2] for chapter in page.CHAPTERS}
    assert len(page.CHAPTERS) == len(set(page.CHAPTERS))


def test_an_empty_run_has_no_chapter(data: RunData):
    bare = RunData("bare", Path(), {}, (), (), ())

    assert page.sections(bare) == []


def test_a_pair_says_what_was_shown_and_what_could_have_been(data: RunData):
    pair = {
        "a": "student", "b": "base", "p_holm": 0.061, "exact_p": None, "verdict": "no difference shown",
        "difference": {"value": 0.042, "low": 0.001, "high": 0.083, "items": 200, "seeds": 1, "p": 0.045,
                       "detectable": 0.058},
    }  # fmt: skip
    chapter = differences.section(with_task(data, pairs=[pair]))

    assert chapter is not None
    assert chapter.figures[0].numbers.rows == [{
        "pair": "student − base", "points": "+4.2", "95% interval": "+0.1 to +8.3", "p": "0.045",
        "p, adjusted": "0.061", "verdict": "no difference shown", "detectable": "5.8", "problems": 200,
    }]  # fmt: skip


def test_one_answer_a_problem_has_no_chapter_of_several(data: RunData):
    assert at_k.section(with_task(data, samples=1)) is None
    assert at_k.section(data) is not None


def test_a_task_whose_answers_cannot_vote_has_pass_at_k_alone(data: RunData):
    task = data.evaluated.tasks[0]
    models = tuple(replace(model, about={**model.about, "maj_at": {}}) for model in task.models)
    mute = replace(data, evaluated=replace(data.evaluated, tasks=(replace(task, models=models),)))

    chapter = at_k.section(mute)
    assert chapter is not None
    assert [figure.title for figure in chapter.figures] == ["pass@k"]


def test_compute_has_both_axes_and_equal_tokens(data: RunData):
    chapter = compute.section(data)

    assert chapter is not None
    assert [figure.title for figure in chapter.figures[:2]] == [
        "problems: budget for one answer", "problems: votes of several answers",
    ]  # fmt: skip
    rows = chapter.tables[0].rows
    assert {row["models"] for row in rows} == {"student (reasoning) − base", "student (reasoning) − teacher"}
    assert all(row["by"] == "votes" for row in rows)


def test_forcing_names_each_manner(data: RunData):
    chapter = forcing.section(data)

    assert chapter is not None
    manners = [row["manner"] for row in chapter.figures[0].numbers.rows if row["model"] == "teacher"]
    assert manners == ["cut at 8", "cut at 32", "1 × Wait", "as drawn"]


def test_the_guard_says_a_shown_loss(data: RunData):
    difference = {
        "value": -0.06,
        "low": -0.09,
        "high": -0.03,
        "items": 300,
        "seeds": 1,
        "p": 0.0001,
        "detectable": 0.04,
    }
    task = {"name": "recall", "models": [], "difference": difference, "verdict": "forgetting shown", "missed": True}
    lost = replace(data, evaluated=replace(data.evaluated, guard={"points": 2.0, "tasks": [task]}))

    chapter = guard.section(lost)
    assert chapter is not None
    assert chapter.figures[0].numbers.rows[0]["verdict"] == "forgetting shown, over the bound"
    assert "more than 2 points" in chapter.lead
    assert guard.section(replace(data, evaluated=replace(data.evaluated, guard=None))) is None


def test_sampling_tells_failures_money_and_the_policy_in_words(data: RunData):
    assert data.taught.sampled is not None
    failed = replace(data.taught.sampled, errors={"timeout: 60 s": 3})
    chapter = sampling.section(replace(data, taught=replace(data.taught, sampled=failed)))

    assert chapter is not None
    asked = {row["setting"]: row["value"] for row in chapter.tables[0].rows}
    came = {row["what"]: row["how much"] for row in chapter.tables[1].rows}
    assert asked["policy"] == "fixed, n 5" and "system" not in asked
    assert came["cost"] == "0.012" and came["answers"] == "1,000"
    assert chapter.tables[2].rows == [{"error": "timeout: 60 s", "answers": 3}]


def test_each_reason_has_two_rejected_examples_in_the_order_of_the_filters(data: RunData):
    chapter = funnel.section(data)

    assert chapter is not None
    assert [example.why for example in chapter.examples][:3] == [
        "rejected by verdict: unparseable: truncated",
        "rejected by verdict: unparseable: truncated",
        "rejected by verdict: wrong: ",
    ]
    assert len(chapter.examples) == 10
    assert {"filter": "at_most", "reason": "over 2 a problem", "rejected": 130} in chapter.tables[0].rows


def test_lengths_count_the_answers_of_each_doubling(data: RunData):
    chapter = lengths.section(data)

    assert chapter is not None
    rows = chapter.figures[0].numbers.rows
    assert [row["characters"] for row in rows] == [
        "32 to 63", "64 to 127", "128 to 255", "256 to 511", "median",
    ]  # fmt: skip
    assert sum(row["all answers"] for row in rows[:-1]) == 1000
    assert sum(row["kept"] for row in rows[:-1]) == 468


def test_behaviours_stand_side_by_side(data: RunData):
    chapter = behaviours.section(data)

    assert chapter is not None
    rows = {row["of"]: row for row in chapter.figures[0].numbers.rows}
    assert list(rows) == ["traces trained on", "base", "student (reasoning)", "teacher"]
    assert rows["base"]["backtracking"] == "0.0% (0.00)"
    assert rows["teacher"]["backtracking"] != "0.0% (0.00)"


def test_habits_that_nothing_shows_are_not_drawn(data: RunData):
    none = dict.fromkeys(("checks", "turns_back", "tries_another_way", "refines"), 0.0)
    silent = tuple(replace(found, shares=none, times=none) for found in data.evaluated.behaviours)
    bare = replace(
        data, evaluated=replace(data.evaluated, behaviours=silent), taught=replace(data.taught, statistics={})
    )

    chapter = behaviours.section(bare)
    assert chapter is not None and not chapter.figures
    assert "None of them shows" in chapter.lead
    assert len(chapter.tables[0].rows) == 3


def test_dev_accuracy_is_in_percent(data: RunData):
    chapter = training.section(data)

    assert chapter is not None
    figure = next(figure for figure in chapter.figures if figure.title == "Accuracy on dev problems")
    assert [row["reasoning"] for row in figure.numbers.rows] == ["20.0", "40.0", "60.0", "80.0"]


def test_cost_counts_the_sampling_too(data: RunData):
    chapter = cost.section(data)

    assert chapter is not None
    first = chapter.tables[0].rows[0]
    assert first["task"] == "sampling of traces"
    assert first["tokens for each correct answer [95%]"] == f"{61_200 / 760:,.0f}"
    assert first["money for each correct answer"] == "1.6e-05"


def test_a_run_without_own_problems_shows_none(run: Path, tmp_path: Path):
    folder = make_run(tmp_path / "other", arms=("main",), stages=("evaluate",), problems=10)

    data = collect(folder)
    assert data.examples == ()
    assert data.evaluated.tasks and accuracy.section(data) is not None


def test_a_run_that_was_pulled_lacks_texts_and_has_its_numbers(tmp_path: Path):
    folder = make_run(tmp_path / "pulled", arms=("main",), problems=10)
    for name in ("samples.parquet", "verdicts.parquet", "problems.parquet", "rejected.json"):
        for path in folder.glob(f"*/{name}"):
            path.unlink()

    ids = [chapter.id for chapter in page.sections(collect(folder))]
    assert "samples" not in ids
    assert {"accuracy", "differences", "sampling", "funnel", "files"} <= set(ids)


def test_results_of_an_older_version_are_refused_in_one_line(tmp_path: Path):
    folder = make_run(tmp_path / "old", arms=("main",), stages=("evaluate",), problems=10)
    path = next(folder.glob("evaluate-*/results.json"))
    files.write_json(path, {"split": "test", "models": []})

    with pytest.raises(DistillError, match="older version of `evaluate`") as caught:
        collect(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("base", "base"), ("student@300", "student"), ("teacher", "teacher"), ("base-cot", "other"), ("q.gguf", "other")],
)
def test_kinds(name: str, kind: str):
    assert kind_of(name) == kind


def test_every_model_has_its_own_series_as_long_as_there_are_enough(data: RunData):
    models = data.evaluated.tasks[0].models
    given = [data.series(model.label, model.kind) for model in models]

    assert len(set(given)) == len(given) == 4
    assert data.series("student (reasoning)", "student") == 0


def line(model: str, problem: str, outcome: str, tokens: int = 10, **more: Any) -> Score:
    value: Any = "unparseable" if outcome == "truncated" else outcome
    return Score(model, problem, 0, model + problem, value, outcome, "stop", tokens, tokens, "", "", **more)


def test_examples_are_the_first_of_their_kind():
    lines = {
        "base": [line("base", p, "wrong") for p in "abcdef"],
        "student": [
            line("student", "a", "correct"), line("student", "b", "wrong"), line("student", "c", "truncated"),
            line("student", "d", "wrong", looping=True), line("student", "e", "wrong"),
            line("student", "f", "correct", 99),
        ],
        "teacher": [line("teacher", p, "wrong" if p in "af" else "correct") for p in "abcdef"],
    }  # fmt: skip

    assert examples.choose(lines) == {
        "a": "the student is right where its base is not",
        "b": "the student is wrong",
        "c": "the student gives no answer",
        "d": "the student repeats itself",
        "e": "the student is wrong where its teacher is right",
        "f": "the student is right where its teacher is not",
    }
    assert examples.choose({}) == {}


def test_a_comparison_is_a_page_of_the_same_chapters(
    compared: compare.Comparison, comparison_html: str, tmp_path: Path
):
    reader = read(comparison_html)

    chapters = [attrs["id"] for tag, attrs in reader.tags if tag == "section"]
    assert chapters == [
        "accuracy", "differences", "breakdown", "at-k", "compute", "thinking", "cost", "provenance",
    ]  # fmt: skip
    text = " ".join("".join(reader.text).split())
    for side in compared.tasks[0].sides:
        assert side.name in text
    for pair in compared.tasks[0].pairs:
        assert f"{pair.a} against {pair.b} {pair.difference}: {pair.verdict}" in text
    comparison.write(compared, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == comparison_html


def test_several_seeds_have_no_curve_over_samples(tmp_path: Path):
    folder = make_run(tmp_path / "seeds", arms=("sft", "kl"), seeds=(0, 1), problems=20)
    found = compare.table(["seeds:sft", "seeds:kl"], folder.parent)

    html = comparison.render(found)
    assert 'id="at-k"' not in html
    assert "budget for one answer" in html


def test_json_of_a_run_that_has_nothing_is_plain():
    bare = RunData("bare", Path(), {}, (), (), (), evaluated=Evaluated(split="test"))
    assert json.loads(json.dumps(summary.as_json(bare)))["tasks"] == []


@pytest.mark.parametrize("arms", [("main",), ("sft", "kl")])
def test_rates_of_students_are_means_over_seeds_on_every_task(tmp_path: Path, arms: tuple[str, ...]):
    folder = make_run(tmp_path / "seeds", arms=arms, seeds=(0, 1), problems=20, stages=("problems", "evaluate"))

    data = collect(folder)
    for task in data.evaluated.tasks:
        results = compare.compare(folder, task=task.name)
        students = [model for model in task.models if model.kind == "student"]
        assert [model.rate for model in students] == [result.mean for result in results]
        assert {model.note for model in students} == {"mean of 2 seeds"}
        assert {model.note for model in task.models if model.kind != "student"} == {""}
    assert data.evaluated.ratio is None
    assert "over all seeds" in page.render(data, [])


def test_an_evaluation_without_a_student_has_a_headline(data: RunData):
    task = data.evaluated.tasks[0]
    others = replace(task, models=tuple(model for model in task.models if model.kind != "student"))
    entries = tuple(entry for entry in data.entries if entry.kind in ("base", "teacher"))
    served = replace(data, entries=entries, evaluated=replace(data.evaluated, tasks=(others,)))

    assert summary.headline(served).startswith("On 100 problems (problems): base ")
    assert "; teacher" in summary.headline(served) or ", teacher" in summary.headline(served)


@pytest.mark.parametrize("verdict", ["forgetting shown", "no loss shown"])
def test_the_headline_says_what_was_forgotten(data: RunData, verdict: str):
    lost = Difference(-0.5, -0.6, -0.4, 30, 1)
    about = {"name": "steps", "difference": asdict(lost), "verdict": verdict}
    guarded = replace(data, evaluated=replace(data.evaluated, guard={"points": 1.0, "tasks": [about]}))

    said = "It forgot some of what its base could do: steps -50.0 points [-60.0, -40.0]."
    assert summary.headline(guarded).endswith(said) == (verdict == "forgetting shown")


def test_a_kept_step_does_not_stand_for_the_student(data: RunData):
    (student,) = [entry for entry in data.entries if entry.kind == "student" and entry == data.entry("student")]
    step = replace(student, label="student@60", accuracy=replace(student.accuracy, value=0.01))
    with_step = replace(data, entries=(step, *data.entries))

    assert with_step.entry("student") == student
    assert replace(data, entries=(step,)).entry("student") == step
    assert summary.headline(with_step) == summary.headline(data)


def test_a_stage_that_was_not_asked_for_is_not_missed(tmp_path: Path):
    folder = make_run(tmp_path / "short", arms=("main",), stages=("problems", "evaluate"), problems=5)
    assert collect(folder).missing == ("filter", "train", "export")

    told = files.read_json(folder / "experiment.json")
    del told["arms"]["main"]["filter"]
    told["arms"]["main"]["export"] = {"formats": []}
    files.write_json(folder / "experiment.json", told)
    assert collect(folder).missing == ("train",)
