"""Records come back as they were written, also from rows that older versions wrote."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.records import Message, Trace

TRACE = Trace("k", "p", (Message("user", "two?"), Message("assistant", "2")), "1+1", "2", completion_ids=(5, 6))


@dataclass(frozen=True)
class Old:
    """A record as it was before `note`, `ids` and `more`."""

    key: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class New:
    key: str
    settings: dict[str, Any]
    note: str = "none"
    ids: tuple[int, ...] | None = None
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Newer:
    key: str
    settings: dict[str, Any]
    needed: int


def test_a_table_comes_back_in_order_and_in_batches(tmp_path: Path) -> None:
    traces = [replace(TRACE, key=str(n), completion_ids=tuple(range(n)) or None) for n in range(50)]
    assert tables.write(tmp_path / "t.parquet", iter(traces), Trace) == 50
    assert tables.read(tmp_path / "t.parquet", Trace) == traces
    assert list(tables.stream(tmp_path / "t.parquet", Trace, batch_rows=7)) == traces


def test_empty_and_missing_lists_stay_apart() -> None:
    for ids in ((), None, (1,)):
        trace = replace(TRACE, completion_ids=ids)
        assert tables.from_dict(tables.to_dict(trace), Trace) == trace


def test_what_an_older_row_lacks_gets_its_default(tmp_path: Path) -> None:
    old = [Old("a", {"x": 1}), Old("b", {})]
    tables.write(tmp_path / "old.parquet", old, Old)
    assert tables.read(tmp_path / "old.parquet", New) == [New("a", {"x": 1}), New("b", {})]
    assert tables.from_dict({"key": "a", "settings": "{}"}, New) == New("a", {})


def test_a_column_without_a_default_is_missed_and_an_unknown_one_refused(tmp_path: Path) -> None:
    tables.write(tmp_path / "old.parquet", [Old("a", {})], Old)
    with pytest.raises(DistillError, match="not a table of Newer.*missing: needed"):
        tables.read(tmp_path / "old.parquet", Newer)
    with pytest.raises(KeyError):
        tables.from_dict({"key": "a", "settings": "{}"}, Newer)
    tables.write(tmp_path / "new.parquet", [New("a", {})], New)
    with pytest.raises(DistillError, match="unknown: ids, more, note"):
        tables.read(tmp_path / "new.parquet", Old)
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(DistillError, match="missing: .*settings"):
        tables.read(tmp_path / "other.parquet", New)


def test_long_rows_are_written_in_shorter_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "GROUP_SIZE", 10_000)
    long = [replace(TRACE, key=str(n), reasoning="x" * 3000) for n in range(20)]
    tables.write(tmp_path / "t.parquet", iter(long), Trace)
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 5  # memory is that of a group
    assert tables.read(tmp_path / "t.parquet", Trace) == long
