"""MMLU's layouts: `question`, options in `choices`, `options` or columns `A` to `D`, and `answer` as letter or place.

    problems: {source: {mmlu: {path: dev.csv}}}

The options are rendered into the question under letters; the gold is the letter. MMLU-Pro's `options` (up to ten, the
place of the right one in `answer_index`) and the original files without a header are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.records import Problem, Split

HEADER = ("question", "A", "B", "C", "D", "answer")
SUBJECTS = ("subject", "category")


class Config(tabular.Preset):
    """Settings of the `mmlu` source."""


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return tabular.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the file as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    return tabular.problems(_rows(config.path), to_problem, config.split)


def to_problem(row: tabular.Row, where: str) -> Problem:
    """One row; faults start with `where`."""
    options: str | list[str] | None = next((name for name in ("choices", "options") if name in row), None)
    if options is None:
        options = [letter for letter in tabular.LETTERS if letter in row]
        if len(options) < 2:
            raise DistillError(
                f"{where}: neither `choices`, `options` nor columns A, B ...; there are {', '.join(row)}"
            )
    subject = next((jsonl.text(row, name, where) for name in SUBJECTS if row.get(name)), None) or ""
    columns = tabular.Columns(options=options, licence="MIT")
    count = len(options) if isinstance(options, list) else len(row[options] or ())
    problem = tabular.mapped({**row, "answer": _right(row, count, where)}, where, columns, "mmlu")
    return replace(problem, domain=subject.replace("_", " "))


def _right(row: tabular.Row, count: int, where: str) -> Any:
    """The place of the right one of `count` options; a letter is never taken for the text of an option (`A`, `AB`)."""
    if row.get("answer_index") is not None:
        return row["answer_index"]
    answer = jsonl.field(row, "answer", where)
    letters = list(tabular.LETTERS[:count])
    return letters.index(answer.strip()) if isinstance(answer, str) and answer.strip() in letters else answer


def _rows(path: str) -> Iterator[tuple[str, tabular.Row]]:
    """The rows; those of a CSV without a header under MMLU's names, with the file's subject (`anatomy_dev.csv`)."""
    for file in tabular.files(path):
        if not file.name.endswith(".csv") or "question" in map(str.lower, tabular.first_line(file)):
            yield from tabular.rows(str(file))
            continue
        subject = file.stem.rsplit("_", 1)[0] if file.stem.endswith(("_dev", "_val", "_test")) else ""
        for where, row in tabular.csv_rows(file, header=HEADER):
            yield where, {**row, "subject": subject}
