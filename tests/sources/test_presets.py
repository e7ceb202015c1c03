"""Sources of a known layout: what their rows become, on made rows and on the real files where they are."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from distill import tabular
from distill.core.errors import DistillError
from distill.core.plugins import load
from distill.core.records import Problem
from distill.stages.problems import fault
from distill.text.answers import gold_fault
from distill.text.code_tests import Call, CallTests, Exchange, FunctionTests, StdioTests, parse
from distill.text.code_tests import tests_fault as fault_of_tests  # pytest would take it for a test

EVERYTHING = {"train": None, "dev": None, "test": None}


def read(name: str, path: Path, **settings: Any) -> list[Problem]:
    module = load("distill.sources", name)
    return list(module.build(module.Config(path=str(path), **settings), EVERYTHING))


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_tests(program: str, tests: FunctionTests) -> int:
    """How many tests pass, in the order that the module documents; only for programs of people."""
    passed = 0
    for test in tests.tests:
        space: dict[str, Any] = {"__name__": "answer"}
        try:
            for source in (tests.prelude, program, tests.setup, test):
                exec(source, space)
            passed += 1
        except Exception:  # whatever a program under test raises is a failed test
            continue
    return passed


def test_math_takes_the_gold_from_the_last_box_of_the_solution(tmp_path: Path):
    solution = r"First \boxed{1}, so $x = \boxed{\frac{1}{2}}$."
    row = {"problem": "Find x.", "level": "Level 5", "type": "Algebra", "solution": solution}

    (problem,) = read("math", written(tmp_path, [row]), split="test")

    assert (problem.gold, problem.domain, problem.level, problem.split) == (r"\frac{1}{2}", "algebra", "5", "test")
    assert problem.reference_reasoning == solution


def test_math_prefers_an_answer_column_and_keeps_null_golds_in_their_rows(tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"problem": "a", "answer": None},
        {"problem": "b", "solution": r"\boxed{3}", "answer": "2"},
        {"problem": "c", "solution": "no box"},
    ]

    assert [p.gold for p in read("math", written(tmp_path, rows))] == [None, "2", None]
    with pytest.raises(DistillError, match="rows.jsonl:1: neither `answer` nor `solution`"):
        read("math", written(tmp_path, [{"problem": "a"}]))


def test_humaneval_keeps_prompt_entry_point_and_tests(tmp_path: Path):
    prompt = "import math\n\ndef area(r):\n    '''Area.'''\n"
    test = "def check(candidate):\n    assert candidate(0) == 0\n    assert round(candidate(1), 2) == 3.14"
    (problem,) = read("humaneval", written(tmp_path, [{"prompt": prompt, "entry_point": "area", "test": test}]))
    tests = parse(problem.tests or "")

    assert isinstance(tests, FunctionTests)
    assert (problem.gold, problem.verifier, tests.entry_point) == (None, "code", "area")
    assert prompt.strip() in problem.messages[0].content
    assert test not in problem.messages[0].content
    body = prompt + "    return math.pi * r * r\n"
    assert run_tests(body, tests) == 1, "a body continues the prompt"
    assert run_tests("def area(r):\n    return math.pi * r * r\n", tests) == 1, "a whole function stands for itself"
    assert run_tests("def area(r):\n    return 3 * r\n", tests) == 0


def test_mbpp_shows_the_first_assertion_and_hides_the_rest(tmp_path: Path):
    row = {
        "text": "Write a function to add.",
        "test_list": ["assert set(add(1, 2)) == {3}", "assert add(2, 2) == [4]"],
        "test_setup_code": "base = 0",
        "challenge_test_list": ["assert add(0, base) == [0]"],
    }
    (problem,) = read("mbpp", written(tmp_path, [row]))
    (more,) = read("mbpp", written(tmp_path, [row]), shown=2)
    tests = parse(problem.tests or "")

    assert isinstance(tests, FunctionTests)
    assert (tests.entry_point, len(tests.tests), tests.setup) == ("add", 3, "base = 0")
    assert "{3}" in problem.messages[0].content
    assert "[4]" not in problem.messages[0].content
    assert "[4]" in more.messages[0].content
    assert run_tests("base = 7\ndef add(a, b):\n    return [a + b]", tests) == 3, "set-up comes after the program"
    with pytest.raises(DistillError, match="rows.jsonl:1: `test_list` is empty"):
        read("mbpp", written(tmp_path, [{**row, "test_list": [], "challenge_test_list": None}]))


def packed(value: Any) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def test_livecodebench_reads_programs_and_packed_private_cases(tmp_path: Path):
    public = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
    private = [{"input": "2 2\n", "output": "4\n", "testtype": "stdin"}]
    row = {
        "question_content": "Add.",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(public),
        "private_test_cases": packed(json.dumps(private)),
    }

    (problem,) = read("livecodebench", written(tmp_path, [row]))

    assert parse(problem.tests or "") == StdioTests((Exchange("1 2\n", "3\n"), Exchange("2 2\n", "4\n")))
    assert "standard input" in problem.messages[0].content
    assert problem.level == "easy"


def test_livecodebench_reads_functional_cases_as_calls(tmp_path: Path):
    row = {
        "question_content": "Add.",
        "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        ",
        "public_test_cases": [{"input": '1\n["x", "y"]', "output": "[3]", "testtype": "functional"}],
        "private_test_cases": "",
        "metadata": json.dumps({"func_name": "add"}),
    }

    (problem,) = read("livecodebench", written(tmp_path, [row]))

    assert parse(problem.tests or "") == CallTests("Solution.add", (Call((1, ["x", "y"]), [3]),))
    assert "class Solution" in problem.messages[0].content
    with pytest.raises(DistillError, match="rows.jsonl:1: `metadata` has no `func_name`"):
        read("livecodebench", written(tmp_path, [{**row, "metadata": "{}"}]))


class Planted:
    """Whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("cases", ["not packed", packed(["no text"]), packed({"a": 1})])
