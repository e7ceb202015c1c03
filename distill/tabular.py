"""Rows of files and data sets as problems: one way of naming columns for every source that reads a table.

A row is a dictionary; `where` says which (`problems.csv:7`), and every fault starts with it. Nothing is skipped in
silence: a row that cannot be a problem stops the stage, a null gold stays with its own row.
"""

from __future__ import annotations

import csv
import glob
import re
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import field_validator, model_validator

from distill.core import jsonl
from distill.core.config import Settings, Unkeyed, digest
from distill.core.errors import DistillError
from distill.core.files import sha256_file
from distill.core.records import Message, Problem, Split, problem_id
from distill.text.code_tests import parse

Row = dict[str, Any]
LETTERS = string.ascii_uppercase


class Columns(Settings):
    """Which column is what. Names reach into nested objects with dots."""

    question: str = "question"
    """Column with the problem's text."""
    gold: str | None = "answer"
    """Column with the gold answer; null where there is none. For options: a letter, a place from 0, or the text."""
    gold_pattern: str | None = None
    """Regular expression whose last match in that column is the gold (its first group, if it has one)."""
    options: str | list[str] | None = None
    """Multiple choice: the column with the list of options, or one column for each. Verified by `choice`."""
    tests: str | None = None
    """Column with hidden tests as JSON (`distill/text/code_tests.py` says how). Verified by `code`."""
    verifier: str | None = None
    """Verifier of all rows, where it is not the experiment's."""
    domain: str | None = None
    """Column with the domain (algebra, geometry ...)."""
    level: str | None = None
    """Column with the difficulty."""
    solution: str | None = None
    """Column with a worked solution, for `import: {layout: reference}`."""
    thinking: bool | None = None
    """`false`: these problems are to be answered without thinking. None leaves it to `sample:`."""
    split: Split | None = None
    """Split of all rows. None: each problem goes to train, dev or test by the hash of its text."""
    dataset: str = ""
    """Where the data is from, as records name it."""
    licence: str = ""
    """Its licence, as records name it."""

    @field_validator("gold_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        return pattern

    @model_validator(mode="after")
    def _one_kind(self) -> Columns:
        if self.options is not None and self.tests is not None:
            raise ValueError("`options` and `tests` exclude each other")
        return self

    @property
    def named(self) -> set[str]:
        """The columns that are read."""
        several = self.options if isinstance(self.options, list) else [self.options]
        return {
            name
            for name in (self.question, self.gold, self.tests, self.domain, self.level, self.solution, *several)
            if name is not None
        }


class Preset(Settings):
    """Settings of a source whose layout is known: a file, and how its rows are filed."""

    path: Annotated[str, Unkeyed]
    """The file (.jsonl, .csv or .parquet; .gz and .zst too) or a pattern (`part-*.parquet`); its content counts."""
    split: Split | None = None
    """Split of all rows. None: each problem goes to train, dev or test by the hash of its text."""


# ---- rows


def files(path: str) -> list[Path]:
    """The files that a path or a pattern with `*` names, sorted. Raises DistillError if there is none."""
    found = [Path(name) for name in sorted(glob.glob(path))] if "*" in path else [Path(path)]  # noqa: PTH207  # a whole path with `*` anywhere
    if not found or not all(file.is_file() for file in found):
        raise DistillError(f"{path}: no such file")
    return found


def externals(path: str) -> dict[str, str]:
    """Content hash of the files that a source reads; their names do not count."""
    hashes = [sha256_file(file) for file in files(path)]
    return {"source": hashes[0] if len(hashes) == 1 else digest(hashes)}


def rows(path: str, columns: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Yield (where, row) of the files of `path`, read by what their names end in; JSON Lines where that says nothing.

    `columns` are all that is wanted of a Parquet file. Raises DistillError, naming file and row, for what cannot be
    read.
    """
    for file in files(path):
        kind = _suffix(file)
        if kind == ".parquet":
            yield from parquet_rows(file, columns)
        elif kind in (".csv", ".tsv"):
            yield from csv_rows(file, delimiter="\t" if kind == ".tsv" else ",")
        else:
            yield from jsonl_rows(file)


def jsonl_rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a JSON Lines file."""
    for number, row in jsonl.read(file):
        yield f"{file}:{number}", row


def csv_rows(file: Path, *, delimiter: str = ",", header: Sequence[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Rows of a CSV file, all values text, empty ones None. `header` names the columns of a file that has no header.

    The number in `where` is the line that the row ends in.
    """
    with jsonl.open_text(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        limit = csv.field_size_limit(1 << 27)
        try:
            names = list(header) if header is not None else next(reader, None)
            if names is None:
                return
            if len(set(names)) != len(names):
                raise DistillError(f"{file}:1: two columns have one name: {', '.join(names)}")
            for values in reader:
                if not values:
                    continue
                if len(values) != len(names):
                    raise DistillError(
                        f"{file}:{reader.line_num}: {len(values)} values for {len(names)} columns "
                        f"({', '.join(names)}); quote values that hold the delimiter {delimiter!r}"
                    )
                yield (
                    f"{file}:{reader.line_num}",
                    {name: value or None for name, value in zip(names, values, strict=True)},
                )
        except csv.Error as error:
            raise DistillError(f"{file}:{reader.line_num}: not CSV ({error})") from error
        finally:
            csv.field_size_limit(limit)


def first_line(file: Path) -> list[str]:
    """The values of a CSV file's first line."""
    with jsonl.open_text(file, encoding="utf-8-sig", newline="") as text:
        return next(csv.reader(text), [])


def parquet_rows(file: Path, columns: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Rows of a Parquet file in batches, numbered from 1; only the columns named, where any are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        there = table.schema_arrow.names
        wanted = None
        if columns is not None:
            wanted = [name for name in there if name in columns or any(c.startswith(f"{name}.") for c in columns)]
            for column in sorted(columns):
                if column not in there and column.partition(".")[0] not in there:
                    raise DistillError(f"{file}: no column `{column}`; there are {', '.join(there) or 'none'}")
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}:{number}", row
    except (pa.ArrowException, OSError) as error:
        raise DistillError(f"{file}: cannot be read as Parquet ({str(error).partition(chr(10))[0]})") from error


def _suffix(file: Path) -> str:
    return Path(file.stem).suffix if file.suffix in (".gz", ".zst") else file.suffix


# ---- problems


def problems(
    found: Iterator[tuple[str, Row]], convert: Callable[[Row, str], Problem], split: Split | None
) -> Iterator[Problem]:
    """Every row as a problem by `convert(row, where)`, in the split of all rows where there is one."""
    for where, row in found:
        problem = convert(row, where)
        yield problem if split is None else replace(problem, split=split)


def mapped(row: Row, where: str, columns: Columns, dataset: str) -> Problem:
    """A row as a problem by the names of its columns. `dataset` is its source where the settings name none.

    Raises DistillError, starting with `where`, for a row without a question, with options that are none, with a gold
    that is none of its options, or with tests that are no tests.
    """
    question = text(row, columns.question, where)
    verifier, tests = columns.verifier, None
    if columns.options is not None:
        options = _options(row, columns.options, where)
        gold = None if columns.gold is None else _letter(jsonl.field(row, columns.gold, where), options, where)
        question, verifier = with_options(question, options), verifier or "choice"
    else:
        gold = None if columns.gold is None else matched(jsonl.text(row, columns.gold, where), columns.gold_pattern)
    if columns.tests is not None:
        tests, verifier = _tests(row, columns.tests, where), verifier or "code"
    return problem(
        question,
        gold=gold,
        split=columns.split or "train",
        domain=_optional(row, columns.domain, where),
        level=_optional(row, columns.level, where),
        source=columns.dataset or dataset,
        licence=columns.licence,
        verifier=verifier,
        tests=tests,
        reference_reasoning=_optional(row, columns.solution, where) or None,
        thinking=columns.thinking,
    )


def problem(question: str, *, split: Split = "train", **fields: Any) -> Problem:
    """A problem of one user turn; its id is the hash of that turn."""
    messages = (Message("user", question),)
    return Problem(id=problem_id(messages), messages=messages, split=split, **fields)


def text(row: Row, name: str, where: str) -> str:
    """A column that must hold text. Raises DistillError, starting with `where`, where it is missing or empty."""
    value = jsonl.text(row, name, where)
    if value is None or not value.strip():
        raise DistillError(f"{where}: `{name}` is empty; every row needs it: fill it in, or drop the row")
    return value


def matched(value: str | None, pattern: str | None) -> str | None:
    """What the pattern's last match takes out of a text; None where nothing matches."""
    if value is None or pattern is None:
        return value
    matches = list(re.finditer(pattern, value))
    if not matches:
        return None
    return (matches[-1][1] if matches[-1].re.groups else matches[-1][0]).strip()


def with_options(question: str, options: Sequence[str], mark: str = ".") -> str:
    """The question with its options under letters, which `mark` follows.

    >>> with_options("2+2?", ["3", "4"])
    '2+2?\\n\\nA. 3\\nB. 4'
    """
    return f"{question.rstrip()}\n\n" + "\n".join(
        f"{letter}{mark} {option}" for letter, option in zip(LETTERS, options, strict=False)
    )


def _options(row: Row, names: str | list[str], where: str) -> list[str]:
    if isinstance(names, str):
        value = jsonl.field(row, names, where)
        if isinstance(value, Mapping) and "text" in value:  # ARC's {"text": [...], "label": [...]}
            value = value["text"]
    else:
        value = [jsonl.field(row, name, where) for name in names]
    if not isinstance(value, list) or not all(isinstance(option, str | int | float) for option in value):
        raise DistillError(f"{where}: the options are no list of texts")
    if not 2 <= len(value) <= len(LETTERS):
        raise DistillError(f"{where}: {len(value)} options; a choice has 2 to {len(LETTERS)}")
    return [str(option) for option in value]


def _letter(gold: Any, options: Sequence[str], where: str) -> str | None:
    """The letter of the right option: given as a letter, as its text, or as its place from 0."""
    if gold is None:
        return None
    letters = LETTERS[: len(options)]
    if isinstance(gold, str):
        said = gold.strip()
        if len(said) == 1 and said.upper() in letters and said not in options:
            return said.upper()
        if options.count(said) == 1:
            return letters[options.index(said)]
        if len(said) == 1 and said.upper() in letters:
            return said.upper()
        if said.isdecimal() and int(said) < len(options):
            return letters[int(said)]
    elif isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(options):
        return letters[gold]
    raise DistillError(
        f"{where}: the gold {str(gold)[:40]!r} is none of the options {letters[0]} to {letters[-1]}: "
        "correct it, make it null, or drop the row"
    )


def _tests(row: Row, name: str, where: str) -> str:
    tests = text(row, name, where)
    try:
        parse(tests)
    except ValueError as error:
        raise DistillError(f"{where}: `{name}`: {error}") from error
    return tests


def _optional(row: Row, name: str | None, where: str) -> str:
    return "" if name is None else jsonl.text(row, name, where) or ""
