"""Reading answers: exact numbers, separators, units, percent signs, look-alike characters."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.characters import plain_characters
from distill.text.readings import read, same_decimal, unit_name, with_glued_unit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("391", 391), ("-5", -5), ("016", 16), ("+7", 7), ("1000.0", 1000), (".185", Fraction("0.185")), ("7.", 7),
        ("1,000", 1000), ("1{,}000", 1000), (r"1\,000", 1000), ("1 000", 1000), (r"11,\! 111,\! 111", 11111111),
        ("1/2", Fraction(1, 2)), (r"\frac12", Fraction(1, 2)), (r"-\dfrac{1}{2}", Fraction(-1, 2)),
        (r"\frac{-1}{2}", Fraction(-1, 2)), (r"\frac{-1}{-2}", Fraction(1, 2)),
        (r"2\frac58", Fraction(21, 8)), ("2 1/2", Fraction(5, 2)), (r"-1\frac{1}{2}", Fraction(-3, 2)),
        (r"1.5 \times 10^{3}", 1500), ("5e-3", Fraction(1, 200)), (r"2\cdot10^2", 200),
        ("$7$", 7), (r"\(7\)", 7), (r"\[ 7 \]", 7), ("**7**", 7), (r"\mathbf{7}", 7), (r"\boxed{7}", 7),
        ("−5", -5), ("１２", 12), ("٤٢", 42), ("½", Fraction(1, 2)), ("2½", Fraction(5, 2)), ("1⁄2", Fraction(1, 2)),
        ("5\u200b", 5), ("\ufeff5", 5), (r"\approx 8.24", Fraction("8.24")),
    ],
)  # fmt: skip
def test_reads_plain_numbers_exactly(text: str, value: Fraction | int):
    assert read(text).number == value


@pytest.mark.parametrize(
    "text", ["x", "5x", "1/0", "1/2/3", "3, 5", "3,5", "1,2,3", "(1,2)", "2^{10}", "--5", "", "1,00"]
)
def test_anything_else_is_no_number(text: str):
    assert read(text).number is None


@given(st.integers())
def test_an_integer_is_read_as_itself_with_and_without_separators(number: int):
    assert read(str(number)).number == number
    assert read(f"{number:,}").number == number


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_is_read_as_itself(value: Fraction):
    assert read(f"\\frac{{{value.numerator}}}{{{value.denominator}}}").number == value
    assert read(f"{value.numerator}/{value.denominator}").number == value


@pytest.mark.parametrize(
    ("text", "value"), [("1000,99", "1000.99"), ("1.234,56", "1234.56"), ("3,5", "3.5"), ("-2,74", "-2.74")]
)
def test_a_comma_can_be_a_decimal_comma(text: str, value: str):
    assert read(text).comma_number == Fraction(value)
    assert read(text).number is None


@pytest.mark.parametrize(
    ("text", "latex", "unit"),
    [
        ("5 cm", "5", "cm"), ("5 m", "5", "m"), (r"5\text{ m}", "5", "m"), (r"15\mbox{ cm}^2", "15", "cm^2"),
        ("15 cm^2", "15", "cm^2"), (r"15~\mathrm{cm}^{2}", "15", "cm^2"),
        (r"428\text{ square centimeters}", "428", "cm^2"),
        (r"90^\circ", "90", "degree"), (r"90^{\circ}", "90", "degree"), ("90°", "90", "degree"),
        ("90 degrees", "90", "degree"),
        (r"\$16386.17", "16386.17", "dollar"), ("$10", "10", "dollar"), ("-$5", "-5", "dollar"),
        (r"1.85\ \text{USD}", "1.85", "dollar"),
        ("125$ miles", "125", "mi"), (r"12\sqrt{13}\text{ feet}", r"12\sqrt{13}", "ft"),
        ("1112112_3", "1112112", "base 3"),
        ("-37_8", "-37", "base 8"), (r"\frac{1}{29,\!322,\!216}", r"\frac{1}{29322216}", ""),
        ("12 apples", "12", ""), (r"17\text{ any text}", "17", ""), (r"34\text{ sq. units}", "34", ""),
        ("5x", "5x", ""), ("5m", "5m", ""), (r"3\mathrm{i}", r"3\mathrm{i}", ""),
        (r"1-\frac{1}{\mathrm{e}}", r"1-\frac{1}{\mathrm{e}}", ""),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", ""),
    ],
)  # fmt: skip
def test_takes_units_off(text: str, latex: str, unit: str):
    assert (read(text).latex, read(text).unit) == (latex, unit)


def test_a_glued_letter_is_a_unit_only_on_request():
    assert with_glued_unit(read("1,000.99m²")).number == Fraction("1000.99")
    assert with_glued_unit(read("1,000.99m²")).unit == "m^2"
    assert with_glued_unit(read("5x")) == read("5x")


@pytest.mark.parametrize(
    "text",
    ["28%", r"28\%", "28 %", "28 percent", "28 pct", "28 percentage", r"28\text{ percent}", r"28\%\text{ chance}"],
)
def test_takes_percent_signs_off(text: str):
    reading = read(text)

    assert (reading.number, reading.percent) == (28, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"\text{Even}", "even"), ("Even", "even"), ("(C)", "C"), (r"\text{(C)}", "C"),
        (r"\textbf{A}", "A"), ("A.", "A"),
        (r"\text{two lines}", "two lines"), (r"\text{CBAD}", "cbad"), ("ABCD", "abcd"), ("x", "x"),
        ("xy", None), ("x+1", None), ("A, B", None), (r"\pi", None),
    ],
)  # fmt: skip
def test_reads_names_and_option_letters(text: str, words: str | None):
    assert read(text).words == words


def test_a_look_alike_letter_is_read_and_named():
    reading = read("\u0410")  # Cyrillic

    assert (reading.words, reading.look_alike) == ("A", "U+0410 read as A")
    assert read("A").look_alike is None


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("x²", "x^{2}"),
        ("10⁻³", "10^{-3}"),
        ("a₁", "a_{1}"),
        ("3×4", r"3\times 4"),
        ("π", r"\pi "),
        ("ASCII stays", "ASCII stays"),
    ],
)
def test_look_alikes_get_their_plain_form(text: str, plain: str):
    assert plain_characters(text) == plain


def test_lists_are_joined_by_commas():
    assert read(r"2, 3, \text{ and } 4").latex == "2, 3, 4"
    assert read(r"6, 8\text{, and }10").latex == "6, 8, 10"
    assert read("(11,7)or(7,11)").latex == "(11,7), (7,11)"


def test_commands_that_were_escaped_twice_are_read_once():
    assert read(r"\\frac{1}{2}").number == Fraction(1, 2)
    assert read(r"\begin{pmatrix} 1 \\ x \end{pmatrix}").latex == r"\begin{pmatrix} 1 \\ x \end{pmatrix}"


@given(st.text(max_size=100))
def test_never_raises(text: str):
    read(text)


@pytest.mark.parametrize(
    ("decimal", "exact", "same"),
    [
        ("0.333333", "1/3", True), ("0.083333", "1/12", True), ("0.33", "1/3", False), ("0.3333", "1/3", False),
        ("0.000000001", "0.000000002", False), ("16386.17", "16386.16", False), ("1234567.1", "1234567.2", False),
        ("0", "0.0000001", False),
    ],
)  # fmt: skip
def test_a_decimal_stands_for_what_it_agrees_with(decimal: str, exact: str, same: bool):
    assert same_decimal(Fraction(decimal), Fraction(exact)) is same


def test_unit_names():
    assert unit_name("sq. cm") == unit_name("square centimeters") == unit_name("cm^2") == "cm^2"
    assert unit_name("apples") == ""
