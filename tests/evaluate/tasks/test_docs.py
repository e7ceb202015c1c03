"""The table of docs/tasks.md is what the tasks do."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core import plugins
from distill.evaluate import task
from tests.evaluate.tasks.made import choose, choose_made

NAMES = plugins.names("distill.evaluate.tasks")
TEXT = (Path(__file__).parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
TABLE = {
    cells[1].strip("`"): cells[2:-1]
    for line in TEXT.split("\n")
    if len(cells := [cell.strip() for cell in line.split("|")]) == 10 and cells[1].startswith("`")
}


def test_every_task_has_its_line():
    assert set(TABLE) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_line_says_what_the_task_does(name: str, tmp_path: Path):
    data, where, _, licence, answers, verifier, column = TABLE[name]
    config = task.settings(choose(name))

    assert config.draw().samples == int(answers)
    assert verifier == (f"`{config.VERIFIER}`" if config.VERIFIER else "the experiment's")
    if isinstance(config, task.Benchmark):
        assert data.removesuffix(" (gated)") == config.path
        assert where in (", ".join(filter(None, (config.name, config.from_split))), "its files")
    if name != "problems":
        choice = choose_made(name, tmp_path)
        assert {problem.licence for problem in task.load(choice)} == {licence}
        if isinstance(config, task.Benchmark):
            (_, row), *_ = task.rows(task.settings(choice))  # type: ignore[arg-type]  # a benchmark, as above
            assert column.strip("`") in row


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_s_instruction_is_told(name: str):
    told = task.settings(choose(name)).told.replace("{question}", "").strip()

    assert f"`{name}`" in TEXT.partition("## Prompts")[2] or name.startswith(("aime", "problems"))
    if told and name not in ("arc", "reasoning_gym"):
        assert " ".join(told.split()[:5]) in TEXT
