"""A task's own scorer decides, and never runs what a model wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.core.protocols import Answer
from distill.text.gym_tests import dump
from distill.verifiers.reasoning_gym import Config, ReasoningGymVerifier, build

gym = pytest.importorskip("reasoning_gym", reason="needs the extra `gym`")

EVALUATES = [
    "string_insertion", "spiral_matrix", "number_sorting", "binary_matrix", "bitwise_arithmetic", "n_queens",
    "puzzle24", "countdown", "simple_integration", "intermediate_integration", "polynomial_multiplication"
]  # fmt: skip
"""Tasks whose scorers call `eval` or sympy's parser."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[ReasoningGymVerifier]:
    built = build(Config(workers=1))
    yield built
    built.close()


@pytest.fixture(scope="module")
def entries() -> dict[str, dict[str, Any]]:
    return {name: gym.create_dataset(name, size=1, seed=3)[0] for name in EVALUATES}


def answer(text: str, task: str, entry: dict[str, Any], **more: Any) -> Answer:
    return Answer(text, entry["answer"], dump(task, entry), **more)


def test_every_task_accepts_its_own_answer_and_no_other(entries: dict[str, Any], verifier: ReasoningGymVerifier):
    right = [answer(f"So:\n<answer>{entry['answer']}</answer>", name, entry) for name, entry in entries.items()]
    wrong = [answer("<answer>no idea</answer>", name, entry) for name, entry in entries.items()]

    assert {
        name for name, found in zip(entries, verifier.grade(right), strict=True) if found.value != "correct"
    } == set()
    assert {found.value for found in verifier.grade(wrong)} == {"wrong"}


def test_near_answers_have_a_score_and_are_correct_below_their_threshold_only(entries: dict[str, Any]):
    entry = entries["spiral_matrix"]
    listed = answer(str([int(number) for number in entry["answer"].split()]), "spiral_matrix", entry)

    for threshold, value in ((1.0, "wrong"), (0.1, "correct")):
        built = build(Config(threshold=threshold, where="whole", workers=1))
        found = built.grade([listed])[0]
        built.close()
        assert (found.value, found.score) == (value, 0.1)  # read as a list, though `eval` is gone


HOSTILE = [
    "__import__('os').mkdir({marker!r})",
    "[__import__('os').mkdir({marker!r})]",
    "exec('import os; os.mkdir({marker!r})')",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == '_wrap_close'][0].__init__"
    ".__globals__['mkdir']({marker!r})",
    "eval({by_code})",
    "2 + eval({by_code})",
    "\uff45val({by_code})",
    "Symbol({by_code})",
    "sympify({by_code})",
    "parse_expr({by_code})",
    "(lambda: __import__('os').mkdir({marker!r}))()",
]


@pytest.mark.parametrize("task", EVALUATES)
def test_no_answer_is_run(tmp_path: Path, entries: dict[str, Any], verifier: ReasoningGymVerifier, task: str):
    marker = str(tmp_path / "pwned")
    code = "+".join(f"chr({ord(char)})" for char in f"__import__('os').mkdir({marker!r})")
    texts = [text.format(marker=marker, by_code=code) for text in HOSTILE]

    found = verifier.grade([answer(text, task, entries[task], extracted=True) for text in texts])

    assert not Path(marker).exists()
    assert {one.value for one in found} <= {"wrong", "unparseable"}


def test_these_answers_do_run_where_nothing_stands_before_them(tmp_path: Path, entries: dict[str, Any]):
    """The guard above can fail: the scorers as they are."""
    ran = []
    for number, task in enumerate(["n_queens", "countdown"]):
        marker = str(tmp_path / f"pwned{number}")
        code = "+".join(f"chr({ord(char)})" for char in f"__import__('os').mkdir({marker!r})")
        text = (HOSTILE[0] if task == "n_queens" else HOSTILE[4]).format(marker=marker, by_code=code)
        program = (
            "import json, sys, reasoning_gym; from distill.text.gym_tests import parse\n"
            "task, entry = parse(sys.argv[1]); reasoning_gym.get_score_answer_fn(task)(sys.argv[2], entry)"
        )
        subprocess.run([sys.executable, "-c", program, dump(task, entries[task]), text], check=True, timeout=120)
        ran.append(Path(marker).exists())

    assert ran == [True, True]


