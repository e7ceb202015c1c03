"""The `math` verifier on made answers and real golds: equal under rewriting, different when changed, fast as slow."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core import jsonl
from distill.text.shapes import shape
from distill.verifiers._equal import Said, equal
from distill.verifiers._numbers import Quick
from distill.verifiers._symbolic import Symbolic, _parse_reading, _same


class Engine(Symbolic):
    """The symbolic engine alone: nothing is decided from numbers or texts before."""

    def expressions(self, gold: str, given: str) -> Said:
        a, b = self.readings(gold, given)
        return _same(_parse_reading(a, True), _parse_reading(b, True))


def said(gold: str, given: str) -> Said:
    """The verdict as the verifier reaches it."""
    quick = equal(shape(gold), shape(given), Quick())
    return equal(shape(gold), shape(given), Symbolic()) if quick is None else quick


# Made answers: a value, written in one of many ways


@dataclass(frozen=True)
class Term:
    """coefficient * x^power * sqrt(root)."""

    coefficient: Fraction
    power: int = 0
    root: int = 1


Value = tuple[str, Any]
_coefficients = st.builds(Fraction, st.integers(-40, 40).filter(bool), st.integers(1, 12))
_numbers = st.builds(lambda c: ("sum", (Term(c),)), _coefficients)
_surds = st.builds(
    lambda a, b, r: ("sum", (Term(a), Term(b, 0, r))), _coefficients, _coefficients, st.sampled_from([2, 3, 5, 7])
)
_polynomials = st.builds(
    lambda terms: ("sum", tuple(Term(c, p) for p, c in sorted(terms.items()))),
    st.dictionaries(st.integers(0, 4), _coefficients, min_size=2, max_size=4),
)
_leaves = st.one_of(_numbers, _surds, _polynomials)
_distinct = st.lists(_numbers, min_size=2, max_size=4, unique_by=repr)
_ends = st.lists(_numbers, min_size=2, max_size=2, unique_by=repr)
_marks = st.sampled_from(["()", "[)", "(]", "[]"])
_values: st.SearchStrategy[Value] = st.one_of(
    _leaves,
    st.builds(lambda kind, parts: (kind, tuple(parts)), st.sampled_from(["list", "set", "tuple"]), _distinct),
    st.builds(lambda ends, marks: ("interval", (tuple(sorted(ends, key=_size)), marks)), _ends, _marks),
    st.builds(lambda cells: ("matrix", tuple(cells)), st.lists(_numbers, min_size=4, max_size=4)),
)  # fmt: skip


def _size(value: Value) -> Fraction:
    return sum((term.coefficient for term in value[1]), Fraction(0))


def write(value: Value, style: random.Random) -> str:
    """One of the many ways in which a value is written in LaTeX."""
    kind, parts = value
    space = style.choice(["", " ", r"\,"])
    left, right = style.choice([("", ""), (r"\left", r"\right"), (r"\bigl", r"\bigr")])
    if kind == "sum":
        terms = list(parts)
        style.shuffle(terms)
        return _plus([_term(term, style) for term in terms], style)
    if kind == "interval":
        (low, high), marks = parts
        return f"{left}{marks[0]}{write(low, style)},{space}{write(high, style)}{right}{marks[1]}"
    texts = [write(part, style) for part in parts]
    if kind == "matrix":
        name = style.choice(["pmatrix", "bmatrix"])
        return rf"\begin{{{name}}}{texts[0]} & {texts[1]}{space}\\ {texts[2]} & {texts[3]}\end{{{name}}}"
    if kind in ("list", "set"):
        style.shuffle(texts)
    joined = f",{' ' if kind == 'list' else space}".join(texts)
    if kind == "list":
        return style.choice([joined, joined, rf"{', '.join(texts[:-1])} \text{{ and }} {texts[-1]}"])
    return rf"{left}\{{{joined}{right}\}}" if kind == "set" else f"{left}({joined}{right})"


def _term(term: Term, style: random.Random) -> str:
    factors = []
    top, bottom = abs(term.coefficient.numerator), term.coefficient.denominator
    if bottom > 1:
        factors.append(rf"\{style.choice(('frac', 'dfrac', 'tfrac'))}{{{top}}}{{{bottom}}}")
    elif top > 1 or (term.power == 0 and term.root == 1):
        factors.append(str(top))
    if term.root > 1:
        factors.append(style.choice([rf"\sqrt{{{term.root}}}", rf"\sqrt {term.root}"]))
    if term.power:
        factors.append("x" if term.power == 1 else style.choice([f"x^{term.power}", f"x^{{{term.power}}}"]))
    return ("-" if term.coefficient < 0 else "+") + style.choice(["", " "]).join(factors)


def _plus(terms: list[str], style: random.Random) -> str:
    text = style.choice(["", " "]).join(terms)
    return text.removeprefix("+")


def change(value: Value, style: random.Random) -> Value:
    """Another value of the same kind."""
    kind, parts = value
    if kind == "sum":
        at = style.randrange(len(parts))
        term = parts[at]
        by = style.choice([Fraction(1), Fraction(-1), Fraction(1, 7), -2 * term.coefficient])
        changed = Term(term.coefficient + by, term.power, term.root)
        return kind, (*parts[:at], changed, *parts[at + 1 :]) if changed.coefficient else (
            *parts[:at],
            *parts[at + 1 :],
            Term(Fraction(99)),
        )
    if kind == "interval":
        ends, marks = parts
        return kind, (ends, style.choice([m for m in ("()", "[)", "(]", "[]") if m != marks]))
    at = style.randrange(len(parts))
    if kind == "tuple" and style.random() < 0.5:
        return kind, (*parts[1:], parts[0])
    if kind in ("list", "set") and style.random() < 0.5:
        return kind, (*parts, ("sum", (Term(Fraction(1000)),)))
    return kind, (*parts[:at], ("sum", (Term(_size(parts[at]) + 1000),)), *parts[at + 1 :])


_styles = st.integers(0, 2**32).map(random.Random)
_made = settings(max_examples=80, deadline=None, derandomize=True)


@_made
@given(_values, _styles)
def test_another_way_of_writing_is_equal(value: Value, style: random.Random):
    gold, answer = write(value, style), write(value, style)

    assert said(gold, answer) is True, (gold, answer)


@_made
@given(_values, _styles)
def test_another_value_is_not_equal(value: Value, style: random.Random):
    gold, answer = write(value, style), write(change(value, style), style)

    assert said(gold, answer) is False, (gold, answer)
    assert said(answer, gold) is False, (answer, gold)


@_made
@given(_values, _values, _styles)
def test_the_fast_path_never_disagrees_with_the_slow_one(value: Value, other: Value, style: random.Random):
    gold = write(value, style)
    for answer in (write(value, style), write(change(value, style), style), write(other, style)):
        quick = equal(shape(gold), shape(answer), Quick())

        assert quick is None or quick == equal(shape(gold), shape(answer), Engine()), (gold, answer)


_NUMBERS = [
    "0", "7", "-7", "16", "016", "1000", "1,000", "0.5", ".5", "1/2", r"\frac{1}{2}", r"\frac12", "-0.5",
    r"-\frac{1}{2}", "0.333333", "1/3",
    "0.3333", "2.625", r"2\frac{5}{8}", "10.0", "10", "12345", "12346", "0.000000001", "0.000000002", "1" + "0" * 30,
    "1" + "0" * 29 + "1",
    r"10\%", "0.1", r"3 \times 10^{4}", "30000", "5 cm", "5",
]  # fmt: skip


@pytest.mark.parametrize("gold", _NUMBERS)
def test_numbers_are_the_same_to_the_engine(gold: str):
    for answer in _NUMBERS:
        assert Quick().expressions(gold, answer) == Engine().expressions(gold, answer), (gold, answer)


# Real golds

_SIZED = {"(": r"\left(", ")": r"\right)"}
REWRITINGS: dict[str, Callable[[str], str]] = {
    "displayed fractions": lambda text: re.sub(r"\\[dt]?frac", r"\\dfrac", text),
    "plain fractions": lambda text: re.sub(r"\\[dt]frac", r"\\frac", text),
    "sized brackets": lambda text: re.sub(r"(?<![a-z])([()])", lambda m: _SIZED[m[1]], text),
    "plain brackets": lambda text: re.sub(r"\\(?:left|right)(?![a-z])", "", text),
    "dollars": lambda text: f"${text}$",
    "round delimiters": lambda text: rf"\( {text} \)",
    "a full stop": lambda text: f"{text}.",
    "space after commands": lambda text: re.sub(r"(\\[A-Za-z]+)(?=[^A-Za-z])", r"\1 ", text),
    "space around signs": lambda text: re.sub(r"(?<=[0-9A-Za-z}])([+=])(?=[0-9A-Za-z\\{])", r" \1 ", text),
}  # fmt: skip


def _golds(shared_data: Path) -> list[str]:
    rows = jsonl.read(shared_data / "math_train" / "math_train.jsonl.gz")
    return sorted({str(row["answer"]) for _, row in rows if row["answer"]})


def test_every_gold_accepts_itself_however_it_is_set(shared_data: Path):
    refused = [
        (name, gold)
        for gold in _golds(shared_data)
        for name, rewritten in REWRITINGS.items()
        if not gold.startswith(r"\text") and said(gold, rewritten(gold)) is not True
    ]

    assert refused == []


def test_different_golds_refuse_each_other_both_ways(shared_data: Path):
    """Neighbours in kind and length. The pairs that agree are those that are the same answer, read by hand."""
    golds = sorted(
        (g for g in _golds(shared_data) if not re.fullmatch(r"-?\d+", g)), key=lambda g: (shape(g).kind, len(g), g)
    )
    draw = random.Random(0)
    agreed, lopsided = set(), set()
    for _ in range(500):
        at = draw.randrange(len(golds) - 6)
        gold, other = golds[at], golds[at + draw.randrange(1, 6)]
        there, back = said(gold, other), said(other, gold)
        if there is not False:
            agreed.add((gold, other))
        if there != back:
            lopsided.add((gold, other))

    assert lopsided == set()
    assert {pair for pair in agreed if "".join(pair[0].split()) != "".join(pair[1].split())} <= SAME


SAME = {
    (r"-\frac 32", r"-\tfrac32"),
    (r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}"),
}
"""Golds of other texts that are the same answer."""


def test_a_changed_gold_is_refused(shared_data: Path):
    """One digit, sign or bracket changed, one term or answer added."""
    golds = [gold for gold in _golds(shared_data) if not re.fullmatch(r"-?\d+", gold)]
    draw = random.Random(1)
    accepted = []
    for _ in range(500):
        gold = draw.choice(golds)
        changed = _changed(gold, draw)
        if changed is not None and said(gold, changed) is not False:
            accepted.append((gold, changed))

    assert accepted == []


def _changed(gold: str, draw: random.Random) -> str | None:
    digits = [m.start() for m in re.finditer(r"[1-9]", gold)]
    signs = [m.start() for m in re.finditer(r"(?<=[0-9a-z}])\s*[+-]", gold)]
    match draw.randrange(5):
        case 0 if digits:
            at = draw.choice(digits)
            return gold[:at] + draw.choice([d for d in "123456789" if d != gold[at]]) + gold[at + 1 :]
        case 1 if signs:
            at = draw.choice(signs)
            return (
                gold[:at]
                + (gold[at:].replace("+", "-", 1) if "+" in gold[at : at + 2] else gold[at:].replace("-", "+", 1))
                + ""
            )
        case 2:
            return f"{gold}+1"
        case 3:
            return f"{gold}, 7777"
        case 4 if gold.startswith("(") and gold.endswith(")") and shape(gold).kind == "tuple":
            return f"[{gold[1:]}" if "infty" not in gold else None
    return None
