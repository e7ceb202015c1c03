"""What is special about one benchmark: options in a fixed mixture, windows of months, instructions in a row."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import task
from distill.evaluate.tasks import gpqa, livecodebench, steps
from distill.sources import embedded
from tests.evaluate.tasks.made import MADE, choose, choose_made, write
from tests.evaluate.tasks.test_contract import grade


def rows_of(name: str) -> list[dict[str, Any]]:
    return [dict(made.row) for made in MADE[name]]


# ---- GPQA


def _chemistry(n: int) -> dict[str, Any]:
    return {
        "Question": f"Question {n}?", "Correct Answer": f"right {n}",
        **{f"Incorrect Answer {k}": f"wrong {k} of {n}" for k in (1, 2, 3)},
    }  # fmt: skip


@given(st.integers(1, 60))
def test_the_right_option_stands_in_every_place_equally_often(count: int):
    placed = _gpqa([_chemistry(n) for n in range(count)])
    places = Counter(problem.gold for problem in placed)

    assert max(places.values()) - min(places[letter] for letter in "ABCD") <= 1
    for problem in placed:
        options = problem.messages[-1].content.split("\n\n")[1].split("\n")
        assert options["ABCD".index(problem.gold or "")].startswith(f"{problem.gold}) right")


def test_the_other_options_are_mixed_too():
    first = Counter(
        next(line[3:8] + line[9] for line in problem.messages[-1].content.split("\n") if line[3:8] == "wrong")
        for problem in _gpqa([_chemistry(n) for n in range(300)])
    )

    assert set(first) == {"wrong1", "wrong2", "wrong3"}
    assert min(first.values()) > 60, "100 each are expected"


def test_neither_the_order_of_rows_nor_that_of_wrong_options_counts():
    rows = [_chemistry(n) for n in range(9)]
    turned = [
        {**row, "Incorrect Answer 1": row["Incorrect Answer 3"], "Incorrect Answer 3": row["Incorrect Answer 1"]}
        for row in rows[::-1]
    ]

    assert sorted(p.id for p in _gpqa(rows)) == sorted(p.id for p in _gpqa(turned))


def test_a_corrected_wrong_option_moves_no_other_question():
    rows = [_chemistry(n) for n in range(9)]
    before = {p.id for p in _gpqa(rows)}

    after = {p.id for p in _gpqa([{**rows[0], "Incorrect Answer 2": "corrected"}, *rows[1:]])}

    assert len(before & after) == 8


def _gpqa(rows: list[dict[str, Any]]) -> list[Problem]:
    found = [(f"rows:{n}", row) for n, row in enumerate(rows)]
    return list(gpqa.placed_problems(found))


def test_a_csv_file_of_gpqa_is_read_as_it_is_published(tmp_path: Path):
    import csv

    path = tmp_path / "gpqa_diamond.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows_of("gpqa")[0]))
        writer.writeheader()
        writer.writerows(rows_of("gpqa"))

    problems = task.load(choose("gpqa", path=str(path)))

    assert task.fingerprint(problems) == task.fingerprint(task.load(choose_made("gpqa", tmp_path)))
    assert {problem.domain for problem in problems} == {"chemistry"}


# ---- other choices


def test_arc_s_options_may_have_numbers_for_letters(tmp_path: Path):
    rows = [
        {"id": "1", "question": "Which?", "choices": {"text": ["4", "1", "2"], "label": ["1", "2", "3"]},
         "answerKey": "1"},
        {"id": "2", "question": "And which?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
    ]  # fmt: skip

    golds = {p.messages[-1].content: p.gold for p in task.load(choose_made("arc", tmp_path, rows))}

    assert golds == {"Which?\n\nA. 4\nB. 1\nC. 2": "A", "And which?\n\nA. x\nB. y": "B"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answerKey": "E"}, "the gold 'E' is none of the labels A, B, C, D"),
        ({"choices": {"text": ["x"], "label": ["A", "B"]}}, "`choices` is not"),
        ({"choices": {"text": ["x"], "label": ["A"]}, "answerKey": "A"}, "1 options; a choice has 2 to 26"),
    ],
)
def test_arc_rows_that_are_none(change: dict[str, Any], message: str, tmp_path: Path):
    row = {"question": "Which?", "choices": {"text": ["w", "x", "y", "z"], "label": [*"ABCD"]}, "answerKey": "A"}

    with pytest.raises(DistillError, match=rf"task `arc`: .*rows.jsonl:1: {message}"):
        task.load(choose_made("arc", tmp_path, [row | change]))


def test_a_letter_is_a_letter_where_an_option_s_text_is_one_too(tmp_path: Path):
    row = {"question": "Which blood group?", "options": ["B", "A", "AB", "0"], "answer": "A"}

    for one in (row, {**row, "answer": "B", "answer_index": 0}):
        (problem,) = task.load(choose_made("mmlu_pro", tmp_path, [one]))
        assert problem.gold == "A"


# ---- LiveCodeBench


def test_only_contests_of_the_window_are_taken(tmp_path: Path):
    rows = rows_of("livecodebench")
    rows[0]["contest_date"], rows[1]["contest_date"] = "2024-07-31T23:00:00", "2025-02-01T00:00:00"
    rows[2]["contest_date"], rows[3]["contest_date"] = "2024-08-01T00:00:00", "2025-01-31T23:59:59"

    taken = task.load(choose_made("livecodebench", tmp_path, rows))
    november = task.load(choose_made("livecodebench", tmp_path, rows, since="2024-11", until="2024-11"))

    assert len(taken) == 8
    assert 0 < len(november) < 8
    with pytest.raises(DistillError, match="no problem of 2026-01 to 2026-02; its contests are of 2024-07 to 2025-02"):
        task.load(choose_made("livecodebench", tmp_path, rows, since="2026-01", until="2026-02"))


@pytest.mark.parametrize("month", ["2024-13", "2024-8", "August", "2024-08-01"])
def test_a_month_is_a_month(month: str):
    with pytest.raises(ValueError, match="match pattern"):
        choose("livecodebench", since=month)


def test_its_files_are_read_from_a_folder_or_fetched_without_its_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    rows = rows_of("livecodebench")
    for name, part in zip(livecodebench.Config().files, (rows[:3], rows[3:6], rows[6:]), strict=True):
        write(tmp_path / "copy" / name, part)
    (tmp_path / "copy" / "code_generation_lite.py").write_text("raise SystemExit('a script was run')\n")
    asked: list[Any] = []

    def download(path: str, name: str, **named: Any) -> str:
        asked.append((path, name, named))
        return str(tmp_path / "copy" / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    local = task.load(choose("livecodebench", path=str(tmp_path / "copy")))
    fetched = task.load(choose("livecodebench", revision="0fe84c3"))

    assert local == fetched == task.load(choose_made("livecodebench", tmp_path))
    assert asked == [
        ("livecodebench/code_generation_lite", name, {"repo_type": "dataset", "revision": "0fe84c3"})
        for name in ("test3.jsonl", "test4.jsonl", "test5.jsonl")
    ]


# ---- IFEval


def test_an_unknown_instruction_is_ungradable_and_named(tmp_path: Path):
    rows = rows_of("ifeval")[:2]
    rows[0] = {**rows[0], "instruction_id_list": ["punctuation:no_comma", "fresh:kind"]}

    problems = task.load(choose_made("ifeval", tmp_path, rows))
    verdicts = {problem.messages[-1].content: verdict for problem, verdict in
                zip(problems, grade(problems, ["Fine.", "Fine."]), strict=True)}  # fmt: skip

    assert verdicts[rows[0]["prompt"]].value == "ungradable"
    assert verdicts[rows[0]["prompt"]].reason == "unknown instruction fresh:kind"
    assert verdicts[rows[1]["prompt"]].value == "correct"


def test_single_instructions_are_counted_also_of_a_cut_answer(tmp_path: Path):
    problems = task.load(choose_made("ifeval", tmp_path, rows_of("ifeval")[:1]))

    (half,) = grade(problems, ["Short, but with a comma."])
    (cut,) = grade(problems, ["Fine"], "length")

    assert (half.value, half.step_scores) == ("wrong", (0.0, 1.0))
    assert (cut.value, cut.step_scores, cut.score) == ("unparseable", (0.0, 0.0), 0.0)


def test_loose_is_asked_of_the_verifier(tmp_path: Path):
    rows = rows_of("ifeval")[:1]
    strict = task.load(choose_made("ifeval", tmp_path, rows))
    loose = task.load(choose_made("ifeval", tmp_path, rows, mode="loose"))
    answer = "Sure, here it is:\nA fine number."

    assert [p.id for p in strict] == [p.id for p in loose], "no answer is bought again"
    assert [v.value for p in (strict, loose) for v in grade(p, [answer])] == ["wrong", "correct"]


def test_a_row_whose_arguments_are_not_as_many_as_its_instructions_is_refused(tmp_path: Path):
    row = {**rows_of("ifeval")[0], "kwargs": [{}]}

    with pytest.raises(DistillError, match=r"task `ifeval`: .*rows.jsonl:1: `kwargs` are not as many"):
        task.load(choose_made("ifeval", tmp_path, [row]))


# ---- those that make their problems


def test_a_step_s_question_has_its_numbers_and_none_of_its_result():
    problems = list(steps.build(steps.Config(size=400)))

    assert len({problem.id for problem in problems}) == 400
    assert {problem.domain for problem in problems} == set(embedded.KINDS)
    for problem in problems:
        assert problem.gold is not None and int(problem.gold) >= 0


def test_steps_of_another_seed_are_others():
    first, second = ({p.id for p in steps.build(steps.Config(size=200, seed=seed))} for seed in (0, 1))

    assert len(first & second) < 20


def test_more_steps_than_there_are_is_said(monkeypatch: pytest.MonkeyPatch):
    (item,) = embedded.draw("test", 1, 0)
    monkeypatch.setattr(embedded, "stream", lambda pool, seed: itertools.repeat(item))
    with pytest.raises(DistillError, match="`size: 99` is more than there are"):
        list(steps.build(steps.Config(size=99)))


def test_reasoning_gym_s_problems_are_not_those_of_its_source():
    pytest.importorskip("reasoning_gym", reason="the extra `gym` is not installed")
    from distill.sources import reasoning_gym as source

    asked = ["chain_sum", {"letter_counting": {"max_words": 8}}]
    problems = task.load(choose("reasoning_gym", tasks=asked, size=20))
    trained = source.build(source.Config(tasks=["chain_sum"], size=20), {"train": None, "dev": None, "test": None})

    assert Counter(problem.domain for problem in problems) == {"chain_sum": 20, "letter_counting": 20}
    assert not {problem.id for problem in problems} & {problem.id for problem in trained}
    with pytest.raises(DistillError, match=r"task `reasoning_gym`: .*no task `chain_sun`; did you mean `chain_sum`"):
        task.load(choose("reasoning_gym", tasks=["chain_sun"]))


# ---- kept out of training


def test_what_a_task_asks_is_found_by_the_contamination_filter(tmp_path: Path):
    from distill.core.records import Trace
    from distill.filters import contamination
    from distill.text import contamination as text

    problems = task.load(choose_made("gpqa", tmp_path))
    text.write(tmp_path / "gpqa.sig", text.build("gpqa", [made.question for made in MADE["gpqa"]]))
    built = contamination.build(contamination.Config(signatures=[str(tmp_path / "gpqa.sig")]))

    for problem in problems:
        asked = task.asked(problem, gpqa.Config().told)
        assert built.fault(Trace("k", problem.id, asked.messages, "thinking", "Answer: A")) == "copy of gpqa"
