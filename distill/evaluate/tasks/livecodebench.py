"""LiveCodeBench: contest problems of one window of months, graded by their tests (Jain et al. 2024).

    evaluate: {tasks: [{livecodebench: {since: 2024-10, until: 2025-01}}]}

The window is DeepSeek-R1's by default, August 2024 to January 2025. Choose one that begins after your models were
trained: problems that stood on the web before that prove little. The data set is loaded by a script on the Hub, which
is never run here; its files are read as they lie there. Each holds the problems that one release added, and those of
the first two releases ended in May 2024. Programs run in the sandbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field

from distill import tabular
from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import hub, livecodebench

MONTH = r"^\d{4}-(0[1-9]|1[0-2])$"


class Config(task.Benchmark):
    """Settings of the `livecodebench` task."""

    USUAL = task.Draw(samples=16)
    VERIFIER = "code"
    INSTRUCTION = (
        "You will be given a question (problem specification) and will generate a correct Python program that matches "
        "the specification and passes all tests.\n\n{question}\n\nEnclose your code within delimiters as follows.\n"
        "```python\n# YOUR CODE HERE\n```"
    )
    """The benchmark's words (LiveCodeBench, `lcb_runner/prompts/code_generation.py`) around our question."""
    path: str = "livecodebench/code_generation_lite"
    files: list[str] = Field(default=["test3.jsonl", "test4.jsonl", "test5.jsonl"], min_length=1)
    """Which of its files are read, on the Hub or in a folder."""
    since: str = Field(default="2024-08", pattern=MONTH)
    """First month of the contests."""
    until: str = Field(default="2025-01", pattern=MONTH)
    """Last month of the contests."""


def build(config: Config) -> Iterable[Problem]:
    """The problems of the window."""
    return task.problems(
        _window(config), livecodebench.to_problem, source="livecodebench", licence="CC (no version named)"
    )


def _window(config: Config) -> Iterator[tuple[str, tabular.Row]]:
    """The rows of the window. Raises DistillError where there is none, which an empty file is not told from."""
    months = []
    for file in _files(config):
        for where, row in tabular.rows(str(file)):
            month = tabular.text(row, "contest_date", where)[:7]
            months.append(month)
            if config.since <= month <= config.until:
                yield where, row
    if not any(config.since <= month <= config.until for month in months):
        there = f"its contests are of {min(months)} to {max(months)}" if months else "its files are empty"
        raise DistillError(f"no problem of {config.since} to {config.until}; {there}")


def _files(config: Config) -> list[Path]:
    if config.on_hub:
        return hub.fetched(config.path, config.files, config.revision)
    if Path(config.path).is_dir():
        return [Path(config.path, name) for name in config.files]
    return tabular.files(config.path)
