"""ARC Challenge, test split: 1,172 science questions of grade school with three to five options (Clark et al. 2018).

    evaluate: {guard: [{arc: {name: ARC-Easy}}]}

Knowledge rather than reasoning: for the regression guard. A few questions number their options 1 to 4; every question
is shown with letters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import task


class Config(task.Benchmark):
    """Settings of the `arc` task."""

    VERIFIER = "choice"
    INSTRUCTION = (
        "Answer the following multiple choice question. The last line of your response should be of the following "
        "format: 'Answer: $LETTER' (without quotes) where LETTER is the letter of one option. Think step by step "
        "before answering.\n\n{question}"
    )
    """ARC has no prompt of its own; this is GPQA's, which does not say how many options there are."""
    path: str = "allenai/ai2_arc"
    name: str | None = "ARC-Challenge"


def build(config: Config) -> Iterable[Problem]:
    """The problems of the data set."""
    return task.problems(task.rows(config), _to_problem, source="arc", licence="CC BY-SA 4.0", verifier="choice")


def _to_problem(row: tabular.Row, where: str) -> Problem:
    question, right = tabular.text(row, "question", where), tabular.text(row, "answerKey", where).strip()
    options, labels = jsonl.field(row, "choices.text", where), jsonl.field(row, "choices.label", where)
    if not isinstance(options, list) or not isinstance(labels, list) or len(options) != len(labels):
        raise DistillError(f"{where}: `choices` is not {{text: [...], label: [...]}} of one length")
    if labels.count(right) != 1:
        raise DistillError(f"{where}: the gold {right!r} is none of the labels {', '.join(map(str, labels))}")
    columns = tabular.Columns(options="options", gold="place")
    found = {"options": options, "question": question, "place": labels.index(right)}
    return replace(tabular.mapped(found, where, columns, "arc"), domain="science")
