"""The code verifier: layouts, what counts as right, which case failed and how, and what no program can do about it."""

from __future__ import annotations

import ast
import copy
import gzip
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.core.protocols import Answer, Finding
from distill.sandbox import box as box_module
from distill.sandbox import trial
from distill.sandbox.box import Box, Broken, Unavailable, open_box
from distill.sandbox.inside import wire
from distill.sources import humaneval, livecodebench, mbpp
from distill.text.code_tests import Call, CallTests, CodeTests, Exchange, FunctionTests, StdioTests, dump
from distill.verifiers.code import CodeVerifier, Config, blocks_of, build, pick

ADD = FunctionTests("add", ("assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add(5, 5) == 10"))


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    """With short limits; skips where bubblewrap cannot run, saying why."""
    try:
        open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
    built = build(Config(cpu_s=2, wall_s=30, memory_mib=512))
    yield built
    built.close()


def grade(verifier: CodeVerifier, program: str, tests: CodeTests) -> Finding:
    return verifier.grade([Answer(program, None, dump(tests), extracted=True)])[0]


def test_says_which_case_failed_and_how(verifier: CodeVerifier):
    assert grade(verifier, "def add(a, b): return a + b", ADD) == Finding(
        "correct", "passed 3 tests", "def add(a, b): return a + b", score=1.0
    )
    wrong = grade(verifier, "def add(a, b): return abs(a) + b", ADD)
    assert (wrong.value, wrong.reason, wrong.score) == ("wrong", "test 2 of 3: wrong result; 2 passed", 2 / 3)
    assert grade(verifier, "def add(a, b): return a / (b - 1)", ADD).reason == "test 1 of 3: wrong result; 0 passed"
    assert grade(verifier, "def add(a, b): return [a][b]", ADD).reason == "test 1 of 3: raised IndexError; 0 passed"
    assert grade(verifier, "def sub(a, b): return a", ADD).reason == "test 1 of 3: raised NameError; 0 passed"
    assert grade(verifier, "1 / 0", ADD).reason == "test 1 of 3: when loaded: raised ZeroDivisionError; 0 passed"


def test_a_timeout_in_case_1_does_not_void_the_others(verifier: CodeVerifier):
    short = CodeVerifier(verifier.config.model_copy(update={"cpu_s": 1.0}))
    program = "def add(a, b):\n    while (a, b) == (1, 2): pass\n    return a + b"
    script = "n = int(input())\nwhile n == 1: pass\nprint(n)"
    cases = StdioTests((Exchange("1\n", "1\n"), Exchange("2\n", "2\n"), Exchange("3\n", "3\n")))
    calls = CallTests("add", (Call((1, 2), 3), Call((2, 2), 4)))

    assert "over 1 s of CPU time; 2 passed" in grade(short, program, ADD).reason
    assert grade(short, script, cases).reason == "case 1 of 3: over 1 s of CPU time; 2 passed"
    assert "over 1 s of CPU time; 1 passed" in grade(short, program, calls).reason


def test_after_some_cases_over_a_limit_the_rest_is_not_run():
    try:
        open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
    program = "n = int(input())\nwhile n < 3: pass\nprint(n)"
    cases = StdioTests(tuple(Exchange(f"{n}\n", f"{n}\n") for n in range(5)))

    finding = CodeVerifier(Config(cpu_s=1, overs=2)).grade([Answer(program, None, dump(cases), extracted=True)])[0]

    assert finding.reason == "case 1 of 5: over 1 s of CPU time; 0 passed"


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ("1\n2\n3\n", True), ("1\n2\n3", True), ("1 \n2\n3\n\n\n", True), ("1.0\n2\n3\n", True),
        ("1\r\n2\r\n3\r\n", True),
        ("1\n2\n", False), ("1\n", False), ("", False), ("1\n2\n3\n4\n", False), ("1\n\n2\n3\n", False),
        ("123\n", False), ("1 2 3\n", False), ("1\n2\n4\n", False), ("nan\n2\n3\n", False),
        ("1_0\n2\n3\n", False), ("１\n2\n3\n", False),
    ],
)  # fmt: skip
def test_output_is_compared_whole_and_in_length(given: str, same: bool):
    assert trial.same_output(given, "1\n2\n3\n") is same


def test_output_numbers_are_exact():
    assert not trial.same_output("12345", "12346")
    assert not trial.same_output("0.1", "0.10000000000000001")
    assert trial.same_output("YES 1.50", "YES 1.50") and not trial.same_output("yes", "YES")
    assert not trial.same_output("", "1") and trial.same_output("\n", "")


