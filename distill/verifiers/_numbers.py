"""What numbers and texts decide without a symbolic engine: exact fractions, units, percent signs, names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from distill.text.readings import Reading, read, same_decimal, with_glued_unit
from distill.text.shapes import squeezed
from distill.verifiers._equal import Relation, Said

_CLOCK = re.compile(r"[0-9]{1,2}:[0-5][0-9](?::[0-5][0-9])?")


class Quick:
    """Compares leaves (`distill.verifiers._equal.Leaves`) as numbers and texts; None where that does not decide."""

    def __init__(self, percent_strict: bool = True) -> None:
        self.percent_strict = percent_strict

    def expressions(self, gold: str, given: str) -> Said:
        """Whether two answers without further shape are the same."""
        return self.explain(gold, given)[0]

    def explain(self, gold: str, given: str) -> tuple[Said, str]:
        """Whether they are the same, and why."""
        a, b = self.readings(gold, given)
        look_alike = f" ({b.look_alike})" if b.look_alike else ""
        if a.unit and b.unit and a.unit != b.unit:
            return False, "another unit"
        same_sign = not self.percent_strict or a.percent == b.percent
        if same_sign and squeezed(a.latex) == squeezed(b.latex) and b.latex:
            return True, "same text" + look_alike
        if a.words is not None and b.words is not None:
            return (True, "same text" + look_alike) if a.words == b.words else (False, "another text" + look_alike)
        if _CLOCK.fullmatch(a.latex) and _CLOCK.fullmatch(b.latex):  # 1:10 is not 2:20, as a ratio would be
            return False, "another time"
        said = self._as_numbers(a, b, same_sign)
        if said is not None:
            return said, "same number" if said else "another number"
        if (a.number is not None and _is_word(b)) or (_is_word(a) and b.number is not None):
            return False, "another kind of answer"
        return None, ""

    def readings(self, gold: str, given: str) -> tuple[Reading, Reading]:
        """Both answers in one form; a letter glued to a number is a unit beside a number or a unit."""
        a, b = read(gold), read(given)
        if a.number is not None and b.number is None:
            b = with_glued_unit(b)
        return a, b

    def rounds(self, exact: str, rough: str) -> Said:
        a, b = read(exact).number, read(rough).number
        if b is None:
            return False
        return None if a is None else is_rounded(a, rough)

    def relations(self, gold: Sequence[Relation], given: Sequence[Relation]) -> Said:
        del gold, given  # even equal texts are found before, part by part
        return None

    def sets(self, gold: str, given: str) -> Said:
        return True if squeezed(gold) == squeezed(given) else None

    def solutions(self, gold: Sequence[Relation], given: str) -> Said:
        del gold, given
        return None

    def _as_numbers(self, gold: Reading, given: Reading, same_sign: bool) -> Said:
        """Whether two numbers are the same; None if one side is no number."""
        if gold.number is not None and given.number is not None:
            left, right = gold.number, given.number
        elif gold.number is not None and given.comma_number is not None:
            left, right = gold.number, given.comma_number
        elif gold.comma_number is not None and given.number is not None:
            left, right = gold.comma_number, given.number
        else:
            return None
        decimal = gold.decimal or given.decimal or gold.comma_number is not None or given.comma_number is not None
        if same_sign and _same(left, right, decimal):
            return True
        if gold.percent != given.percent:
            return _same(_scaled(left, gold.percent), _scaled(right, given.percent), decimal)
        return False


def is_rounded(exact: Fraction, rough: str) -> bool:
    """Whether a decimal is a number rounded to the places that the decimal has."""
    reading = read(rough)
    places = len(reading.latex.partition(".")[2])
    return reading.number is not None and abs(exact - reading.number) * 2 * 10**places <= 1


def _same(left: Fraction, right: Fraction, decimal: bool) -> bool:
    return left == right or (decimal and same_decimal(left, right))


def _scaled(value: Fraction, percent: bool) -> Fraction:
    return value / 100 if percent else value


def _is_word(reading: Reading) -> bool:
    return reading.words is not None and len(reading.words) > 1
