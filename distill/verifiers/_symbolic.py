"""The symbolic half of `math`: math-verify's LaTeX grammar, and comparison by value. Runs in worker processes only.

Texts go through a grammar, never through anything that evaluates code. Two expressions are told apart by their values
at fixed points, to 60 digits; they are taken for equal when they agree at all of them and, where that can be decided
exactly (rational functions), their difference is zero. Only points at which both are finite and real count, unless an
imaginary unit was written; with too few of those, `simplify` has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
from sympy.core.function import AppliedUndef

from distill.text.readings import Reading, read, same_decimal
from distill.text.shapes import Shape, shape
from distill.verifiers._equal import Relation, Said, equal
from distill.verifiers._numbers import Quick, is_rounded

DIGITS = 60
"""Values are computed to so many digits; irrational numbers that agree to all but five of them are equal."""
ENOUGH = 4
"""Points at which two formulas must have agreed before they are taken for equal."""
_NORMAL = NormalizationConfig(
    basic_latex=True,
    units=False,  # they are off already; its own rule takes the `t` of `5t` and the `c` of `a + b + c` for units
    malformed_operators=True,
    nits=True,
    boxed="none",
)
_CASED = ConversionConfig(lowercase_symbols=False)  # R - r is not 0
_UNREADABLE = re.compile(
    r"\\ldots|\.\.\.|(?<![_^0-9.])[0-9.]+\s+[0-9]|\\(?:def|let|newcommand|input|include|write|catcode|csname|loop|repeat)(?![A-Za-z])"
)
"""What the grammar would read as something else: `1, 2, \\ldots`, `7 8` (as 15), macros."""
_PRIME = re.compile(r"([A-Za-z])('+)")
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?|[A-Za-z])\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))")
_I, _E = sympy.Symbol("i"), sympy.Symbol("e")


def compare(task: dict[str, Any]) -> dict[str, bool]:
    """Compare {"gold": text, "given": text, "percent": bool}. Says whether they are equal and `given` could be read."""
    leaves = Symbolic(percent_strict=task["percent"])
    said = equal(shape(task["gold"]), shape(task["given"]), leaves)
    return {"equal": said is True, "readable": said is True or leaves.readable(shape(task["given"]))}


class Symbolic(Quick):
    """Compares leaves by meaning. What numbers and texts decide, they decide here too (`Quick`)."""

    def expressions(self, gold: str, given: str) -> Said:
        said = super().expressions(gold, given)
        if said is not None:
            return said
        a, b = self.readings(gold, given)
        return _same(_parse_reading(a, self.percent_strict), _parse_reading(b, self.percent_strict))

    def rounds(self, exact: str, rough: str) -> Said:
        said = super().rounds(exact, rough)
        if said is not None:
            return said
        answer = shape(exact)
        value = _parse_reading(read(answer.parts[-1].text if answer.kind == "relation" else exact), True)
        if not isinstance(value, sympy.Expr) or value.free_symbols:
            return False
        number = sympy.N(value, DIGITS)
        return bool(number.is_real) and _finite(number) and is_rounded(_fraction(number), rough)

    def relations(self, gold: Sequence[Relation], given: Sequence[Relation]) -> Said:
        if len(gold) != len(given) or not gold:
            return False
        left = list(given)
        for a in gold:
            partner = next((b for b in left if _same_relation(a, b)), None)
            if partner is None:
                return False
            left.remove(partner)
        return True

    def sets(self, gold: str, given: str) -> Said:
        a, b = _as_set(gold), _as_set(given)
        return a is not None and b is not None and _same_set(a, b)

    def solutions(self, gold: Sequence[Relation], given: str) -> Said:
        found, other = _solutions(gold), _as_set(given)
        return found is not None and other is not None and _same_set(found, other)

    def readable(self, answer: Shape) -> bool:
        """Whether an answer is mathematics or plain words."""
        if answer.kind in ("expression", "matrix"):
            reading = read(answer.text)
            known = reading.number is not None or reading.words is not None
            return known or _parse(reading.latex) is not None
        return all(self.readable(part) for part in answer.parts)


# Reading


def _parse_reading(reading: Reading, percent_strict: bool) -> Any | None:
    value = _parse(reading.latex)
    return value / 100 if value is not None and reading.percent and percent_strict else value


@lru_cache(maxsize=512)
def _parse(latex: str) -> Any | None:
    """The sympy object for a LaTeX text; None for what is not mathematics."""
    latex = _DEGREES.sub(r"(\1 \\cdot \\frac{\\pi}{180})", latex)
    text = _PRIME.sub(lambda m: f"{m[1]}_{{{'p' * len(m[2])}}}", latex.replace("$", ""))
    if not text.strip() or _UNREADABLE.search(text):
        return None
    try:
        value = latex2sympy(text, is_real=None, normalization_config=_NORMAL, conversion_config=_CASED)
        return _known_constants(value)
    except MemoryError:
        raise
    except Exception:  # whatever the grammar or sympy stumble over, the text is no mathematics to us
        return None


def _known_constants(value: Any) -> Any:
    """With i and e as the constants, unless a sum or product runs over them, and decimals as exact fractions."""
    if not isinstance(value, sympy.Basic | sympy.MatrixBase):
        return None
    value = value.xreplace({s: sympy.Symbol(s.name) for s in value.free_symbols if isinstance(s, sympy.Symbol)})
    return value.subs({_I: sympy.I, _E: sympy.E})


# Expressions


def _same(a: Any | None, b: Any | None) -> bool:
    if a is None or b is None:
        return False
    if isinstance(a, sympy.MatrixBase | sympy.MatrixExpr) or isinstance(b, sympy.MatrixBase | sympy.MatrixExpr):
        return _same_matrix(a, b)
    if isinstance(a, sympy.Set) and isinstance(b, sympy.Set):
        return _same_set(a, b)
    if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr)):
        return bool(a == b)
    return _same_value(a, b)


def _same_matrix(a: Any, b: Any) -> bool:
    a, b = (x.doit() for x in (a, b))
    if not (isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase)) or a.shape != b.shape:
        return False
    return all(_same_value(x, y) for x, y in zip(a.flat(), b.flat(), strict=True))


def _same_value(a: sympy.Expr, b: sympy.Expr) -> bool:
    decimal = a.has(sympy.Float) or b.has(sympy.Float)
    a, b = (_rational(_without_functions(x.doit())) for x in (a, b))
    if a == b:
        return not a.has(sympy.nan, sympy.zoo)
    if a.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) or b.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return False
    if a.is_Rational and b.is_Rational:
        return decimal and same_decimal(_fraction(a), _fraction(b))
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols:
        return _same_constant(a, b, decimal)
    return _same_formula(a, b, symbols)


def _rational(value: Any) -> Any:
    """Decimals as the fractions that they were written as."""
    return value.xreplace({number: sympy.Rational(str(number)) for number in value.atoms(sympy.Float)})


def _without_functions(value: Any) -> Any:
    """`f(2)` and `P(A)` as symbols of their own: only equal texts are equal."""
    found = value.atoms(AppliedUndef)
    return value.xreplace({call: sympy.Symbol(f"{call}") for call in found}) if found else value


def _same_constant(a: sympy.Expr, b: sympy.Expr, decimal: bool) -> bool:
    low, high = sympy.N(a, DIGITS), sympy.N(b, DIGITS)
    if not (low.is_number and high.is_number) or not (_finite(low) and _finite(high)):
        return bool(sympy.simplify(a - b) == 0)
    if decimal and low.is_real and high.is_real:
        return same_decimal(_fraction(low), _fraction(high))
    return _close(low, high) and not _nonzero_exactly(a - b)


def _fraction(number: Any) -> Fraction:
    exact = sympy.Rational(number)
    return Fraction(int(exact.p), int(exact.q))


def _same_formula(a: sympy.Expr, b: sympy.Expr, symbols: Sequence[Any]) -> bool:
    agreed = 0
    for x, y in _values_at_points((a, b), symbols):
        if not _close(x, y):
            return False
        agreed += 1
    if agreed >= ENOUGH:
        return not _nonzero_exactly(a - b)
    return bool(sympy.simplify(a - b) == 0)


def _values_at_points(formulas: Sequence[sympy.Expr], symbols: Sequence[Any]) -> Iterator[list[Any]]:
    """The values of the formulas at each point where all of them are finite, and real unless one has an i in it."""
    imaginary = any(formula.has(sympy.I) for formula in formulas)
    for point in _points(len(symbols)):
        at = dict(zip(symbols, point, strict=True))
        values = [sympy.N(formula.subs(at), DIGITS) for formula in formulas]
        if all(value.is_number and _finite(value) for value in values):
            values = [_real_part(value) for value in values]
            if imaginary or all(value.is_real for value in values):
                yield values


def _points(count: int) -> Iterator[list[Any]]:
    """Fixed points: whole numbers, positive fractions, and fractions of both signs."""
    primes = [3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41]
    for turn in range(3):
        yield [sympy.Integer(2 + (index * 7 + turn * 3) % 19) for index in range(count)]
    for turn in range(4):
        yield [
            sympy.Rational(primes[(index + turn) % 12] + turn, 8 + 3 * ((index * 5 + turn) % 7))
            for index in range(count)
        ]
    for turn in range(6):
        yield [
            sympy.Rational(primes[(index * 3 + turn) % 12], 9 + 2 * ((index + turn) % 5))
            * (-1) ** ((turn >> index % 3) + index)
            for index in range(count)
        ]


def _finite(value: Any) -> bool:
    return not value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo)


def _real_part(value: Any) -> Any:
    """Without an imaginary part that is only rounding."""
    real, imaginary = value.as_real_imag()
    return real if abs(imaginary) <= abs(real) * sympy.Float(10) ** (8 - DIGITS) else value


def _close(a: Any, b: Any) -> bool:
    return bool(abs(a - b) <= max(abs(a), abs(b)) * sympy.Float(10) ** (5 - DIGITS))


def _nonzero_exactly(difference: Any) -> bool:
    """Whether a difference that looks like zero is a rational function, and not zero: x + 1/2004! less x + 1/2006!."""
    if difference.is_Rational:
        return bool(difference != 0)
    if difference.free_symbols and difference.is_rational_function() and not difference.has(sympy.pi, sympy.E):
        return bool(sympy.cancel(sympy.together(difference)) != 0)
    return False


# Relations


def _same_relation(a: Relation, b: Relation) -> bool:
    if a.sign != b.sign:
        return False
    if a.sign not in ("=", r"\ne", "<", r"\le"):
        return equal(a.left, b.left, Symbolic(True)) is True and equal(a.right, b.right, Symbolic(True)) is True
    first, second = _difference(a), _difference(b)
    if first is None or second is None:
        return False
    ordered = a.sign in ("<", r"\le")
    if not ordered and first.is_rational_function() and second.is_rational_function():
        first, second = (sympy.numer(sympy.together(x)) for x in (first, second))  # x = 1/y is xy = 1
    return _proportional(first, second, positive=ordered)


def _difference(relation: Relation) -> Any | None:
    """Left less right, as one formula."""
    left, right = _parse(read(relation.left.text).latex), _parse(read(relation.right.text).latex)
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return None
    return _rational(_without_functions((left - right).doit()))


def _proportional(a: Any, b: Any, *, positive: bool) -> bool:
    """Whether a = c b for a number c other than zero, above zero if so wanted."""
    if a.free_symbols != b.free_symbols or not a.free_symbols or not (_finite(a) and _finite(b)):
        return False  # 1 = 1 and 2 = 2 are no answers
    ratio, agreed = None, 0
    for x, y in _values_at_points((a, b), sorted(a.free_symbols, key=str)):
        if x == 0 or y == 0:
            if x != y:
                return False
            continue
        if ratio is None:
            ratio = x / y
        if not _close(x, ratio * y):
            return False
        agreed += 1
    return agreed >= ENOUGH and ratio is not None and (not positive or bool(ratio.is_real and ratio > 0))


# Sets


def _as_set(text: str) -> Any | None:
    """The set of numbers that a text describes: intervals, unions, finite sets, \\mathbb{R} less points."""
    answer = shape(text)
    if answer.kind in ("set", "tuple"):
        parts = [_parse(read(part.text).latex) for part in answer.parts]
        if not all(isinstance(part, sympy.Expr) for part in parts):
            return None
        parts = [_rational(part) for part in parts]
        if answer.kind == "set":
            return sympy.FiniteSet(*parts)
        opened, closed = answer.marks
        return sympy.Interval(*parts, opened == "(", closed == ")") if len(parts) == 2 else None
    if answer.kind == "union":
        found = [_as_set(part.text) for part in answer.parts]
        return None if any(part is None for part in found) else sympy.Union(*found)
    value = _parse(answer.text)
    if not isinstance(value, sympy.Set):
        return None
    finite = {
        part: sympy.FiniteSet(*part.args) for part in value.atoms(sympy.FiniteSet)
    }  # the grammar has its own kind
    return _rational(value.xreplace(finite)).doit()


def _same_set(a: Any, b: Any) -> bool:
    if a == b:
        return True
    try:
        return bool(a.symmetric_difference(b).is_empty)
    except (TypeError, ValueError, NotImplementedError, AttributeError):  # sets that sympy cannot subtract
        return False


def _solutions(relations: Sequence[Relation]) -> Any | None:
    """The real numbers that satisfy all the relations, which have one variable in common."""
    found = sympy.S.Reals
    for relation in relations:
        difference = _difference(relation)
        if difference is None or len(difference.free_symbols) != 1:
            return None
        x = sympy.Symbol("x", real=True)
        difference = difference.xreplace({next(iter(difference.free_symbols)): x})
        held = {
            "<": difference < 0,
            r"\le": difference <= 0,
            r"\ne": sympy.Ne(difference, 0),
            "=": sympy.Eq(difference, 0),
        }
        if relation.sign not in held:
            return None
        try:
            found = found.intersect(held[relation.sign].as_set())
        except (TypeError, ValueError, NotImplementedError, AttributeError):  # relations that sympy cannot solve
            return None
    return found


# Warms grammar and arithmetic before a worker forks its first child: no answer pays for their start. The grammar's
# parser learns each kind of expression when it first meets it, at tens of milliseconds a kind.
for _gold, _given in (
    ("x", r"\frac{1}{2}"),
    (r"a + 2b", r"2\left(b + \frac{a}{2}\right)"),
    (r"(\frac{1}{5},1)\cup(7,\infty)", r"x \in (0, 1)"),
    (r"\begin{pmatrix} 1 \\ 5 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}"),
    (r"3 - 5i", r"\sqrt{7}i + 2"),
    (r"\frac{5+2\sqrt{7}}{7}", r"\sqrt{35} + 4\sqrt{11}"),
    (r"\cos^2 u", r"1 - \sin^2 u"),
    (r"2u - v + w - 9 = 0", r"[ P(u - (-1)) + Q(v - 1) = 0 ]"),
    (r"e^{2x} \ln 5", r"\log_{2} 9 \cdot \pi^{-1}"),
    (r"x^{3} - 4x + 1 \le 5", r"\lvert x \rvert < 3"),
    ("0", "[reply]"),
):
    compare({"gold": _gold, "given": _given, "percent": True})