def test_programs_that_print(verifier: CodeVerifier):
    total = StdioTests((Exchange("2\n1 2\n", "3\n"), Exchange("1\n" + "7 " * 100_000, "700000\n")))

    assert grade(verifier, "input()\nprint(sum(map(int, input().split())))", total).value == "correct"
    assert grade(verifier, "print(3)", total).reason == "case 2 of 2: wrong output; 1 passed"
    assert grade(verifier, "pass", total).reason == "case 1 of 2: no output; 0 passed"
    assert (
        grade(verifier, "print(3); raise SystemExit(1)", total).reason == "case 1 of 2: ended with status 1; 0 passed"
    )
    main = "import sys\ndef main():\n    print(sum(map(int, sys.stdin.read().split()[1:])))\n"
    main += "if __name__ == '__main__':\n    main()"
    assert grade(verifier, main, total).value == "correct"
    thread = "import threading, sys\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n" + main.replace(
        "    main()", "    t = threading.Thread(target=main); t.start(); t.join()"
    )
    assert grade(verifier, thread, total).value == "correct"
    names = "input()\nprint(reduce(lambda a, b: a + b, map(int, input().split())))  # as contest sites allow"
    assert grade(verifier, names, total).value == "correct"


def test_returned_values_are_json_and_cost_no_time_to_read():
    assert trial.returned({"d": [["a", {"t": [1, {"i": "0x10"}]}], [1, None]]}) == {"a": [1, 16], "1": None}
    for data in ({"s": [1]}, {"h": 1}, {"d": [[[1], 2]]}, {"d": [1]}, {}, {"v": ["decimal.Decimal", ["1"]]}, {"t": 1}):
        with pytest.raises(wire.NotPlain):
            trial.returned(data)
    colliding = {"d": [[{"i": hex(k * (2**61 - 1))}, 0] for k in range(100_000)]}
    with pytest.raises(wire.NotPlain):
        trial.returned(colliding)


def test_calls_of_a_method(verifier: CodeVerifier):
    tests = CallTests("Solution.pairs", (Call(([1, 2, 3], 3), [[1, 2]]), Call(([], 1), [])))
    program = (
        "class Solution:\n    def pairs(self, xs: List[int], total: int) -> List[List[int]]:\n"
        "        return [(a, b) for a, b in combinations(xs, 2) if a + b == total]"
    )

    assert grade(verifier, program, tests).value == "correct"
    assert grade(verifier, program.replace("==", "!="), tests).value == "wrong"
    assert grade(verifier, "class Solution:\n    def other(self): pass", tests).reason.endswith(
        "AttributeError; 0 passed"
    )
    assert "no plain data" in grade(verifier, program.replace("[(", "((").replace("al]", "al)"), tests).reason


def test_a_body_continues_the_prelude_and_a_whole_function_replaces_it(verifier: CodeVerifier):
    prelude = 'from typing import List\n\n\ndef top(xs: List[int]) -> int:\n    """Largest."""\n'
    tests = FunctionTests("top", ("def check(candidate):\n    assert candidate([1, 3]) == 3\n\ncheck(top)\n",), prelude)

    assert grade(verifier, "    return max(xs)\n\n\nprint('example')\n", tests).value == "correct"
    assert grade(verifier, "def top(xs: List[int]) -> int:\n    return max(xs)\n", tests).value == "correct"
    assert grade(verifier, "top = max", tests).value == "correct"
    assert grade(verifier, "return max(xs)", tests).reason == "test 1 of 1: not Python; 0 passed"
    assert grade(verifier, "    return min(xs)", tests).value == "wrong"


def test_helpers_of_the_prelude_are_the_tests_own_and_cannot_be_replaced(verifier: CodeVerifier):
    prelude = "def poly(x):\n    return x * x - 4\n\n\ndef zero():\n    '''A zero of poly.'''\n"
    tests = FunctionTests("zero", ("assert abs(poly(zero())) < 1e-9",), prelude)

    assert grade(verifier, "    return 2", tests).value == "correct"
    assert grade(verifier, "    return 3", tests).value == "wrong"
    assert grade(verifier, "def poly(x): return 0\ndef zero(): return 3", tests).value == "wrong"


