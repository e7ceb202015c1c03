"""Rows made up in the layout of every benchmark, each with an answer that is right and one that is wrong.

Columns are those of the data sets on the Hub; the questions are ours.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distill.core.plugins import Choice, ChoiceOf


@dataclass(frozen=True)
class Made:
    """A row of a data set, the question it holds, and what may be said to it."""

    row: dict[str, Any]
    question: str
    right: str
    wrong: str


def _code(program: str) -> str:
    return f"Here it is:\n\n```python\n{program}\n```\n"


def _gsm8k(n: int) -> Made:
    question = f"Ann has {n} pens and buys {n} more. How many has she?"
    row = {"question": question, "answer": f"She has {n}+{n}=<<{n}+{n}={2 * n}>>{2 * n} pens.\n#### {2 * n}"}
    return Made(row, question, rf"That makes \boxed{{{2 * n}}}.", rf"That makes \boxed{{{2 * n + 1}}}.")


def _math500(n: int) -> Made:
    question = rf"What is $\frac{{{2 * n + 1}}}{{2}} + {n}$?"
    answer = rf"\frac{{{4 * n + 1}}}{{2}}"
    row = {
        "problem": question, "solution": rf"It is $\boxed{{{answer}}}$.", "answer": answer, "subject": "Prealgebra",
        "level": 1 + n % 5, "unique_id": f"test/prealgebra/{n}.json",
    }  # fmt: skip
    return Made(row, question, rf"\boxed{{{2 * n + 0.5}}}", rf"\boxed{{\frac{{{4 * n + 1}}}{{3}}}}")


def _aime(n: int) -> Made:
    question = f"Find the remainder of $7^{{{n}}}$ divided by 1000, which has no more digits than three."
    answer = f"{7**n % 1000:03}"  # as one of the data sets writes them, with leading zeros
    row = {
        "id": 60 + n, "problem": question, "solution": "By squaring.", "answer": answer,
        "url": "https://example.org/aime", "year": "2024",
    }  # fmt: skip
    return Made(row, question, rf"\boxed{{{int(answer)}}}", rf"\boxed{{{int(answer) + 1}}}")


def _gpqa(n: int) -> Made:
    question = f"How many protons has the element of atomic number {n + 3}?"
    row = {
        "Question": f"{question}\n", "Correct Answer": f"{n + 3}\n", "Incorrect Answer 1": f"{n + 4}",
        "Incorrect Answer 2": f"{n + 5}", "Incorrect Answer 3": f"{2 * n + 50}", "Explanation": "By definition.",
        "Subdomain": "Chemistry (general)", "High-level domain": "Chemistry", "Record ID": f"rec{n}",
        "Canary String": "made up",
    }  # fmt: skip
    return Made(row, question, f"{n + 3}", f"{n + 4}")  # options, whose letters are not known here


def _mmlu_pro(n: int) -> Made:
    question = f"Which of these is {n} doubled?"
    options = [str(2 * n + k) for k in (3, 1, 2, 0, 4, 5, 6, 7, 8, 9)]
    row = {
        "question_id": n, "question": question, "options": options, "answer": "D", "answer_index": 3,
        "cot_content": "", "category": "math", "src": "made",
    }  # fmt: skip
    return Made(row, question, "the answer is (D)", "the answer is (C)")


def _arc(n: int) -> Made:
    question = f"Which number follows {n}?"
    labels = ["1", "2", "3", "4"] if n % 2 else ["A", "B", "C"]
    texts = [str(n + 2), str(n + 1), str(n), str(n + 3)][: len(labels)]
    row = {"id": f"made_{n}", "question": question, "choices": {"text": texts, "label": labels}, "answerKey": labels[1]}
    return Made(row, question, "Answer: B", "Answer: A")


def _humaneval(n: int) -> Made:
    prompt = f'def add_{n}(x):\n    """x plus {n}"""\n'
    row = {
        "task_id": f"HumanEval/{n}", "prompt": prompt, "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {n + 1}\n", "entry_point": f"add_{n}",
    }  # fmt: skip
    return Made(row, f"def add_{n}(", _code(f"{prompt}    return x + {n}"), _code(f"{prompt}    return x - {n + 1}"))


def _mbpp(n: int) -> Made:
    text = f"Write a function times_{n} to multiply a number by {n}."
    code = f"def times_{n}(x):\n    return {n} * x"
    tests = [f"assert times_{n}({x}) == {n * x}" for x in (1, 2, 3)]
    row = {
        "task_id": n, "text": text, "code": code, "test_list": tests, "test_setup_code": "",
        "challenge_test_list": ["assert False, 'not for figures that others can be compared with'"],
    }  # fmt: skip
    return Made(row, text, _code(code), _code(f"def times_{n}(x):\n    return {n}"))


def _livecodebench(n: int) -> Made:
    question = f"Read a number and print it plus {n}."
    public = [{"input": "1\n", "output": f"{n + 1}\n", "testtype": "stdin"}]
    private = [{"input": "40\n", "output": f"{n + 40}\n", "testtype": "stdin"}]
    packed = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(private)))).decode()
    row = {
        "question_title": f"plus {n}", "question_content": question, "platform": "atcoder", "question_id": f"abc{n}",
        "contest_id": "abc", "contest_date": f"2024-{10 + n % 3}-05T00:00:00", "starter_code": "",
        "difficulty": "easy", "public_test_cases": json.dumps(public), "private_test_cases": packed, "metadata": "{}",
    }  # fmt: skip
    return Made(row, question, _code(f"print(int(input()) + {n})"), _code(f"print({n + 1})"))


def _ifeval(n: int) -> Made:
    question = f"Say something about the number {n} in fewer than {n + 9} words and without commas."
    nulls = dict.fromkeys(("num_words", "relation", "keywords", "language"))  # as the data set's columns give them
    row = {
        "key": 1000 + n, "prompt": question,
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [nulls, {**nulls, "num_words": n + 9, "relation": "less than"}],
    }  # fmt: skip
    return Made(row, question, "It is a fine number.", "It is big, bigger, the biggest.")


MAKERS = {
    "gsm8k": _gsm8k, "math500": _math500, "aime2024": _aime, "aime2025": _aime, "gpqa": _gpqa, "mmlu_pro": _mmlu_pro,
    "arc": _arc, "humaneval": _humaneval, "mbpp": _mbpp, "livecodebench": _livecodebench, "ifeval": _ifeval,
}  # fmt: skip
MADE = {name: [maker(n) for n in range(1, 11)] for name, maker in MAKERS.items()}
"""Ten rows of each benchmark."""

OWN: dict[str, dict[str, Any]] = {
    "steps": {"size": 12},
    "reasoning_gym": {"tasks": ["chain_sum", "letter_counting"], "size": 5},
    "problems": {},
}
"""Settings of the tasks that make their problems, or are given them."""


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def choose(name: str, **settings: Any) -> Choice:
    """A task as an experiment names it."""
    choice: Choice = ChoiceOf("distill.evaluate.tasks", "task")._validate({"task": name, **settings})
    return choice


def choose_made(name: str, folder: Path, data: list[dict[str, Any]] | None = None, **settings: Any) -> Choice:
    """A task on the rows made up for it, or on others, in a file; skips where its package is not installed."""
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym", reason="the extra `gym` is not installed")
    if name in OWN:
        return choose(name, **OWN[name], **settings)
    found = [made.row for made in MADE[name]] if data is None else data
    return choose(name, path=write(folder / "rows.jsonl", found), **settings)
