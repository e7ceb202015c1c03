"""What is typed into the search box: which entries it finds, and that no text breaks it."""

from __future__ import annotations

import sqlite3

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.view.query import COLUMNS, MOST_TERMS, parse, spaced

TEXTS = {
    1: ("Find the triangle's right angle.", "By Thales, the circle of x^2 + y^2 = 1.", "So \\boxed{17}"),
    2: ("A right triangle with an angle.", "The angle is right? I guess 17.", "\\frac{1}{2}"),
    3: ("三角形の面積", "底辺と高さ。été", "答えは12です"),
}


@pytest.fixture(scope="module")
def words() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    columns = ", ".join(COLUMNS)
    db.execute(
        f"CREATE VIRTUAL TABLE words USING fts5({columns}, content='', tokenize='unicode61 remove_diacritics 2')"
    )
    for number, texts in TEXTS.items():
        db.execute(f"INSERT INTO words (rowid, {columns}) VALUES (?, ?, ?, ?)", (number, *map(spaced, texts)))
    return db


def found(words: sqlite3.Connection, text: str) -> set[int]:
    asked = parse(text)
    look = "SELECT rowid FROM words WHERE words MATCH ?"
    wanted = {row[0] for row in words.execute(look, (asked.wanted,))} if asked.wanted else set(TEXTS)
    return wanted - ({row[0] for row in words.execute(look, (asked.unwanted,))} if asked.unwanted else set())


@pytest.mark.parametrize(
    ("typed", "numbers"),
    [
        ("triangle", {1, 2}),
        ("TRIANGLE angle", {1, 2}),
        ('"right angle"', {1}),
        ("right angle", {1, 2}),
        ("angle -guess", {1}),
        ("-guess -thales", {3}),
        ("tri*", {1, 2}),
        ("tri", set()),
        ("17", {1, 2}),
        ("answer:17", {1}),
        ("thinking:17", {2}),
        ('problem:"right triangle"', {2}),
        ("-answer:17", {2, 3}),
        ("x^2", {1}),
        ("\\frac{1}{2}", {2}),
        ("ete", {3}),
        ("été", {3}),
        ("角形", {3}),
        ("角面", set()),
        ("面積 12", {3}),
        ("", {1, 2, 3}),
        ('"never closed', set()),
        ("AND OR NOT", set()),
        ("NEAR(right angle)", set()),
        ("nothing:17", set()),
    ],
)
def test_finds(words: sqlite3.Connection, typed: str, numbers: set[int]) -> None:
    assert found(words, typed) == numbers


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused_in_one_line(words: sqlite3.Connection, typed: str) -> None:
    try:
        found(words, typed)
    except DistillError:
        found(words, f"word {typed}")  # it was refused for having no word


@given(st.text(alphabet='ab"*-: +^~(){}NOTANDRproblem\\三é\0', max_size=30))
def test_fts_syntax_is_only_text(words: sqlite3.Connection, typed: str) -> None:
    try:
        found(words, typed)
    except DistillError:
        found(words, f"a {typed} a")  # it was refused for having no word


@pytest.mark.parametrize(
    ("typed", "text", "marked"),
    [
        ("angle", "Angles and an ANGLE.", ["ANGLE"]),
        ("ang*", "Angles and an angle", ["Ang", "ang"]),
        ("x^2", "x_1^2, x**2 and x2", ["x**2", "x2"]),
        ("角形", "三角形", ["角形"]),
        ("right -angle", "right angle", ["right"]),
    ],
)
def test_the_pattern_marks_what_was_found(typed: str, text: str, marked: list[str]) -> None:
    pattern = parse(typed).pattern

    assert [match[0] for match in regex.finditer(pattern, text, regex.IGNORECASE)] == marked


def test_too_much_is_refused() -> None:
    with pytest.raises(DistillError, match="at most 1,000"):
        parse("a" * 1001)
    with pytest.raises(DistillError, match=f"at most {MOST_TERMS}"):
        parse("a " * (MOST_TERMS + 1))
    with pytest.raises(DistillError, match="signs alone"):
        parse("+ =")