def test_livecodebench_refuses_other_packages(tmp_path: Path, cases: str):
    with pytest.raises(DistillError, match="rows.jsonl:1: `private_test_cases`"):
        read("livecodebench", written(tmp_path, [{"question_content": "a", "private_test_cases": cases}]))


def test_livecodebench_runs_nothing_that_a_row_carries(tmp_path: Path):
    planted = tmp_path / "planted"
    row = {"question_content": "a", "private_test_cases": packed(Planted(planted))}

    with pytest.raises(DistillError, match=r"cannot be unpacked \(it names"):
        read("livecodebench", written(tmp_path, [row]))
    assert not planted.exists()


def test_mmlu_reads_letters_lists_places_and_the_original_files(tmp_path: Path):
    rows: list[dict[str, Any]] = [
        {"question": "2+2?", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "B", "subject": "high_school"},
        {"question": "3+3?", "choices": ["5", "6"], "answer": 1},
        {"question": "4+4?", "options": [str(n) for n in range(10)], "answer": "I", "category": "math"},
    ]
    original = tmp_path / "abstract_algebra_dev.csv"
    original.write_text('"2+2, again?",3,4,5,6,B\n5+5?,10,11,12,13,A\n')
    headed = tmp_path / "headed.csv"
    headed.write_text("question,A,B,answer\n2+3?,5,6,A\n")

    found = read("mmlu", written(tmp_path, rows))
    assert [(p.gold, p.domain, p.verifier) for p in found] == [
        ("B", "high school", "choice"), ("B", "", "choice"), ("I", "math", "choice")
    ]  # fmt: skip
    assert found[0].messages[0].content == "2+2?\n\nA. 3\nB. 4\nC. 5\nD. 6"
    assert [(p.gold, p.domain) for p in read("mmlu", original)] == [
        ("B", "abstract algebra"),
        ("A", "abstract algebra"),
    ]
    assert [(p.gold, p.messages[0].content) for p in read("mmlu", headed)] == [("A", "2+3?\n\nA. 5\nB. 6")]


def test_presets_read_any_kind_of_file(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([{"question": "1+1?", "answer": "It is #### 2"}]), path)

    assert read("gsm8k", path)[0].gold == "2"


# Real files


def test_every_humaneval_solution_passes_and_a_foreign_one_fails(shared_data: Path):
    path = shared_data / "humaneval" / "HumanEval.jsonl.gz"
    rows = [row for _, row in tabular.rows(str(path))]
    problems = read("humaneval", path)

    assert len({p.id for p in problems}) == 164
    for row, problem in list(zip(rows, problems, strict=True))[:40]:
        tests = parse(problem.tests or "")
        assert isinstance(tests, FunctionTests)
        assert run_tests(row["prompt"] + row["canonical_solution"], tests) == len(tests.tests), row["task_id"]
        assert run_tests(f"def {row['entry_point']}(*args, **kwargs):\n    return object()", tests) == 0
    assert {fault_of_tests(p.tests) for p in problems} == {None}


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # of the solutions, not ours
def test_every_mbpp_solution_passes_its_tests_and_not_another_s(shared_data: Path):
    path = shared_data / "mbpp" / "mbpp.jsonl.gz"
    rows = [row for _, row in tabular.rows(str(path))]
    problems = read("mbpp", path)
    tests = [parse(p.tests or "") for p in problems]

    assert all(isinstance(t, FunctionTests) and t.entry_point for t in tests)
    for row, own, foreign in list(zip(rows, tests, tests[1:] + tests[:1], strict=True))[::6]:
        assert run_tests(row["code"], own) == len(own.tests), row["task_id"]  # type: ignore[union-attr,arg-type]  # above
        assert run_tests(row["code"], foreign) == 0, row["task_id"]  # type: ignore[arg-type]  # above


def test_real_math_rows_have_gradable_golds_but_for_the_known_few(shared_data: Path):
    problems = read("math", shared_data / "math_train" / "math_train.jsonl.gz")
    aime = read("math", shared_data / "math_train" / "aime_1983_2023.jsonl.gz")

    assert (len(problems), sum(gold_fault(p.gold) is not None for p in problems)) == (7474, 4)
    assert all(gold_fault(p.gold) is None and p.reference_reasoning for p in aime)


def test_real_mmlu_golds_are_letters(shared_data: Path):
    for folder, name, count in (("mmlu_dev_val", "mmlu_dev_val", 1816), ("mmlu_pro_outputs", "outputs", 2000)):
        problems = read("mmlu", shared_data / folder / f"{name}.jsonl.gz")
        assert len(problems) == count
        assert {fault(p, ["choice"]) for p in problems} == {None}
