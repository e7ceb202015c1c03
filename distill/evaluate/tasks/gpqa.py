"""GPQA Diamond: 198 expert questions of physics, chemistry and biology, with four options (Rein et al. 2023).

    evaluate: {tasks: [{gpqa: {path: gpqa_diamond.csv}}]}

The data set is gated on the Hub: ask for access there, then log in, or name your copy. Its rows list the right option
first, so the options are shuffled, always in the same way: over all rows the right one stands in every place equally
often, which place a row has is decided by the order of its question's hash, and the order of the other options by
theirs. Neither the order of the rows nor that of the options in a row counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from distill import tabular
from distill.core import jsonl
from distill.core.config import digest
from distill.core.records import Problem
from distill.evaluate import task

RIGHT = "Correct Answer"
WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


class Config(task.Benchmark):
    """Settings of the `gpqa` task."""

    USUAL = task.Draw(samples=8)
    VERIFIER = "choice"
    INSTRUCTION = (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering."
        "\n\n{question}"
    )
    """OpenAI's simple-evals (`common.py`), whose prompts DeepSeek-R1's report names for GPQA Diamond."""
    path: str = "Idavidrein/gpqa"
    name: str | None = "gpqa_diamond"
    from_split: str = "train"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return placed_problems(task.rows(config))


def placed_problems(rows: Iterable[tuple[str, tabular.Row]]) -> Iterator[Problem]:
    """Rows as problems, the right option of each in its place."""
    found = [(where, row, tabular.text(row, "Question", where).strip()) for where, row in rows]
    found.sort(key=lambda one: digest(["gpqa", one[2]]))
    placed = ((where, {**row, "Question": question, "place": n % 4}) for n, (where, row, question) in enumerate(found))
    return task.problems(placed, _to_problem, source="gpqa", licence="CC BY 4.0", verifier="choice")


def _to_problem(row: tabular.Row, where: str) -> Problem:
    question, right = row["Question"], tabular.text(row, RIGHT, where).strip()
    wrong = sorted((tabular.text(row, name, where).strip() for name in WRONG), key=lambda o: digest([question, o]))
    options = [*wrong[: row["place"]], right, *wrong[row["place"] :]]
    return tabular.problem(
        tabular.with_options(question, options, mark=")"),
        gold=tabular.LETTERS[row["place"]],
        domain=(jsonl.text(row, "High-level domain", where) or "").lower() if "High-level domain" in row else "",
    )
