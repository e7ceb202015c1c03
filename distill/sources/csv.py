"""Problems from a CSV file (.gz and .zst too), with the names of its columns.

    problems: {source: {csv: {path: problems.csv, question: Problem, gold: Answer}}}

A file without a header gets its names from `header`; an empty cell is null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from distill import tabular
from distill.core.config import Unkeyed
from distill.core.records import Problem, Split

PRIMARY = "path"


class Config(tabular.Columns):
    """Settings of the `csv` source."""

    path: Annotated[str, Unkeyed]
    """The file, or a pattern (`part-*.csv`); its content counts, not its place."""
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """What stands between values; `"\\t"` for tabs."""
    header: list[str] | None = None
    """Names of the columns, for a file that has none in its first line."""


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
        for where, row in tabular.csv_rows(file, delimiter=config.delimiter, header=config.header):
            yield tabular.mapped(row, where, config, file.name)
