"""The shape of an answer: what is split, at which sign, and what stays in one piece."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.shapes import MAX_PARTS, is_name, listed, shape, squeezed, variables


@pytest.mark.parametrize(
    ("text", "kind", "parts", "marks"),
    [
        ("5", "expression", [], ()), ("x + 1", "expression", [], ()), ("(x+1)(x-1)", "expression", [], ()),
        ("((5))", "expression", [], ()), ("f(1, 2)", "expression", [], ()), ("100,200,300", "expression", [], ()),
        ("1, 2", "list", ["1", "2"], ()), ("1; 2", "list", ["1", "2"], ()), ("1,000, 2", "list", ["1000", "2"], ()),
        ("{2, 3}", "list", ["2", "3"], ()), (r"2 \text{ and } 3", "list", ["2", "3"], ()),
        (r"\{1, 2\}", "set", ["1", "2"], ()), (r"\{\}", "set", [], ()),
        ("(1, 2)", "tuple", ["1", "2"], ("(", ")")), (r"\left[0, 1\right)", "tuple", ["0", "1"], ("[", ")")),
        ("]0, 1[", "tuple", ["0", "1"], ("(", ")")), (r"\langle 1,2,3 \rangle", "tuple", ["1", "2", "3"], ("(", ")")),
        ("(1,2), (3,4)", "list", ["(1,2)", "(3,4)"], ()), ("((1,2),3)", "tuple", ["(1,2)", "3"], ("(", ")")),
        ("x = 5", "relation", ["x", "5"], ("=",)), (r"1 < x \leqslant 2", "relation", ["1", "x", "2"], ("<", r"\le")),
        (r"x >= 3", "relation", ["x", "3"], (r"\ge",)), (r"\{x : x > 5\}", "relation", ["x", "5"], (">",)),
        (r"2x = 4 \implies x = 2", "relation", ["x", "2"], ("=",)),
        (r"x \in [0,1]", "relation", ["x", "[0,1]"], (r"\in",)),
        (r"\frac{1}{3} \approx 0.33", "relation", [r"\frac{1}{3}", "0.33"], (r"\approx",)),
        (r"[0,1] \cup (2,3)", "union", ["[0,1]", "(2,3)"], ()),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "matrix", ["1", "2", "3", "4"], ("2x2",)),
        (r"\left[\begin{array}{c|c} 1 & 2 \end{array}\right]", "matrix", ["1", "2"], ("1x2",)),
        (r"\begin{pmatrix} 1 & 2 \\ 3 \end{pmatrix}", "expression", [], ()),
        (r"\begin{cases} x = 1 \\ y = 2 \end{cases}", "list", ["x = 1", "y = 2"], ()),
        ("(1, 2", "expression", [], ()), ("1, 2)", "expression", [], ()),
    ],
)  # fmt: skip
def test_takes_an_answer_apart(text: str, kind: str, parts: list[str], marks: tuple[str, ...]):
    found = shape(text)

    assert (found.kind, [part.text for part in found.parts], found.marks) == (kind, parts, marks)


@given(st.text(alphabet="x1,;()[]{}\\ <=|&$+-", max_size=60))
def test_never_raises(text: str):
    shape(text)


@pytest.mark.parametrize(
    "unit", ["(", "[", "{", "\\{", "()", "(1,", "{}", "1,", "x=", "\\cup ", "\\begin{matrix}", "]1,"]
)
def test_takes_linear_time(unit: str):
    began_s = time.process_time()

    shape(unit * (50_000 // len(unit)))
    shape(unit * 20_000 + ")]}"[len(unit) % 3] * 20_000)
    shape("(" * 20_000 + unit + ")" * 20_000)

    assert time.process_time() - began_s < 2.0


def test_a_very_long_list_stays_in_one_piece():
    assert shape(", ".join("1" * MAX_PARTS)).kind == "list"
    assert shape(", ".join("1" * (MAX_PARTS + 1))).kind == "expression"


def test_a_number_with_commas_can_be_read_as_a_list():
    assert [part.text for part in listed("100,200,300").parts] == ["100", "200", "300"]


def test_spaces_between_letters_or_digits_stay():
    assert squeezed(r" \sin x + 1 ") == r"\sin x+1"
    assert squeezed("7 8") == "7 8"


@pytest.mark.parametrize(
    "name",
    ["x", "x_1", "x_{10}", "f(x)", "f^{-1}(x)", "f'(2)", "AB", "P(X=1)", r"\angle ABC", r"m\angle A", "|z|", "(x, y)",
     "A:B", r"\theta",
     "Area", "[ABC]", r"\text{Area}", r"\overline{AB}", r"\frac{dy}{dx}"],
)  # fmt: skip
def test_names_what_its_right_side_is(name: str):
    assert is_name(name)


@pytest.mark.parametrize("text", ["2x", "x^2", "x+y", r"\frac{a}{b}", r"\sin x", r"\sqrt{x}", "5", "", "a b"])
def test_is_more_than_a_name(text: str):
    assert not is_name(text)


def test_variables_are_letters_with_their_subscripts():
    assert variables(r"x_1 + 2ab - \sin \theta \cdot \pi + \text{cm}") == {"x_1", "a", "b", r"\theta"}
