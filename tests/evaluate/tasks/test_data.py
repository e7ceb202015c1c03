"""Tasks on real copies of their data: every row is read, and what people said of real answers is what the task says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill import tabular
from distill.core.errors import DistillError
from distill.core.plugins import names
from distill.core.records import Problem
from distill.evaluate import task
from distill.stages.problems import fault
from distill.text.think import split_think
from tests.evaluate.tasks.made import choose, write
from tests.evaluate.tasks.test_contract import grade


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    for _, row in tabular.rows(str(path)):
        yield row


def gradable(problems: list[Problem]) -> bool:
    verifiers = names("distill.verifiers")
    return not any(fault(problem, verifiers) for problem in problems)


def test_gsm8k_has_its_1319_problems_and_takes_its_own_solutions(shared_data: Path):
    problems = task.load(choose("gsm8k", path=str(shared_data / "gsm8k" / "test.jsonl.gz")))

    assert len(problems) == 1319
    assert gradable(problems)
    some = problems[:100]
    assert {v.value for v in grade(some, [rf"So \boxed{{{p.gold}}}." for p in some])} == {"correct"}
    assert {v.value for v in grade(some, [rf"So \boxed{{{p.gold}5}}." for p in some])} == {"wrong"}


def test_aime_s_golds_are_gradable_whole_numbers(shared_data: Path):
    problems = task.load(choose("aime2024", path=str(shared_data / "math_train" / "aime_1983_2023.jsonl.gz")))

    assert len(problems) > 900
    assert gradable(problems)
    assert all(0 <= int(problem.gold or "-1") <= 999 for problem in problems)


def test_a_null_gold_of_a_real_file_is_named(shared_data: Path):
    path = shared_data / "math_train" / "math_train.jsonl.gz"
    first = next(n for n, row in enumerate(rows_of(path), 1) if not row["answer"])

    with pytest.raises(DistillError, match=rf"task `math500`: .*math_train.jsonl.gz:{first}: no gold answer"):
        task.load(choose("math500", path=str(path)))


def test_math500_says_what_people_said_of_r1_s_responses(shared_data: Path, tmp_path: Path):
    responses = list(rows_of(shared_data / "r1_math500_traces" / "traces.jsonl.gz"))
    rows = {row["problem"]: {"problem": row["problem"], "answer": row["ground_truth"]} for row in responses}
    problems = task.load(choose("math500", path=write(tmp_path / "test.jsonl", list(rows.values()))))
    by_question = {problem.messages[-1].content: problem for problem in problems}

    asked = [by_question[row["problem"]] for row in responses]
    finals = [split_think(row["full_response"]).answer for row in responses]
    verdicts = [
        verdict.value for problem, final in zip(asked, finals, strict=True) for verdict in grade([problem], [final])
    ]

    assert [value == "correct" for value in verdicts] == [row["checked_correct"] for row in responses]


def test_humaneval_takes_its_solutions_and_refuses_those_of_others(shared_data: Path):
    choice = choose("humaneval", path=str(shared_data / "humaneval" / "HumanEval.jsonl.gz"))
    if why := task.fault(choice):
        pytest.skip(why)
    solutions = {
        row["entry_point"]: row["prompt"] + row["canonical_solution"]
        for row in rows_of(shared_data / "humaneval" / "HumanEval.jsonl.gz")
    }
    problems = task.load(choice)
    some = problems[:8]
    right = [solutions[json.loads(problem.tests or "")["entry_point"]] for problem in some]

    assert len(problems) == 164
    assert gradable(problems)
    assert {v.value for v in grade(some, [f"```python\n{code}\n```" for code in right])} == {"correct"}
    shifted = [*right[1:], right[0]]
    assert {v.value for v in grade(some, [f"```python\n{code}\n```" for code in shifted])} == {"wrong"}


def test_mbpp_takes_its_solutions_and_shows_what_grades(shared_data: Path):
    choice = choose("mbpp", path=str(shared_data / "mbpp" / "mbpp.jsonl.gz"))
    if why := task.fault(choice):
        pytest.skip(why)
    rows = list(rows_of(shared_data / "mbpp" / "mbpp.jsonl.gz"))
    problems = task.load(choice)
    some = problems[:8]
    solutions = [
        next(row["code"] for row in rows if problem.messages[-1].content.startswith(row["text"].strip()))
        for problem in some
    ]

    assert len(problems) == len(rows) == 474
    assert gradable(problems)
    assert {v.value for v in grade(some, [f"```python\n{code}\n```" for code in solutions])} == {"correct"}
    for problem in some:
        tests = json.loads(problem.tests or "")["tests"]
        assert len(tests) == 3
        assert all(test in problem.messages[-1].content for test in tests)


def test_mmlu_pro_s_golds_are_its_letters_and_places(shared_data: Path, capsys: pytest.CaptureFixture[str]):
    path = shared_data / "mmlu_pro_outputs" / "outputs.jsonl.gz"
    rows = list(rows_of(path))
    letters = {(row["question"].rstrip(), row["options"][0]): row["answer"] for row in rows}

    problems = task.load(choose("mmlu_pro", path=str(path)))

    assert len(problems) == 999, "two models answered 1,000 questions, of which one stands there twice"
    assert "1,001 questions that stood there before count once" in capsys.readouterr().err
    for problem in problems:
        question, _, options = problem.messages[-1].content.rpartition("\n\nA. ")
        assert any(
            letters.get((question, first)) == problem.gold for first in {options.partition("\nB. ")[0], options}
        ), question