def test_builtin_names_in_tests_are_python_s_own(verifier: CodeVerifier):
    tests = FunctionTests("same", ("assert set(same([1])) == set([1])",))

    assert grade(verifier, "def same(x): return x", tests).value == "correct"
    assert grade(verifier, "set = lambda x: 0\ndef same(x): return None", tests).value == "wrong"
    assert (
        grade(verifier, "def sum(a, b): return a - b", FunctionTests(None, ("assert sum(3, 1) == 2",))).value
        == "correct"
    )


def test_objects_generators_exceptions_and_functions_pass_between(verifier: CodeVerifier):
    program = """
class Node:
    def __init__(self, value):
        self.value, self.left = value, None

def depth(node):
    return 0 if node is None else 1 + depth(node.left)

def count(n):
    yield from range(n)

def twice(f, x):
    return f(f(x))

class Odd(ValueError):
    pass

def check_even(n):
    if n % 2:
        raise Odd("odd")
    return n

def kind(x):
    return type(x)
"""
    tests = FunctionTests(
        None,
        (
            "root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2\nassert root.left.value == 2",
            "assert list(count(200)) == list(range(200))",
            "assert twice(lambda x: x + 3, 7) == 13",
            "assert kind('a') is str",
            "try:\n    check_even(3)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'odd'",
            "assert check_even(n=4) == 4",
            "import math\nassert math.isclose(check_even(2), 2.0)",
            "assert math.pi > 3 and check_even(2) == 2",
        ),
    )

    finding = grade(verifier, program, tests)

    assert finding.value == "correct", finding.reason


def test_objects_of_the_tests_own_classes_are_passed_by_value(verifier: CodeVerifier):
    prelude = "class ListNode:\n    def __init__(self, val=0, next=None):\n        self.val, self.next = val, next\n"
    tests = FunctionTests(
        "total",
        (
            "assert total(ListNode(1, ListNode(2))) == 3",
            "class Pair:\n    pass\n\npair = Pair()\npair.val, pair.next = 4, None\nassert total(pair) == 4",
            "node = ListNode(1)\nassert total(node) == 1 and node.val == 1",
            "assert total(doubled(ListNode(1, ListNode(2)))) == 6",
            "assert doubled(ListNode(3)).val == 6",
            "assert total(make(iter([1, 2]))) == 3",
        ),
        prelude,
    )
    program = """
def total(node):
    value = 0
    while node:
        value, node.val, node = value + node.val, 0, node.next
    return value

def doubled(node):
    return node and ListNode(2 * node.val, doubled(node.next))

def make(values):
    first = next(values, None)
    return first and ListNode(first, make(values))
"""

    finding = grade(verifier, program, tests)

    assert finding.value == "correct", finding.reason


def test_a_test_that_swallows_every_exception_is_no_way_out(verifier: CodeVerifier):
    tests = FunctionTests("f", ("try:\n    f()\nexcept BaseException:\n    pass", "assert f() == 1"))

    assert grade(verifier, "import os\ndef f(): os._exit(0)", tests).reason == (
        "test 1 of 2: ended before it answered; 0 passed"
    )
    assert grade(verifier, "def f(): return 1", tests).value == "correct"


def test_tests_that_ask_nothing_or_cannot_be_sent_are_ungradable(verifier: CodeVerifier):
    assert grade(verifier, "x = 1", FunctionTests("f", ("assert True",))).value == "ungradable"
    unfit = FunctionTests("f", ("import threading\nassert f(threading.Lock()) == 1",))
    assert grade(verifier, "def f(x): return 1", unfit).value == "ungradable"
    answers = [
        Answer("def f(): pass", None, tests) for tests in (None, "", "{}", "[", '{"style": "stdio", "cases": []}')
    ]
    assert [finding.value for finding in verifier.grade(answers)] == ["ungradable"] * 5


def test_where_the_program_is_read_from(verifier: CodeVerifier):
    tests = dump(ADD)
    good, bad = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"
    texts = {
        f"First\n```python\n{bad}\n```\nthen\n```python\n{good}\n```\nDone.": "correct",
        f"```python\n{good}\n```\nUse it:\n```python\nprint(add(1, 2))\n```\n```text\n3\n```": "correct",
        f"1. So:\n   ```py\n   {good.replace(chr(10), chr(10) + '   ')}\n   ```": "correct",
        f"~~~\n{good}\n~~~": "correct",
        f"```python\n{good}": "correct",
        f"````python\n{good}\n```\n'''\n````": "wrong",
        good: "correct",
        f"```java\n{good}\n```": "unparseable",
        "I would add the two numbers.": "unparseable",
        "": "unparseable",
    }

    findings = verifier.grade([Answer(text, None, tests) for text in texts])

    assert [finding.value for finding in findings] == list(texts.values())


