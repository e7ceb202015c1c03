"""Records to Parquet and back. The Arrow schema is read off the dataclass: there is one definition of each record."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill.core.errors import DistillError
from distill.core.files import atomic
from distill.core.records import Message

if TYPE_CHECKING:
    import pyarrow as pa

R = TypeVar("R")

GROUP_ROWS, GROUP_SIZE = 4096, 8_000_000
"""Most rows of a row group, and about how many characters and list entries it may have."""


def write(path: Path, records: Iterable[R], kind: type[R]) -> int:
    """Write records of one kind to a Parquet file, atomically, in the order given; returns how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(kind)
    count = 0
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for rows in _row_groups(to_dict(record) for record in records):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def read(path: Path, kind: type[R]) -> list[R]:
    """Read a Parquet file written by `write`, also by an older version whose records had fewer fields.

    Raises DistillError if any other column is missing, or one is unknown.
    """
    return list(stream(path, kind))


def stream(path: Path, kind: type[R], batch_rows: int = 4096) -> Iterator[R]:
    """Read records one by one, with memory bounded by a batch."""
    for batch in batches(path, kind, batch_rows):
        yield from records(batch, kind)


def records(batch: pa.RecordBatch | pa.Table, kind: type[R]) -> list[R]:
    """The records of a batch or table of this kind."""
    return [from_dict(row, kind) for row in batch.to_pylist()]


def column(path: Path, name: str) -> list[Any]:
    """One column of a file, without reading the others."""
    import pyarrow.parquet as pq

    values: list[Any] = pq.read_table(path, columns=[name])[name].to_pylist()
    return values


def batches(path: Path, kind: type[R], batch_rows: int = 4096) -> Iterator[pa.RecordBatch]:
    """Read a file in batches, still as Arrow: small to hand to another process. Raises DistillError as `read` does."""
    import pyarrow.parquet as pq

    if not path.exists():
        raise DistillError(f"{path}: no such file")
    file = pq.ParquetFile(path)
    expected, got = set(arrow_schema(kind).names), set(file.schema_arrow.names)
    if not expected - _fields(kind).optional <= got <= expected:
        missing, extra = ", ".join(sorted(expected - got)) or "-", ", ".join(sorted(got - expected)) or "-"
        raise DistillError(f"{path}: not a table of {kind.__name__} records (missing: {missing}; unknown: {extra})")
    yield from file.iter_batches(batch_size=batch_rows)


def to_dict(record: Any) -> dict[str, Any]:
    """A record as a row of plain types: dictionaries become JSON text, so that Parquet keeps one schema."""
    fields, values = _fields(type(record)), vars(record)
    row = {name: values[name] for name in fields.hints}
    for name in fields.nested:
        value = row[name]
        if isinstance(value, dict):
            row[name] = json.dumps(value, sort_keys=True, ensure_ascii=False)
        elif isinstance(value, tuple):
            row[name] = [dict(vars(item)) for item in value] if _holds(value, Message) else list(value)
    return row


def from_dict(row: dict[str, Any], kind: type[R]) -> R:
    """The record that `to_dict` made this row of. What an older row does not have gets the record's default."""
    fields = _fields(kind)
    values: dict[str, Any] = {}
    for name, is_dict in fields.is_dict.items():
        if name not in row and name in fields.optional:
            continue
        value = row[name]
        if is_dict and value is not None:
            value = json.loads(value)
        elif isinstance(value, list):
            value = tuple(Message(**item) for item in value) if _holds(value, dict) else tuple(value)
        values[name] = value
    return kind(**values)


def _holds(values: Sequence[Any], kind: type) -> bool:
    return bool(values) and isinstance(values[0], kind)


def arrow_schema(kind: Any) -> pa.Schema:
    """The Arrow schema of a record class."""
    import pyarrow as pa

    return pa.schema([pa.field(name, _arrow_type(hint)) for name, hint in _fields(kind).hints.items()])


@dataclasses.dataclass(frozen=True)
class _Fields:
    """A record class, looked at once: hints by name, which fields are dictionaries, which hold several values, which
    a row may lack.
    """

    hints: dict[str, Any]
    is_dict: dict[str, bool]
    nested: tuple[str, ...]
    optional: frozenset[str]


def _fields(kind: Any) -> _Fields:
    return _cached_fields(kind)


@cache
def _cached_fields(kind: Any) -> _Fields:
    hints = typing.get_type_hints(kind)
    none = dataclasses.MISSING
    optional = [f.name for f in dataclasses.fields(kind) if f.default is not none or f.default_factory is not none]
    is_dict = {name: typing.get_origin(hint) is dict for name, hint in hints.items()}
    nested = tuple(name for name, hint in hints.items() if _is_nested(hint))
    return _Fields(hints, is_dict, nested, frozenset(optional))


def _is_nested(hint: Any) -> bool:
    return typing.get_origin(hint) in (dict, tuple) or any(_is_nested(arg) for arg in typing.get_args(hint))


def _arrow_type(hint: Any) -> Any:
    import pyarrow as pa

    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return _arrow_type(inner[0])
    if origin is typing.Literal or hint is str or origin is dict:
        return pa.string()
    if origin is tuple:
        return pa.list_(_arrow_type(typing.get_args(hint)[0]))
    if hint is Message:
        return pa.struct([("role", pa.string()), ("content", pa.string())])
    plain = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    return plain[hint]


def _row_groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in lists of at most `GROUP_ROWS`; of long rows fewer, so that memory does not follow their length."""
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(value) for value in row.values() if isinstance(value, (str, list)))
        if len(group) == GROUP_ROWS or size >= GROUP_SIZE:
            yield group
            group, size = [], 0
    if group:
        yield group
