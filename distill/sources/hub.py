"""A data set of the Hugging Face Hub, or one in a local folder: split, revision, column names, streaming.

    problems: {source: {hub: {path: openai/gsm8k, name: main, from_split: train, layout: gsm8k, revision: e53f048}}}

Columns are named as for `jsonl`, or a `layout` reads rows the way the source of that name does. Nothing of a data set
is ever run: those that need a script are refused. Name a `revision`, or what is read may change under you.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
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
    """Yield (where, row), numbered from 1, at most `rows`; of `layout: columns` only the columns named are decoded."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    revision = config.revision or current(config.path)
    named = f"{config.path} {config.name or ''}".strip()
    with _one_line(named, config.from_split):
        data: Any = load_dataset(
            config.path, config.name, split=config.from_split, revision=revision, streaming=config.streaming
        )
        there = data.column_names
        if config.layout == "columns" and there is not None:
            if missing := sorted(name for name in config.named if not {name, name.partition(".")[0]} & set(there)):
                raise DistillError(f"problems: data set {named}: no column `{missing[0]}`; it has {', '.join(there)}")
            wanted = config.named | {name.partition(".")[0] for name in config.named}
            data = data.select_columns([name for name in there if name in wanted])
        for number, row in enumerate(itertools.islice(data, config.rows), 1):
            yield f"{named} {config.from_split}:{number}", row


def current(path: str) -> str | None:
    """The commit that main of a data set of the Hub is now; None for a folder, or where the Hub cannot be asked."""
    if Path(path).is_dir():
        return None
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        commit: str | None = HfApi().dataset_info(path, timeout=10).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError):
        return None  # loading says what is wrong, or reads the copy that is stored here
    say(f"problems  {path} is read as of {commit}; set `revision: {commit}` to keep to that")
    return commit


@contextmanager
def _one_line(named: str, split: str) -> Iterator[None]:
    """Errors of the data set libraries as one line that says what to look at."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError
    from pyarrow import ArrowException

    try:
        yield
    except DistillError:
        raise
    except (DatasetsError, HfHubHTTPError, ArrowException, OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DistillError(
            f"problems: data set {named}, split {split}: cannot be read ({reason}); check its id, `name`, "
            "`from_split` and `revision`, and whether you have access and a network"
        ) from error
