"""The index file: made once for a content, whole or absent, and never the wrong one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.view import index
from distill.view.catalog import Asked
from distill.view.entries import Entry, Question, Source
from tests.view.made import entry, opened, source


def test_it_is_made_once(tmp_path: Path) -> None:
    made = source([entry(1)])
    path = index.ensure(made, tmp_path, "run")
    before = path.stat().st_ino

    assert index.ensure(made, tmp_path, "run").stat().st_ino == before


def test_another_content_takes_its_place(tmp_path: Path) -> None:
    old, of_other = (
        index.ensure(source([entry(1)]), tmp_path, "run"),
        index.ensure(source([entry(1)]), tmp_path, "other"),
    )

    new = index.ensure(source([entry(2)], "changed"), tmp_path, "run")

    assert new != old and new.exists() and not old.exists() and of_other.exists()


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Entry]:
        yield entry(1)
        raise DistillError("rows.jsonl:2: no question")

    with pytest.raises(DistillError, match="no question"):
        index.ensure(Source("made", "made", 2, broken), tmp_path, "run")

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_build_left_goes(tmp_path: Path) -> None:
    left = tmp_path / ".run-0123.sqlite.partial-999999999"
    left.write_bytes(b"half")

    index.ensure(source([entry(1)]), tmp_path, "run")

    assert not left.exists()


def test_only_its_owner_can_read_the_token(tmp_path: Path) -> None:
    path = index.ensure(source([entry(1)]), tmp_path, "run")

    assert path.stat().st_mode & 0o777 == 0o600


def test_without_full_text_search_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_TABLES", index._TABLES.replace("fts5", "fts99"))

    with pytest.raises(DistillError, match="no full-text search"):
        index.ensure(source([entry(1)]), tmp_path, "run")


def test_equal_rows_have_names_of_their_own(tmp_path: Path) -> None:
    with opened(source([entry(1), entry(1), entry(2)]), tmp_path) as catalog:
        names = [row["name"] for row in catalog.search(Asked())["entries"]]

    assert len(set(names)) == 3


def test_names_are_the_same_in_another_index(tmp_path: Path) -> None:
    with (
        opened(source([entry(1), entry(2)]), tmp_path) as one,
        opened(source([entry(0), entry(2)], "b"), tmp_path / "b") as two,
    ):
        last = [catalog.search(Asked())["entries"][-1]["name"] for catalog in (one, two)]

    assert last[0] == last[1]


def test_a_facet_that_comes_late_is_empty_before(tmp_path: Path) -> None:
    late = entry(2, facets={"verdict": "wrong"})
    with opened(source([entry(1), late, entry(3)]), tmp_path) as catalog:
        found = catalog.search(Asked(chosen={"verdict": ["wrong"]}))

    assert [row["problem"] for row in found["entries"]] == ["Question 2?"]


@given(
    thinking=st.none() | st.text(),
    answer=st.text(),
    before=st.text(),
    between=st.text(),
    after=st.text(),
    other=st.booleans(),
)
def test_texts_come_back_to_the_character(
    thinking: str | None, answer: str, before: str, between: str, after: str, other: bool
) -> None:
    raw = "other" if other else before + (thinking or "") + between + answer + after
    given = Entry("k", "p", thinking, answer, raw)

    assert index.unpacked(index.packed(given)) == (thinking, answer, raw)


def test_many_entries_are_written_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "BATCH", 3)
    shared = Question("same", "Asked often?")
    path = index.ensure(source([entry(n, question=shared) for n in range(10)]), tmp_path, "run")

    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM entry").fetchone() == (10,)
        assert db.execute("SELECT count(*) FROM problem").fetchone() == (1,)
