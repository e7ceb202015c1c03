"""The regression guard: what was lost beside what was trained for."""

from __future__ import annotations

import pytest

from distill.core import files, tables
from distill.evaluate import guard, scores
from distill.evaluate import stage as evaluate
from distill.evaluate.metrics import Difference
from distill.evaluate.scores import Score
from tests.evaluate.bench import ENGINE, WRONG, Bench, measured

SIDE = "tests.evaluate.side"


def difference(low: float, high: float) -> Difference:
    return Difference((low + high) / 2, low, high, items=100, seeds=1)


@pytest.mark.parametrize(
    ("found", "points", "verdict", "missed"),
    [
        (difference(-0.30, -0.10), 2.0, "forgetting shown", True),
        (difference(-0.30, -0.01), 2.0, "forgetting shown", False),  # perhaps no more than may be lost
        (difference(-0.30, -0.01), 0.0, "forgetting shown", True),
        (difference(-0.30, 0.01), 0.0, "no loss shown", False),
        (difference(0.10, 0.30), 0.0, "no loss shown", False),
        (Difference(None, None, None, 0, 1), 0.0, "no loss shown", False),
    ],
)
def test_a_loss_is_missed_where_all_of_the_interval_is_past_what_may_be_lost(
    found: Difference, points: float, verdict: str, missed: bool
):
    assert guard.judged(found, points) == {"verdict": verdict, "missed": missed}


def test_a_student_that_forgot_ends_the_evaluation_as_missed(bench: Bench):
    bench.script("base", {})
    bench.script("student", dict.fromkeys(range(8), (WRONG, "stop")))

    report, folder = bench.run(models=["teacher"], guard=[SIDE], guard_points=5.0)

    held = files.read_json(folder / "results.json")["guard"]
    (task,) = held["tasks"]
    assert held["points"] == 5.0
    assert [entry["name"] for entry in task["models"]] == ["base", "student"]
    assert (task["name"], task["problems"], task["verdict"], task["missed"]) == ("side", 10, "forgetting shown", True)
    assert task["difference"]["value"] == pytest.approx(-0.8)
    assert task["power"]["items"] == 10
    assert report.missed is not None and "the student lost more than 5 points on side -80.0 points" in report.missed
    assert "guard: side -80.0 points" in report.summary and "forgetting shown" in report.summary
    assert {line.model for line in tables.read(folder / guard.FILE, Score)} == {"base", "student"}
    assert {line.model for line in scores.read(folder)} == {"teacher"}  # no task of the guard is among the results
    assert [entry["name"] for entry in measured(folder)["models"]] == ["teacher"]


def test_a_student_that_forgot_nothing_is_not_missed(bench: Bench):
    bench.script("base", {0: (WRONG, "stop")})
    bench.script("student", {})

    report, folder = bench.run(models=["student"], guard=[SIDE])

    assert files.read_json(folder / "results.json")["guard"]["tasks"][0]["verdict"] == "no loss shown"
    assert report.missed is None


def test_both_are_asked_in_the_form_the_student_was_trained_in(bench: Bench):
    bench.script("base", {})
    bench.script("student", {})
    files.write_json(bench.folder / "train" / "report.json", {"target": "answer"})

    _, folder = bench.run(models=["base"], guard=[SIDE])

    (task,) = files.read_json(folder / "results.json")["guard"]["tasks"]
    assert [entry["thinking"] for entry in task["models"]] == [False, False]
    assert measured(folder)["models"][0]["thinking"] is None


def test_no_guard_without_a_student_that_was_trained(bench: Bench):
    config = evaluate.Config.model_validate({"engine": ENGINE, "models": ["embedded-teacher"], "guard": [SIDE]})

    fault = evaluate.check({"evaluate": config})

    assert fault is not None and fault[0] == ("evaluate", "guard") and "give `student:` and `train:`" in fault[1]
    assert evaluate.unread({"evaluate": config}) == set()


def test_without_a_guard_there_is_none(bench: Bench):
    bench.script("student", {})

    _, folder = bench.run(models=["student"])

    assert files.read_json(folder / "results.json")["guard"] is None
    assert not (folder / guard.FILE).exists()