def test_blocks_and_the_choice_among_them():
    assert blocks_of("```python\na\n```\n```\nb\n```") == ["a\n", "b\n"]
    assert blocks_of("no code") == []
    assert pick(["class Solution: pass", "x = 1"], "Solution") == "class Solution: pass"
    assert pick(["a = 1", "b = 2"], "f") == "b = 2"


def test_thinking_and_cut_answers_hold_no_program(verifier: CodeVerifier):
    good, tests = "def add(a, b):\n    return a + b", dump(ADD)

    findings = verifier.grade(
        [
            Answer(good, None, tests, closed=False),
            Answer(f"<think>```python\n{good}\n```", None, tests),
            Answer(good, None, tests, finish_reason="length"),
            Answer("x" * 300_000, None, tests),
            Answer("\ud800", None, tests),
        ]
    )

    assert [finding.value for finding in findings] == ["unparseable"] * 5
    assert findings[2].reason == "truncated"


def test_a_fault_of_the_machine_is_an_error_and_is_tried_again(verifier: CodeVerifier, monkeypatch: pytest.MonkeyPatch):
    grade(verifier, "def add(a, b): return a + b", ADD)
    start, faults = Box.start, [1, 1, 1, 1]

    def failing(self: Box, *args: Any, **more: Any) -> Any:
        if faults:
            faults.pop()
            raise Broken("no more processes")
        return start(self, *args, **more)

    monkeypatch.setattr(Box, "start", failing)

    assert grade(verifier, "def add(a, b): return a + b", ADD).value == "error"
    faults[:] = [1]
    assert grade(verifier, "def add(a, b): return a + b", ADD).value == "correct"
    assert grade(verifier, "def add(a, b): return a + b", ADD).value == "correct"


def test_the_callers_alarm_still_rings(verifier: CodeVerifier):
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        finding = grade(verifier, "import time\ntime.sleep(0.6)\ndef add(a, b): return a + b", ADD)
        time.sleep(0.1)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert rung and finding.value == "correct"


def test_ctrl_c_ends_the_programs_at_once_and_the_verifier_goes_on_after_it(verifier: CodeVerifier):
    sleeper = Answer("import time\ntime.sleep(1000)", None, dump(ADD), extracted=True)
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        verifier.grade([sleeper] * 20)

    assert time.monotonic() - start < 15
    assert not verifier._guests
    assert grade(verifier, "def add(a, b): return a + b", ADD).value == "correct"


def test_without_bubblewrap_it_refuses_unless_a_subprocess_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box_module.shutil, "which", lambda name: None)
    answer = Answer("def add(a, b): return a + b", None, dump(ADD), extracted=True)

    with pytest.raises(Unavailable, match="apt-get install bubblewrap"):
        build(Config()).grade([answer])
    assert build(Config(sandbox="subprocess")).grade([answer])[0].value == "correct"


def test_layouts_of_the_sources(verifier: CodeVerifier):
    stdin = livecodebench.to_problem(
        {
            "question_content": "Double it.",
            "starter_code": "",
            "public_test_cases": json.dumps([{"input": "4\n", "output": "8\n", "testtype": "stdin"}]),
            "private_test_cases": json.dumps([{"input": "5\n", "output": "10", "testtype": "stdin"}]),
            "metadata": "{}",
        },
        "row 1",
    )
    functional = livecodebench.to_problem(
        {
            "question_content": "Double it.",
            "starter_code": "class Solution:\n    def twice(self, xs: List[int], k: int) -> List[int]:\n        ",
            "public_test_cases": json.dumps([{"input": "[1, 2]\n2", "output": "[2, 4]", "testtype": "functional"}]),
            "private_test_cases": "[]",
            "metadata": json.dumps({"func_name": "twice"}),
        },
        "row 2",
    )
    method = (
        "class Solution:\n    def twice(self, xs: List[int], k: int) -> List[int]:\n        return [k * x for x in xs]"
    )

    findings = verifier.grade(
        [
            Answer("```python\nprint(2 * int(input()))\n```", None, stdin.tests),
            Answer("```python\nprint(8)\n```", None, stdin.tests),
            Answer(f"```python\n{method}\n```", None, functional.tests),
            Answer(f"```python\n{method.replace('k * x', 'x')}\n```", None, functional.tests),
        ]
    )

    assert [finding.value for finding in findings] == ["correct", "wrong", "correct", "wrong"]


