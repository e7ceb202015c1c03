"""Problems from a Parquet file, with the names of its columns; only these are read.

problems: {source: {parquet: {path: "train-*.parquet", question: problem, gold: answer}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from distill import tabular
from distill.core.config import Unkeyed
from distill.core.records import Problem, Split

PRIMARY = "path"


class Config(tabular.Columns):
    """Settings of the `parquet` source."""

    path: Annotated[str, Unkeyed]
    """The file, or a pattern (`train-*.parquet`); its content counts, not its place."""


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
        for where, row in tabular.parquet_rows(file, config.named):
            yield tabular.mapped(row, where, config, file.name)
