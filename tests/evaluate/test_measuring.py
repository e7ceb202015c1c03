"""Tasks, votes, prices, what was asked for and is not there, and what is bought: the evaluate stage on scripts."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import scores
from distill.evaluate import stage as evaluate
from distill.evaluate.scores import NO_VOTE
from distill.report import table
from distill.verifiers import math
from tests.evaluate import scripted
from tests.evaluate.bench import RIGHT, WRONG, Bench, measured, outcomes, problem

SIDE = "tests.evaluate.side"


def boxed(*answers: str) -> list[str]:
    return [f"so </think> \\boxed{{{answer}}}" for answer in answers]


def test_a_task_says_how_it_is_drawn_unless_the_file_does(bench: Bench):
    bench.script("base", {})
    scripted.ASKED.clear()

    _, folder = bench.run(models=["base"], tasks=["problems", SIDE], max_tokens=None)

    own, side = measured(folder), measured(folder, "side")
    assert (own["samples"], own["sampling"]["temperature"], own["sampling"]["max_tokens"]) == (1, 0.6, 32768)
    assert (side["samples"], side["sampling"]["temperature"], side["sampling"]["max_tokens"]) == (2, 0.3, 40)
    assert (own["models"][0]["answers"], side["models"][0]["answers"]) == (10, 20)
    assert (own["instruction"], side["instruction"]) == ("", "Answer in a box.")
    asked = {messages[-1].content for messages in scripted.ASKED}
    assert {"question 0", "question 0\n\nAnswer in a box."} <= asked
    assert {line.task for line in scores.read(folder)} == {"problems", "side"}
    assert len(tables.read(folder / "problems.parquet", Problem)) == 10  # both tasks have the same ones

    _, folder = bench.run(
        "all", models=["base"], tasks=["problems", {"task": SIDE, "max_tokens": 60}], samples=3, max_tokens=50
    )
    own, side = measured(folder), measured(folder, "side")
    assert (own["samples"], own["sampling"]["max_tokens"]) == (3, 50)
    assert (side["samples"], side["sampling"]["max_tokens"]) == (3, 60)


def test_rows_takes_the_first_problems_by_hash(bench: Bench):
    bench.script("base", {})

    _, few = bench.run("few", models=["base"], tasks=[{"problems": {"rows": 3}}])

    assert measured(few)["problems"] == 3
    assert len(tables.read(few / "problems.parquet", Problem)) == 3


def test_equal_answers_of_all_models_are_one_group(bench: Bench):
    bench.script("base", {0: (boxed("1/2", "3", "\\frac{1}{2}", "0.5"), "stop")})
    bench.script("student", {0: (boxed("0.5", "nothing", "7", "7.0"), "stop"), 1: (["cut", *boxed("7")], "length")})

    _, folder = bench.run(models=["base", "student"], samples=4)

    first = [line for line in scores.read(folder) if line.problem_id == problem(0).id]
    base, student = ([line.group for line in first if line.model == name] for name in ("base", "student"))
    assert base[0] == base[2] == base[3] == student[0]
    assert student[2] == student[3]
    assert len({base[0], base[1], student[2]}) == 3 and NO_VOTE not in base
    cut = [line for line in scores.read(folder) if line.finish_reason == "length"]
    assert cut and {line.group for line in cut} == {NO_VOTE}
    entry = measured(folder)["models"][0]
    assert set(entry["pass_at"]) == set(entry["maj_at"]) == {"1", "2", "4"}


def test_groups_do_not_depend_on_the_gold_answer(bench: Bench):
    bench.script("base", {0: (boxed("8", "8.0", "7"), "stop")})

    groups = []
    for gold in ("7", "9"):
        changed = [replace(one, gold=gold) for one in bench.problems]
        tables.write(bench.folder / "problems" / "problems.parquet", changed, Problem)
        _, folder = bench.run(gold, models=["base"], samples=3)
        groups.append([line.group for line in scores.read(folder)])

    assert groups[0] == groups[1]
    assert groups[0][:3] == [0, 0, 1]


def test_answers_have_no_vote_where_the_verifier_compares_none(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    patterns = [replace(problem(n), verifier="regex", gold="7|8") for n in range(10)]
    bench = Bench(tmp_path, patterns)
    bench.script("base", {0: (boxed("7", "8"), "stop")})

    _, folder = bench.run(models=["base"], samples=2)

    entry = measured(folder)["models"][0]
    assert entry["rate"]["value"] == 1.0
    assert entry["maj_at"] == {} and set(entry["pass_at"]) == {"1", "2"}
    assert {line.group for line in scores.read(folder)} == {NO_VOTE}


def test_loops_are_told_apart_from_wrong_and_from_cut(bench: Bench):
    loop = "and so on and so forth for ever and ever, says he. " * 20
    bench.script("base", {0: (loop, "length"), 1: ("so far", "length"), 2: (loop + "</think> \\boxed{7}", "stop")})

    _, folder = bench.run(models=["base"], max_tokens=1000)

    entry = measured(folder)["models"][0]
    assert entry["loops"] == 2
    assert outcomes(folder, "base") == {"correct": 8, "truncated": 2}


def test_money_is_that_of_the_price_in_the_file(bench: Bench):
    bench.script("base", {0: (WRONG, "stop")})
    priced = {"priced": {"model": "base", "price": {"input": 2.0, "output": 10.0}}}

    _, folder = bench.run(models=["base", priced])

    unknown, known = (entry["cost"] for entry in measured(folder)["models"])
    prompt, completion = known["prompt_tokens"], known["completion_tokens"]
    assert (prompt, completion) == (90, 9 * 4 + 5)
    assert known["money"] == pytest.approx((2.0 * prompt + 10.0 * completion) / 1e6)
    assert known["tokens_per_correct"]["value"] == pytest.approx(completion / 9)
    assert known["money_per_correct"]["value"] == pytest.approx(known["money"] / 9)
    assert unknown["money"] is None and unknown["money_per_correct"] is None  # the same answers, and no price


def test_the_teachers_price_is_that_of_its_section(bench: Bench):
    bench.script("teacher", {})
    planned = bench.planned(models=["teacher"])
    teacher = planned.sections["teacher"].model_copy(update={"price": {"input": 1.0, "output": 1.0}})
    free = type(planned.sections["teacher"]).model_validate({**vars(teacher), "price": "free"})

    evaluate.run(replace(planned, sections={**planned.sections, "teacher": free}))

    assert measured(planned.out)["models"][0]["cost"]["money"] == 0.0
    assert evaluate.keyed(planned.sections) != evaluate.keyed({**planned.sections, "teacher": free})


def test_fewer_answers_than_asked_for_is_an_error_not_a_smaller_denominator(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    bench.script("base", {})
    bench.run("whole", models=["base"], samples=4)
    monkeypatch.setattr("distill.rollout.fill", lambda *_, **__: None)
    with sqlite3.connect(bench.folder / "runs" / "ledger.sqlite") as ledger:
        (key,) = ledger.execute("select key from sample limit 1").fetchone()
        ledger.execute("delete from sample where key = ?", (key,))

    with pytest.raises(DistillError, match=r"model `base` has 3 of 4 answers to problem \w{32} of task `problems`"):
        bench.run(models=["base"], samples=4)


def test_scores_of_fewer_answers_are_refused():
    lines = [scores.Score("m", "p", n, f"k{n}", "correct", "correct", "stop", 1, 2, "", "") for n in range(3)]

    scores.refuse_fewer(lines, ["p"], 3)
    with pytest.raises(DistillError, match="model `m` has 3 answers to problem p, where 4 were asked for"):
        scores.refuse_fewer(lines, ["p"], 4)
    with pytest.raises(DistillError, match="model `m` has 0 answers to problem q"):
        scores.refuse_fewer(lines, ["p", "q"], 3)


def test_a_failed_request_is_counted_as_error_and_asked_for_again(bench: Bench):
    bench.script("student", {3: (None, "error")})
    _, folder = bench.run("first", models=["student"], samples=2)
    drawn = len(scripted.DRAWN)

    bench.run("again", models=["student"], samples=2)

    assert measured(folder)["models"][0]["rate"] == {
        "k": 18, "n": 18, "value": 1.0, "low": pytest.approx(0.7, abs=0.15), "high": 1.0, "items": 9, "ungradable": 0,
        "errors": 2,
    }  # fmt: skip
    assert scripted.DRAWN[drawn:] == ["question 3"] * 2


def test_a_stop_loses_nothing_that_was_bought(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.script("base", {})
    generate = scripted._Scripted.generate

    def stopped(self: Any, requests: Any) -> Any:
        for place, completion in enumerate(generate(self, requests)):
            if place == 6:
                raise KeyboardInterrupt
            yield completion

    with monkeypatch.context() as patched:
        patched.setattr(scripted._Scripted, "generate", stopped)
        with pytest.raises(KeyboardInterrupt):
            bench.run("stopped", models=["base"])
    scripted.DRAWN.clear()

    _, after = bench.run("after", models=["base"])

    assert len(scripted.DRAWN) == 4
    fresh = Bench(_other(bench.folder), bench.problems)
    fresh.script("base", {})
    _, whole = fresh.run(models=["base"])
    assert (after / "results.json").read_bytes() == (whole / "results.json").read_bytes()


def _other(folder: Path) -> Path:
    (folder / "other" / "runs").mkdir(parents=True)
    return folder / "other"


def test_another_version_of_a_verifier_grades_anew_and_buys_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.script("base", {0: (WRONG, "stop")})
    planned = bench.planned("first", models=["base"])
    evaluate.run(planned)
    before, drawn = evaluate.externals(planned.sections), len(scripted.DRAWN)

    def lenient(self: Any, answers: Any) -> Any:
        return [replace(finding, value="correct") for finding in graded(self, answers)]

    graded = math.MathVerifier.grade
    monkeypatch.setattr(math, "VERSION", math.VERSION + 1)
    monkeypatch.setattr(math.MathVerifier, "version", math.VERSION)
    monkeypatch.setattr(math.MathVerifier, "grade", lenient)
    _, folder = bench.run("second", models=["base"])

    assert evaluate.externals(planned.sections) != before  # the stage's key: what it said before is stale
    assert len(scripted.DRAWN) == drawn
    assert (measured(planned.out)["models"][0]["rate"]["k"], measured(folder)["models"][0]["rate"]["k"]) == (9, 10)


def test_a_dry_run_says_what_would_be_bought_and_what_it_could_show(bench: Bench, capsys: pytest.CaptureFixture[str]):
    bench.script("base", {})
    bench.script("student", {})
    bench.run("some", models=["base"], samples=2)
    drawn = len(scripted.DRAWN)
    price = {"input": 0.0, "output": 1e6}
    capsys.readouterr()

    report = evaluate.estimate(
        bench.planned(
            "dry", models=["base", {"paid": {"model": "base", "instruction": "Think.", "price": price}}], samples=4
        )
    )

    assert len(scripted.DRAWN) == drawn and not list((bench.folder / "dry").iterdir())
    base, paid = report.rows
    assert (base["answers"], base["in the ledger"], base["to buy"], base["cost at most"]) == (40, 20, 20, "-")
    assert (paid["answers"], paid["in the ledger"], paid["to buy"]) == (40, 0, 40)
    assert paid["cost at most"] == f"{40 * 50:,.2f}"  # 50 tokens each, a unit of money each
    assert report.data["answers"][0]["had"] == 20
    assert report.data["power"]["problems"]["items"] == 10
    assert "60 answers to buy" in report.summary
    assert "problems: 10 problems x 4 samples: differences from" in capsys.readouterr().err


def test_the_power_is_said_before_the_first_token(bench: Bench, capsys: pytest.CaptureFixture[str]):
    bench.script("base", {})

    bench.run(models=["base"])

    said = capsys.readouterr().err
    assert said.index("differences from") < said.index("answers bought")


def test_every_pair_of_models_is_compared_on_the_same_problems(bench: Bench):
    bench.script("base", {}, default=WRONG)
    bench.script("student", {0: (WRONG, "stop")})
    bench.script("teacher", {})

    report, folder = bench.run()

    pairs = {(pair["a"], pair["b"]): pair for pair in measured(folder)["pairs"]}
    assert set(pairs) == {("student", "base"), ("teacher", "base"), ("teacher", "student")}
    assert pairs["student", "base"]["verdict"] == "higher"
    assert pairs["teacher", "student"]["verdict"] == "no difference shown"
    assert [row["over first"].partition(" ")[0] for row in report.rows] == ["", "+90.0", "+100.0"]


def test_the_table_is_at_most_110_columns_wide(bench: Bench, capsys: pytest.CaptureFixture[str]):
    loop = "and so on and so forth for ever and ever, says he. " * 20
    bench.script("base", {0: (loop, "length"), 1: ("hm </think> I do not know", "stop")}, default=WRONG)
    bench.script("student", {0: ([WRONG, RIGHT], "stop")})
    bench.script("teacher", {})

    report, _ = bench.run(
        models=["base", {"base-cot": {"model": "base", "instruction": "Think."}}, "student", "teacher"], samples=4
    )
    capsys.readouterr()
    table.show(report.rows)

    assert {"cut", "none", "loops", "pass@n maj"} <= set(report.rows[0])
    assert "open" not in report.rows[0]  # nothing to show there
    assert max(len(line.rstrip()) for line in capsys.readouterr().out.splitlines()) <= 110


def test_what_is_not_measured_is_no_part_of_the_key(bench: Bench):
    bench.script("base", {})
    planned = bench.planned(models=["base"])
    another = {**planned.sections, "teacher": planned.sections["teacher"].model_copy(update={"model": "another"})}

    assert evaluate.keyed(another) == evaluate.keyed(planned.sections)
    assert evaluate.externals(another) == evaluate.externals(planned.sections)
    assert evaluate.unread(planned.sections) == {"train"}
    assert evaluate.unread({"evaluate": evaluate.Config.model_validate({"models": ["student"]})}) == set()
    both = evaluate.Config.model_validate({"models": ["base"], "tasks": ["steps"]})
    assert evaluate.unread({"evaluate": both}) == {"train", "problems"}


def test_instructions_that_were_followed_are_counted_one_by_one(tmp_path: Path):
    (tmp_path / "runs").mkdir()
    wanted = '{"instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"], "kwargs": [{}, {}]}'
    asked = [replace(problem(n), gold=None, tests=wanted, verifier="constraints") for n in range(10)]
    bench = Bench(tmp_path, asked)
    bench.script("base", {0: ("hm </think> Loud but plain", "stop")}, default="hm </think> all is well")

    _, folder = bench.run(models=["base"])

    entry = measured(folder)["models"][0]
    assert (entry["rate"]["k"], entry["rate"]["n"]) == (9, 10)
    assert (entry["by_part"]["k"], entry["by_part"]["n"], entry["by_part"]["items"]) == (19, 20, 10)
    assert {(line.parts, line.parts_right) for line in scores.read(folder)} == {(2, 2), (2, 1)}
