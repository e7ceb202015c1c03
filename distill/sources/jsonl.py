"""Problems from a JSON Lines file (.gz and .zst too), with the names of its columns.

problems: {source: {jsonl: {path: problems.jsonl, question: problem, gold: answer}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from distill import tabular
from distill.core.config import Unkeyed
from distill.core.records import Problem, Split

PRIMARY = "path"


class Config(tabular.Columns):
    """Settings of the `jsonl` source. Column names reach into nested objects with dots."""

    path: Annotated[str, Unkeyed]
    """The file, or a pattern (`part-*.jsonl`); its content counts, not its place."""


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return tabular.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the file as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    for file in tabular.files(config.path):
        for where, row in tabular.jsonl_rows(file):
            yield tabular.mapped(row, where, config, file.name)
