"""The problems of a trace set: what its responses answer, with gold where the set has it.

    problems: {source: {traces: {path: open-r1/OpenR1-Math-220k, layout: openr1, revision: e4e141e}}}
    import: {}   # the responses that came with these problems

Layouts and columns are those of `import:` (docs/importing.md). Several responses to one question are one problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from distill import layouts
from distill.core.records import Problem, Split
from distill.core.stage import say
from distill.layouts import LayoutName, TraceSet

PRIMARY = "path"


class Config(TraceSet):
    """Settings of the `traces` source."""

    path: str
    """The file (.jsonl, .csv or .parquet; .gz and .zst too), a pattern (`part-*.parquet`), or a data set's id on the
    Hub (`owner/name`). Of a file the content counts, not the place."""
    layout: LayoutName = "chat"
    """What its columns are called, and what stands around the reasoning."""
    split: Split | None = None
    """Split of all rows. None: each problem goes to train, dev or test by the hash of its text."""
    verifier: str | None = None
    """Verifier of all rows, where it is not the experiment's."""

    def keyed(self) -> dict[str, Any]:
        """Without the place of a file: its content counts."""
        kept = super().keyed()
        if not layouts.is_hub_id(self.path):
            del kept["path"]
        return kept


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return layouts.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The problem of every row that can be read, in its order. `counts` are limits that the stage applies."""
    del counts
    reader = layouts.Reader(config.path, config.layout, config, "problems")
    for row in reader:
        yield replace(row.problem, split=config.split or "train", verifier=config.verifier)
    for name in reader.named:
        say(f"problems  not read: {name}")