# --- real data ---


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def _humaneval(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["task_id"]: row for row in _rows(folder / "humaneval" / "HumanEval.jsonl.gz")}


def test_reference_solutions_of_humaneval_pass(verifier: CodeVerifier, shared_data: Path):
    rows = list(_humaneval(shared_data).values())
    answers = [Answer(r["canonical_solution"], None, humaneval.to_problem(r, "").tests, extracted=True) for r in rows]

    findings = verifier.grade(answers)

    assert [(r["task_id"], f.reason) for r, f in zip(rows, findings, strict=True) if f.value != "correct"] == []
    assert len(rows) == 164


def test_reference_solutions_of_mbpp_pass_and_a_foreign_tasks_fail(verifier: CodeVerifier, shared_data: Path):
    rows = _rows(shared_data / "mbpp" / "mbpp.jsonl.gz")
    rows = [
        row for number, row in enumerate(rows) if number % 6 == 0 or row["test_setup_code"] or "Pair" in row["code"]
    ]
    tests = [mbpp.to_problem(row, "").tests for row in rows]
    right = [Answer(f"```python\n{row['code']}\n```", None, t) for row, t in zip(rows, tests, strict=True)]
    foreign = [
        Answer(f"```python\n{row['code']}\n```", None, t) for row, t in zip(rows[::4], tests[1::4], strict=False)
    ]

    findings = verifier.grade([*right, *foreign])

    failed = [(r["task_id"], f.reason) for r, f in zip(rows, findings, strict=False) if f.value != "correct"]
    assert failed == []
    assert {f.value for f in findings[len(rows) :]} == {"wrong"}


def test_agrees_with_the_labels_of_codegen_samples(verifier: CodeVerifier, shared_data: Path):
    tasks = _humaneval(shared_data)
    answers, labels = [], []
    for number, row in enumerate(_rows(shared_data / "humaneval_codegen_samples" / "samples.jsonl.gz")):
        tests = humaneval.to_problem(tasks[row["task_id"]] | {"prompt": row["prompt"]}, "").tests
        for place, (sample, label) in enumerate(zip(row["samples"], row["verdicts"], strict=True)):
            if "ModuleNotFoundError" not in label and ((number + place) % 9 == 0 or label == "timeout"):
                answers.append(Answer(sample, None, tests, extracted=True))
                labels.append(label)

    findings = verifier.grade(answers)

    assert len(answers) > 80
    assert [
        (label, f.reason)
        for label, f in zip(labels, findings, strict=True)
        if (f.value == "correct") != (label == "passed") or f.value == "error"
    ] == []


SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt,
    ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And, ast.Mod: ast.Mult,
}  # fmt: skip


def mutants(source: str) -> list[str]:
    """The program with one operator exchanged, one number raised, or one return emptied; every way once."""
    tree = ast.parse(source)
    found: list[str] = []
    for number, node in enumerate(ast.walk(tree)):
        changed = copy.deepcopy(tree)
        spot = list(ast.walk(changed))[number]
        if isinstance(spot, (ast.BinOp, ast.BoolOp)) and type(spot.op) in SWAPS:
            spot.op = SWAPS[type(spot.op)]()
        elif isinstance(spot, ast.Compare) and type(spot.ops[0]) in SWAPS:
            spot.ops[0] = SWAPS[type(spot.ops[0])]()
        elif isinstance(spot, ast.Constant) and type(spot.value) is int:
            spot.value += 1
        elif isinstance(spot, ast.Return) and spot.value is not None:
            spot.value = ast.Constant(None)
        else:
            continue
        found.append(ast.unparse(changed))
        del node
    return found


def test_mutated_reference_solutions_fail(verifier: CodeVerifier, shared_data: Path):
    """One mutant of every sixth task: an emptied return always fails; of all mutants few survive their tests."""
    chosen = random.Random(0)
    answers, emptied = [], []
    for row in list(_humaneval(shared_data).values())[::6]:
        tests = humaneval.to_problem(row, "").tests
        ways = mutants(row["prompt"] + row["canonical_solution"])
        answers.append(Answer(chosen.choice(ways), None, tests, extracted=True))
        emptied.append(Answer(f"{row['prompt']}    return object()\n", None, tests, extracted=True))

    findings = verifier.grade([*answers, *emptied])

    assert {f.value for f in findings[len(answers) :]} == {"wrong"}
    assert sum(f.value == "wrong" for f in findings[: len(answers)]) >= 0.85 * len(answers)
