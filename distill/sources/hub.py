"""A data set of the Hugging Face Hub, or one in a local folder: split, revision, column names, streaming.

    problems: {source: {hub: {path: openai/gsm8k, name: main, from_split: train, layout: gsm8k, revision: e53f048}}}

Columns are named as for `jsonl`, or a `layout` reads rows the way the source of that name does. Nothing of a data set
is ever run: those that need a script are refused. Name a `revision`, or what is read may change under you.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import PositiveInt

from distill import tabular
from distill.core import plugins
from distill.core.config import Unkeyed, digest
from distill.core.errors import DistillError
from distill.core.files import sha256_file
from distill.core.models import transport_faults
from distill.core.records import Problem, Split
from distill.core.stage import say

PRIMARY = "path"


class Config(tabular.Columns):
    """Settings of the `hub` source."""

    path: str
    """The data set's id (`owner/name`), or a local folder in a layout that the `datasets` library reads."""
    name: str | None = None
    """Its configuration, where it has several (`main`)."""
    from_split: str = "train"
    """Split of the data set that is read, in its own words: `train`, `test[:100]`, `train+validation`."""
    revision: str | None = None
    """Commit, tag or branch. None: what main is now, which is then said."""
    layout: Literal["columns", "gsm8k", "math", "humaneval", "mbpp", "livecodebench", "mmlu"] = "columns"
    """`columns`: by the names above. Else as the source of that name reads a row."""
    streaming: Annotated[bool, Unkeyed] = False
    """Read row by row without storing the whole data set; needs a plain split name."""
    rows: PositiveInt | None = None
    """At most so many rows, from the first on."""

    def keyed(self) -> dict[str, Any]:
        """Without the place of a local folder: its content counts."""
        kept = super().keyed()
        if Path(self.path).is_dir():
            del kept["path"]
        return kept


def externals(config: Config) -> dict[str, str]:
    """Content of a local folder; a data set of the Hub counts by its id and revision."""
    folder = Path(config.path)
    if not folder.is_dir():
        return {}
    found = sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {"source": digest([[file.relative_to(folder).as_posix(), sha256_file(file)] for file in found])}


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the data set as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    dataset = Path(config.path).name if Path(config.path).is_dir() else config.path.replace("/", ":")
    if config.layout == "columns":
        convert: Callable[[tabular.Row, str], Problem] = partial(tabular.mapped, columns=config, dataset=dataset)
    else:
        convert = plugins.load("distill.sources", config.layout).to_problem
    return tabular.problems(rows(config), convert, config.split)


def rows(config: Config) -> Iterator[tuple[str, tabular.Row]]:
    """The rows that the settings name; of `layout: columns` only the columns named are decoded."""
    return read(
        config.path, config.name, config.from_split, config.revision or current(config.path),
        columns=config.named if config.layout == "columns" else None, streaming=config.streaming, most=config.rows,
    )  # fmt: skip


def read(
    path: str, name: str | None, split: str, revision: str | None, *,
    columns: Collection[str] | None = None, streaming: bool = False, most: int | None = None,
) -> Iterator[tuple[str, tabular.Row]]:  # fmt: skip
    """Yield (where, row) of a split, numbered from 1, at most `most`; only the columns named, where any are.

    Raises DistillError, in one line, for what cannot be had or read.
    """
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    named = f"{path} {name or ''}".strip()
    with _one_line(named, f"split {split}"):
        data: Any = load_dataset(path, name, split=split, revision=revision, streaming=streaming)
        there = data.column_names
        if columns is not None and there is not None:
            if missing := sorted(column for column in columns if not {column, column.partition(".")[0]} & set(there)):
                raise DistillError(f"data set {named}: no column `{missing[0]}`; it has {', '.join(there)}")
            wanted = {*columns, *(column.partition(".")[0] for column in columns)}
            data = data.select_columns([column for column in there if column in wanted])
        for number, row in enumerate(itertools.islice(data, most), 1):
            yield f"{named} {split}:{number}", row


def current(path: str) -> str | None:
    """The commit that main of a data set of the Hub is now; None for a folder, or where the Hub cannot be asked."""
    if Path(path).is_dir():
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        commit: str | None = HfApi().dataset_info(path, timeout=10).sha
    except (HfHubHTTPError, transport_faults(), OfflineModeIsEnabled, OSError, ValueError):
        return None  # loading says what is wrong, or reads the copy that is stored here
    say(f"{path} is read as of {commit}; set `revision: {commit}` to keep to that")
    return commit


def fetched(path: str, names: Sequence[str], revision: str | None) -> list[Path]:
    """Files of a data set of the Hub, as they lie there, fetched to this machine: for one that needs a script to load.

    Raises DistillError if one cannot be had.
    """
    from huggingface_hub import hf_hub_download

    revision = revision or current(path)
    files = []
    for name in names:
        with _one_line(path, f"file {name}"):
            files.append(Path(hf_hub_download(path, name, repo_type="dataset", revision=revision)))
    return files


@contextmanager
def _one_line(named: str, what: str) -> Iterator[None]:
    """Errors of the data set libraries as one line that says what to look at."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from pyarrow import ArrowException

    theirs = (DatasetsError, HfHubHTTPError, transport_faults(), ArrowException)
    try:
        yield
    except DistillError:
        raise
    except (*theirs, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DistillError(
            f"data set {named}, {what}: cannot be read ({reason}); check its id, `name`, "
            "`from_split` and `revision`, and whether you have access and a network"
        ) from error
