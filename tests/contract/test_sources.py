"""What every source of problems owes.

    class Config(Settings)                                  # its settings
    def own_split(config) -> bool                           # whether its problems come with their split
    def build(config, counts) -> Iterable[Problem]          # counts: how many of each split are wanted, None for all
    def externals(config) -> dict[str, str]                 # only where it reads files: their content hashes

A source without a split of its own says `train` everywhere, and the stage parts the problems by hash.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.core import plugins
from distill.core.errors import DistillError
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import Problem, Split, problem_id

NAMES = plugins.names("distill.sources")
COUNTS: dict[Split, int | None] = {"train": 8, "dev": 2, "test": 4}
SUMS = [(f"What is {n}+{n}?", 2 * n) for n in range(20)]
CODE = [(f'def f{n}(x):\n    """x plus {n}"""', f"assert f{n}(1) == {n + 1}") for n in range(20)]

ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": question, "answer": f"<<{gold}>>{gold}\n#### {gold}"} for question, gold in SUMS],
    "jsonl": [{"question": question, "answer": gold} for question, gold in SUMS],
    "math": [{"problem": question, "solution": f"It is \\boxed{{{gold}}}."} for question, gold in SUMS],
    "mmlu": [{"question": question, "A": "x", "B": str(gold), "answer": "B"} for question, gold in SUMS],
    "humaneval": [
        {"prompt": prompt, "entry_point": f"f{n}", "test": f"def check(candidate):\n    {test}"}
        for n, (prompt, test) in enumerate(CODE)
    ],
    "mbpp": [{"text": prompt, "test_list": [test]} for prompt, test in CODE],
    "livecodebench": [
        {"question_content": question, "public_test_cases": json.dumps([{"input": "", "output": str(gold)}])}
        for question, gold in SUMS
    ],
    "traces": [{"problem": question, "answer": gold, "generations": [f"{gold}"]} for question, gold in SUMS],
}


def settings_of(name: str, folder: Path) -> dict[str, Any]:
    """The settings that a source needs, and files where it reads some."""
    if name == "embedded":
        return {}
    if name == "reasoning_gym":
        pytest.importorskip("reasoning_gym", reason="the extra `gym` is not installed")
        return {"tasks": ["chain_sum"], "size": 20}
    if name == "mixture":
        parts = {part: settings_of(part, folder / part) for part in ("jsonl", "mmlu")}
        return {"parts": {part: {"source": {part: found}, "count": 5} for part, found in parts.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / {"csv": "rows.csv", "parquet": "rows.parquet", "hub": "data/rows.jsonl"}.get(name, "rows.jsonl")
    path.parent.mkdir(exist_ok=True)
    if name == "csv":
        path.write_text("question,answer\n" + "".join(f"{question},{gold}\n" for question, gold in SUMS))
    elif name == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS["jsonl"]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS.get(name, ROWS["jsonl"])))
    layout = {"layout": "openr1"} if name == "traces" else {}
    return {"path": str(path.parent if name == "hub" else path), **layout}


def choose(name: str, folder: Path) -> Choice:
    return choice_of(name, settings_of(name, folder))


def choice_of(name: str, settings: dict[str, Any]) -> Choice:
    choice: Choice = ChoiceOf("distill.sources", "source")._validate({"source": name, **settings})
    return choice


def draw(choice: Choice) -> list[Problem]:
    return list(choice.module().build(choice.config, COUNTS))


@pytest.mark.parametrize("name", NAMES)
def test_gives_problems_with_the_id_of_their_messages_and_something_to_grade_by(name: str, tmp_path: Path):
    problems = draw(choose(name, tmp_path))

    assert problems
    for problem in problems:
        assert problem.id == problem_id(problem.messages)
        assert problem.messages[-1].role == "user"
        assert problem.gold or problem.tests
        assert problem.source
        assert "/" not in problem.source, "a record never holds a path"


@pytest.mark.parametrize("name", NAMES)
def test_gives_the_same_problems_each_time(name: str, tmp_path: Path):
    assert draw(choose(name, tmp_path)) == draw(choose(name, tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_split_of_its_own_holds_what_was_asked_for(name: str, tmp_path: Path):
    choice = choose(name, tmp_path)
    problems = draw(choice)

    if choice.module().own_split(choice.config):
        counted = {split: sum(problem.split == split for problem in problems) for split in COUNTS}
        assert counted == COUNTS
    else:
        assert {problem.split for problem in problems} == {"train"}


@pytest.mark.parametrize("name", NAMES)
def test_files_count_by_content_and_are_named_when_missing(name: str, tmp_path: Path):
    choice = choose(name, tmp_path / "here")
    if name in ("embedded", "reasoning_gym"):
        pytest.skip(f"{name} reads no file")
    before = choice.module().externals(choice.config)
    (tmp_path / "here").rename(tmp_path / "moved")
    settings = json.loads(json.dumps(choice.config.dump()).replace("/here", "/moved"))
    elsewhere = choice_of(name, settings)

    assert elsewhere.module().externals(elsewhere.config) == before
    assert elsewhere.keyed() == choice_of(name, settings_of(name, tmp_path / "here")).keyed(), (
        "the place of a file is no part of the key"
    )
    file = next(path for path in sorted((tmp_path / "moved").rglob("*")) if path.is_file())
    file.write_bytes(file.read_bytes() + b"\n")
    assert elsewhere.module().externals(elsewhere.config) != before
    file.unlink()
    with pytest.raises(DistillError, match="no such file|cannot be read"):
        draw(elsewhere)
    if name != "hub":  # whose folder is still there, and empty
        with pytest.raises(DistillError, match="no such file"):
            elsewhere.module().externals(elsewhere.config)


def test_their_settings_import_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "pyarrow", "reasoning_gym", "huggingface_hub")
    modules = ", ".join(f"distill.sources.{name}" for name in NAMES)
    code = f"import sys, {modules}; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or 0)"

    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_has_help_and_described_settings(name: str):
    config = plugins.load("distill.sources", name).Config

    assert plugins.help_line("distill.sources", name)
    assert all(field.description for field in config.model_fields.values())