def test_an_answer_that_never_ends_is_ended(entries: dict[str, Any]):
    built = build(Config(cpu_s=1.0, workers=1))
    try:
        found = built.grade([
            answer("9**9**9**9", "countdown", entries["countdown"], extracted=True),
            answer(entries["countdown"]["answer"], "countdown", entries["countdown"], extracted=True),
        ])  # fmt: skip
    finally:
        built.close()

    assert found[0].value in ("wrong", "unparseable")
    assert found[1].value == "correct"
    assert built.workers.alive == 0


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (None, "no entry of a task"),
        ("{", "tests are not JSON"),
        ("{}", "tests have no `task`"),
        (json.dumps({"task": "no_such", "entry": {}}), "reasoning_gym has no task no_such"),
        (json.dumps({"task": "chain_sum", "entry": {}}), "task chain_sum: its entry lacks answer"),
    ],
)
def test_an_entry_that_cannot_be_scored_is_ungradable(verifier: ReasoningGymVerifier, tests: str | None, reason: str):
    found = verifier.grade([Answer("1", "1", tests)])[0]

    assert found.value == "ungradable"
    assert found.reason.startswith(reason)


FORMULAS = ["(25 - 3) * 2 + 1", "x**2/2 + sin(2*x) + C", "1e5*exp(-x)", ".5", "2.*x"]
OTHERS = [
    "eval(1)", "2eval(1)", "2or eval(1)", "x.args", "1.real", "'x'", "x[0]", "x if y else z", "lambda: 1", "_x", "ℯ",
    "a;b", "1e5eval(1)", "0xeval(1)",
]  # fmt: skip


def test_what_a_formula_is():
    program = (  # in a process of its own: importing it takes `eval` out of reasoning-gym for good
        "import json, sys; from distill.verifiers._gym import is_formula\n"
        "print(json.dumps([is_formula(text) for text in json.loads(sys.argv[1])]))"
    )

    said = subprocess.run(
        [sys.executable, "-c", program, json.dumps(FORMULAS + OTHERS)],
        check=True, timeout=120, capture_output=True, text=True,
    )  # fmt: skip

    assert json.loads(said.stdout) == [True] * len(FORMULAS) + [False] * len(OTHERS)


@pytest.mark.parametrize(
    ("task", "gold", "metadata", "text", "value", "why"),
    [
        ("game_of_life_halting", "True", {}, "False", "wrong", "its scorer accepts anything"),
        ("game_of_life_halting", "True", {}, "true", "correct", "scored 1"),
        ("complex_arithmetic", "3.0 - 2.0i", {"result": (3.0, -2.0)}, "nan", "wrong", "not a number"),
        ("complex_arithmetic", "3.0 - 2.0i", {"result": (3.0, -2.0)}, "nan + nanj", "wrong", "not a number"),
        ("complex_arithmetic", "3.0 - 2.0i", {"result": (3.0, -2.0)}, "3 - 2i", "correct", "scored 1"),
        ("coin_flip", "0.375", {}, "0.3", "wrong", "another number"),
        ("coin_flip", "0.375", {}, "3/8", "correct", "scored 1"),
        (
            "puzzle24",
            "8 * 3 * (2 - 1)",
            {"numbers": [1, 2, 3, 8]},
            "6*4*1*1",
            "wrong",
            "other numbers than those given",
        ),
        ("puzzle24", "8 * 3 * (2 - 1)", {"numbers": [1, 2, 3, 8]}, "(2-1)*3*8", "correct", "scored 1"),
        ("prime_factorization", "2 × 3", {}, "x", "unparseable", "scorer raised ValueError"),
        ("prime_factorization", "a × b", {}, "x", "ungradable", "task prime_factorization: scorer raised ValueError"),
        ("game_of_life", "[[0]]", {}, "{}", "unparseable", "scorer raised KeyError"),
        ("game_of_life", "no JSON", {}, "[[0]]", "wrong", "scored 0"),
    ],
)
def test_a_score_that_is_given_away_is_not_believed(
    verifier: ReasoningGymVerifier, task: str, gold: str, metadata: dict[str, Any], text: str, value: str, why: str
):
    entry = {"question": "", "answer": gold, "metadata": metadata}

    found = verifier.grade([answer(text, task, entry, extracted=True)])[0]

    assert (found.value, found.reason) == (value, why)
