"""Bringing one answer to one form: exact numbers, units, percent signs, words. Pure string work.

Spacing, sizes and wrappers of LaTeX are dropped; a unit, a percent sign or a number base at the end is taken off and
kept apart. Commas are thousands separators where groups of three fit, else a decimal comma for a single number, else
they separate a list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from distill.text.characters import latin_look_alike, plain_characters

MAX_DIGITS = 2000
"""A longer text is not read as a number here (the symbolic path has limits on time and memory)."""
DECIMALS = Fraction(5, 10**7)
RELATIVE = Fraction(1, 10**5)


@dataclass(frozen=True)
class Reading:
    """An answer in one form. `latex` has no unit, percent sign or wrappers; `number` is its exact value, if it has one.

    `decimal`: the number was written with decimals. `comma_number`: its value if a comma is a decimal comma (`3,5`).
    `words`: an answer of letters only, in lower case (option letters as they are). `look_alike`: a letter was folded.
    """

    latex: str
    number: Fraction | None = None
    decimal: bool = False
    comma_number: Fraction | None = None
    percent: bool = False
    unit: str = ""
    words: str | None = None
    look_alike: str | None = None


@lru_cache(maxsize=8192)
def read(text: str) -> Reading:
    """Bring one answer to its form. Never fails: what it cannot take apart stays in `latex` as it is.

    >>> read("1{,}000").number, read("15\\\\text{ cm}^2").unit, read("10\\\\%").percent
    (Fraction(1000, 1), 'cm^2', True)
    """
    if len(text) < 20 and _PLAIN_INTEGER.fullmatch(text):
        return Reading(text, Fraction(int(text)))
    latex, percent = _without_percent(clean(text))
    latex, unit = _without_unit(latex)
    if not percent and unit is not None:  # 20\% \text{ chance}
        latex, percent = _without_percent(latex)
    number, decimal = _number(latex)
    comma = _comma_number(latex) if number is None else None
    words, folded = _words(latex, text) if number is None and comma is None else (None, None)
    if folded and words:
        latex = words
    return Reading(latex, number, decimal, comma, percent, unit or "", words, folded)


def with_glued_unit(reading: Reading) -> Reading:
    """`5m` as five metres, for use beside a gold that is a plain number; elsewhere the letter is a variable."""
    match = _GLUED_UNIT.fullmatch(reading.latex)
    unit = unit_name(match[2] + (match[3] or "")) if match else ""
    if match is None or not unit:
        return reading
    number, decimal = _number(match[1])
    return replace(reading, latex=match[1], number=number, decimal=decimal, unit=unit)


def same_decimal(a: Fraction, b: Fraction) -> bool:
    """Whether two numbers agree, at least one of which was written with decimals (0.333333 for 1/3).

    They must agree to six decimals, and, so that small numbers are not all zero, to five significant digits.
    """
    difference = abs(a - b)
    return difference <= DECIMALS and difference <= RELATIVE * max(abs(a), abs(b))


def unit_name(word: str) -> str:
    """Canonical name of a unit (`square centimeters`, `sq. cm` and `cm^2` give `cm^2`), "" for words that are none."""
    word = " ".join(word.lower().replace(".", "").split())
    power = _POWER.fullmatch(word)
    if power:
        name = unit_name(power[1])
        return f"{name}^{power[2]}" if name else ""
    for prefix, exponent in (("square ", "^2"), ("sq ", "^2"), ("cubic ", "^3"), ("cu ", "^3")):
        if word.startswith(prefix):
            name = _UNITS.get(word.removeprefix(prefix), "")
            return name + exponent if name else ""
    for division in ("/", " per "):
        top, found, bottom = word.partition(division)
        if found:
            names = (unit_name(top), unit_name(bottom)) if division not in bottom else ("", "")
            return _RATES.get("/".join(names), "/".join(names)) if all(names) else ""
    return _UNITS.get(word, "")


def brace_balance(text: str) -> int:
    """Opening braces less closing ones, escaped braces (of sets) aside."""
    text = text.replace(r"\{", "").replace(r"\}", "")
    return text.count("{") - text.count("}")


def unwrapped(latex: str) -> str:
    """`\\text{Even}` as `Even`, and the same for bold, boxes and other wrappers around the whole."""
    wrapped = _WRAPPED.fullmatch(latex)
    return wrapped[1].strip() if wrapped else latex


# Page layout

_SPACING = re.compile(r"(?<!\\)\\[,;:!> ]|~|\\q?quad(?![a-z])|\\(?:displaystyle|textstyle|limits|phantom)(?![a-z])")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?|middle)(?![a-zA-Z])\.?")
_FRACTIONS = re.compile(r"\\[dtc]frac(?![a-z])")
_WRAPPED = re.compile(
    r"\\(?:boxed|fbox|mathbf|textbf|boldsymbol|mathit|textit|ensuremath|underline|text|mbox)\s*\{([^{}]*)\}"
)
_TEXT = r"\\(?:text|mbox|textrm|textnormal|mathrm)\s*"
_AND = re.compile(rf"\s*,?\s*(?:{_TEXT}\{{\s*,?\s*(?:and|or)\s*,?\s*\}}|\b(?:and|or)\b)\s*")
_GLUED_AND = re.compile(r"(?<=\))(?:and|or)(?=\()")  # (11,7)or(7,11)
_TEXT_COMMA = re.compile(rf"{_TEXT}\{{\s*,\s*\}}")
_GROUPED = re.compile(r"(?<!\\)\{[0-9]{1,3}(?:,[0-9]{3})+\}")  # \frac{1}{29,322,216}
_TOP_BARE = re.compile(r"\\frac\s*([0-9A-Za-z]|\\pi(?![a-z]))")
_LOW = re.compile(r"(\\frac\s*\{[^{}]*\})\s*([0-9A-Za-z]|\\pi(?![a-z]))")
_BARE_FRACTION = re.compile(r"(\^|\\sqrt)\s*(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})")  # x^\frac12
_BRACED_THOUSANDS = re.compile(r"(?<=[0-9])\{,\}(?=[0-9]{3}(?![0-9]))")
_SLIM_THOUSANDS = re.compile(r"(?<=[0-9])(?:,?\s*\\!|\\,)\s*(?=[0-9]{3}(?![0-9]))")
_POWER_STARS = re.compile(r"(?<=[\w)}])\*\*(?=[\w({-])(?=[^*]*$)")
_SPELLINGS = {
    r"\leq": r"\le", r"\leqslant": r"\le", r"\leqq": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", r"\geqq": r"\ge",
    r"\neq": r"\ne", r"\lt": "<", r"\gt": ">", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\colon": ":",
    r"\R": r"\mathbb{R}",
    r"\varnothing": r"\emptyset", r"\dots": r"\ldots", r"\cdots": r"\ldots", r"\ldotp": ".", r"\lparen": "(",
    r"\rparen": ")",
    r"\lbrack": "[", r"\rbrack": "]", r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\land": r"\wedge",
    r"\lor": r"\vee",
    r"\smallsetminus": r"\setminus", r"\backslash": r"\setminus", r"\nobreak": "",
}  # fmt: skip
_COMMAND = re.compile(r"\\[A-Za-z]+")
_PLAIN_SIGNS = re.compile(r"<=|>=|!=|==")
_SIGNS = {"<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "==": "="}
_PLAIN_FUNCTIONS = re.compile(
    r"(?<![\\A-Za-z{])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
)
_PLAIN_INFINITY = re.compile(r"(?<![\\A-Za-z{])(?:infinity|infty|inf|oo)(?![A-Za-z])", re.IGNORECASE)
_PRIME = re.compile(r"\^\s*(?:\{\s*(?:\\prime\s*)\}|\\prime(?![a-z]))")
_ROMAN_SLASH = re.compile(r"\}\s*/\s*\\(?:text|mbox|textrm|textnormal|mathrm)\s*\{\s*")
_CURRENCIES = {"€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee"}
_AMOUNT = r"[0-9][0-9.,]*"
_CURRENCY = re.compile(
    rf"(?P<sign>[-+])?\s*(?:(?P<first>[€£¥₹])\s*(?P<before>{_AMOUNT})|(?P<after>{_AMOUNT})\s*(?P<last>[€£¥₹]))"
)
_MONEY = re.compile(r"\s*([-+]?)\s*\$\s*([-+]?[0-9.][^$A-Za-z]*)")


@lru_cache(maxsize=8192)
def clean(text: str) -> str:
    """Without what only shapes the page: math delimiters, spacing, sizes, bold, a full stop at the end.

    Every sign and function has one spelling after this: `\\leqslant`, `<=` and `≤` are `\\le`, `sin` is `\\sin`.

    >>> clean("$\\\\left( 1, \\\\dfrac12 \\\\right)$."), clean("x <= 3")
    ('( 1, \\\\frac{1}{2} )', 'x \\\\le  3')
    """
    latex = _undoubled(plain_characters(text))
    if "{,}" in latex:
        latex = _BRACED_THOUSANDS.sub("", latex).replace("{,}", ",")
    latex = latex.replace(r"\%", "%")
    if "\\" in latex:
        latex = re.sub(r"(?<!\\)\\[()\[\]]", " ", latex).replace(r"\$", "$")
        latex = _SLIM_THOUSANDS.sub("", latex)
        latex = re.sub(r",\s*\\!\s*", ",", latex)
        latex = _SPACING.sub(lambda m: "" if m[0] in (r"\!", r"\,") else " ", latex)
        latex = _FRACTIONS.sub(r"\\frac", _SIZES.sub("", latex))
        if r"\frac" in latex:
            latex = _LOW.sub(r"\1{\2}", _TOP_BARE.sub(r"\\frac{\1}", latex))
            latex = _BARE_FRACTION.sub(r"\1{\2}", latex)
        latex = _TEXT_COMMA.sub(",", latex)
    latex = _GROUPED.sub(lambda m: m[0].replace(",", ""), latex)
    latex = _POWER_STARS.sub("^", latex).replace("**", "").strip("` \t\n")
    latex = _spelled(latex)
    if "and" in latex or "or" in latex:
        latex = _GLUED_AND.sub(",", _AND.sub(", ", latex))
        latex = re.sub(r"(?:,\s*){2,}", ", ", latex)
    latex = _without_stop(_ROMAN_SLASH.sub("/", latex))
    if not latex.isascii():
        latex = _CURRENCY.sub(
            lambda m: f"{m['sign'] or ''}{m['before'] or m['after']} {_CURRENCIES[m['first'] or m['last']]}", latex
        )
    money = _MONEY.fullmatch(latex)
    latex = f"{money[1]}{money[2]} dollars" if money else latex.replace("$", "")
    latex = re.sub(r"^\s*\\approx\s*", "", latex.strip())
    return unwrapped(_without_stop(latex))


def _without_stop(latex: str) -> str:
    while len(latex) > 1 and latex[-1] in ".;,\\ ":
        latex = latex[:-1].rstrip()
    return latex


def _spelled(latex: str) -> str:
    """One spelling for each sign, function and constant."""
    if "\\" in latex:
        latex = _PRIME.sub("'", _COMMAND.sub(lambda m: _SPELLINGS.get(m[0], m[0]), latex))
    if "=" in latex:
        latex = _PLAIN_SIGNS.sub(lambda m: _SIGNS[m[0]], latex)
    if not latex.isdigit():
        latex = _PLAIN_FUNCTIONS.sub(r"\\\1", _PLAIN_INFINITY.sub(r"\\infty", latex))
    return latex


def _undoubled(latex: str) -> str:
    """`\\\\frac` as `\\frac`, in a text whose every command is doubled (it went through one JSON encoder too many)."""
    if r"\\" in latex and re.search(r"\\\\[A-Za-z]", latex) and not re.search(r"(?<!\\)\\(?:\\\\)*[A-Za-z]", latex):
        return latex.replace(r"\\", "\\")
    return latex


# Percent signs and units

_PERCENT = re.compile(
    r"\s*(?:%|\\?\s?(?:percent(?:age)?|pct)\.?|\\(?:text|mbox)\s*\{\s*(?:%|percent|pct)\s*\})$", re.IGNORECASE
)
_UNITS: dict[str, str] = {}
for _names in (
    "mm millimeter millimetre", "cm centimeter centimetre", "dm decimeter decimetre", "m meter metre",
    "km kilometer kilometre", "in inch inches", "ft foot feet", "yd yard", "mi mile",
    "mg milligram", "g gram gm", "kg kilogram", "t ton tonne", "lb pound", "oz ounce",
    "ml milliliter millilitre", "l liter litre", "gal gallon", "qt quart",
    "ms millisecond", "s sec second", "min minute", "h hr hour", "day", "week", "month", "year",
    "mph", "kmh", "degree deg", "radian rad", "dollar usd", "cent", "euro eur",
    "hz hertz", "khz kilohertz", "mhz megahertz", "ghz gigahertz", "n newton", "j joule", "w watt", "v volt", "am",
    "pm",
    "nm nanometer nanometre", "um micrometer micrometre", "kw kilowatt", "kwh", "kj kilojoule", "cal calorie", "kcal",
    "ev", "kev", "mev", "gev", "pa pascal", "kpa kilopascal", "atm atmosphere", "mol mole", "rpm", "au", "pc parsec",
    "kpc kiloparsec", "mpc megaparsec", "ly lightyear", "erg", "dyne", "ohm", "gauss", "tesla", "kelvin k", "celsius",
    "fahrenheit", "coulomb", "ampere amp", "bit", "byte", "knot", "acre", "hectare", "pint", "cup", "yen", "rupee",
):  # fmt: skip
    _canonical, *_others = _names.split()
    for _name in (_canonical, *_others):
        _UNITS[_name] = _canonical
        _UNITS.setdefault(_name + "s", _canonical)
_RATES = {"mi/h": "mph", "km/h": "kmh"}
_AMBIGUOUS = {
    "g",
    "t",
    "l",
    "s",
    "h",
    "n",
    "j",
    "w",
    "v",
    "m",
    "in",
    "min",
    "deg",
    "rad",
    "k",
    "au",
    "pa",
    "am",
    "ev",
    "um",
    "pc",
}
"""Units that are variables or functions too: without \\text{} they are units only after a space."""
_POWER = re.compile(r"(.*[a-z])\s*\^\s*\{?\s*([23])\s*\}?")
_EXPONENT = r"\s*(?P<power>\^\s*\{?\s*[23]\s*\}?)?"
_UNIT_IN_TEXT = re.compile(
    rf"^(?P<value>.*[0-9A-Za-z}})\]%])\s*\\(?:text|mbox|textnormal|textrm|textit)\s*\{{(?P<unit>[^{{}}]*)\}}{_EXPONENT}$",
    re.DOTALL,
)
_UNIT_IN_ROMAN = re.compile(
    rf"^(?P<value>.*[0-9}})\]])\s*\\(?:mathrm|operatorname)\s*\{{(?P<unit>[^{{}}]*)\}}{_EXPONENT}$", re.DOTALL
)
_UNIT_BARE = re.compile(
    rf"^(?P<value>.*(?:[0-9}})]|\\pi))(?P<space>\s*)(?P<unit>[A-Za-z][A-Za-z ./]*?){_EXPONENT}\.?$", re.DOTALL
)
_DEGREE = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree)\s*[CF]?$")
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")  # the degrees of \sin 30^\circ are no unit
_BASE = re.compile(r"^(-?[0-9]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*([0-9a-z]+)\s*\}?\s*\}|([0-9]))$")
_GLUED_UNIT = re.compile(r"([-+]?[0-9][0-9.,]*)([A-Za-z]+)(\^\s*\{?\s*[23]\s*\}?)?")
_PLAIN = re.compile(r"[-+0-9.,:/ ]+")


def _without_percent(latex: str) -> tuple[str, bool]:
    mark = _PERCENT.search(latex[-40:]) if latex[-1:] in tuple("%tTeE}.") else None
    if mark and latex[: -len(mark[0])].strip():
        return latex[: -len(mark[0])].strip(), True
    return latex, False


def _without_unit(latex: str) -> tuple[str, str | None]:
    """Take a unit or a number base off the end. Words that are no unit we know go too, as ""; None: nothing went."""
    if not latex or len(latex) > 400 or (latex[-1].isdigit() and "_" not in latex and "^" not in latex):
        return latex, None
    base = _BASE.match(latex)
    if base:
        return base[1], f"base {base[2] or base[3]}"
    degree = None if _ANGLE_FUNCTION.search(latex) else _DEGREE.search(latex)
    if degree and latex[: degree.start()].strip():
        return latex[: degree.start()].strip(), "degree"
    for pattern, is_unit in ((_UNIT_IN_TEXT, _in_text), (_UNIT_IN_ROMAN, _in_roman), (_UNIT_BARE, _bare)):
        match = pattern.match(latex)
        if match is not None and brace_balance(match["value"]) == 0 and is_unit(match):
            return match["value"].strip(), unit_name(match["unit"] + (match["power"] or ""))
    return latex, None


def _in_text(match: re.Match[str]) -> bool:
    del match  # whatever words stand in \text{} after a value, they are not part of it
    return True


def _in_roman(match: re.Match[str]) -> bool:
    return bool(unit_name(match["unit"]))  # \mathrm{i} and \mathrm{e} are numbers


def _bare(match: re.Match[str]) -> bool:
    """Whether letters after a value are a unit: `5 cm`, `125 miles`, `12 apples`; not `5x`, `2 ab`."""
    value, word = match["value"], match["unit"].strip().lower().rstrip(".")
    number = _PLAIN.fullmatch(value) is not None
    if unit_name(word):
        return (number or value.endswith(("}", r"\pi"))) and (bool(match["space"]) or word not in _AMBIGUOUS)
    return number and bool(match["space"]) and len(word) >= 3 and "/" not in word


# Numbers

_PLAIN_INTEGER = re.compile(r"[-+]?[0-9]+")
_DIGITS = r"(?:[0-9]{1,3}(?:[ ,][0-9]{3})+|[0-9]+)"
_TIMES_TEN = r"\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*\{?\s*(?P<power>-?[0-9]{1,3})\s*\}?"
_DECIMAL = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<whole>{_DIGITS})?(?P<point>\.[0-9]*)?(?:{_TIMES_TEN}|[eE](?P<exponent>[-+]?[0-9]{{1,3}}))?"
)
_TOP = r"(?:\{\s*(?P<minus>-?)(?P<top>[0-9]+)\s*\}|(?P<digit>[0-9]))"
_BOTTOM = r"\s*(?:\{\s*(?P<below>-?)(?P<bottom>[0-9]+)\s*\}|(?P<under>[0-9]))"
_FRACTION = re.compile(rf"(?P<sign>[-+]?)\s*(?:(?P<whole>[0-9]+)\s*)?\\frac\s*{_TOP}{_BOTTOM}")
_SLASH = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<whole>[0-9]+)\s+)?(?P<top>[0-9]+)\s*/\s*(?P<below>-?)\s*(?P<bottom>[0-9]+)"
)
_REPEATING = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<whole>[0-9]*)\.(?P<before>[0-9]*)\s*"
    r"(?:\\(?:overline|bar)\s*\{\s*(?P<bar>[0-9]+)\s*\}|\((?P<round>[0-9]+)\)"
    r"|\\dot\s*\{?(?P<dot>[0-9])\}?(?P<between>[0-9]*)(?:\\dot\s*\{?(?P<last>[0-9])\}?)?)"
)
_COMMA_DECIMAL = re.compile(r"([-+]?)\s*([0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+)(?:,([0-9]+))?")


def _number(latex: str) -> tuple[Fraction | None, bool]:
    """The exact value of a plain number or fraction, and whether it was written with decimals."""
    if not latex or len(latex) > MAX_DIGITS or not (latex[-1].isdigit() or latex[-1] in "}.)"):
        return None, False
    decimal = _DECIMAL.fullmatch(latex)
    if decimal and (decimal["whole"] or len(decimal["point"] or "") > 1):
        places = (decimal["point"] or ".")[1:]
        digits = re.sub("[ ,]", "", decimal["whole"] or "0")
        value = Fraction(int(digits + places), 10 ** len(places))
        value *= Fraction(10) ** int(decimal["power"] or decimal["exponent"] or 0)
        return (-value if decimal["sign"] == "-" else value), bool(places)
    match = _SLASH.fullmatch(latex) or _FRACTION.fullmatch(latex)
    if match is None:
        return _repeating(latex), False
    part = match.groupdict()
    top, bottom = int(part["top"] or part["digit"]), int(part["bottom"] or part["under"])
    if bottom == 0:
        return None, False
    value = Fraction(top, bottom) * (-1 if bool(part.get("minus")) != bool(part["below"]) else 1)
    value += int(part["whole"] or 0)  # a mixed number: 2\frac58
    return (-value if part["sign"] == "-" else value), False


def _repeating(latex: str) -> Fraction | None:
    """A repeating decimal, exactly: `0.1\\overline{6}` is 1/6."""
    match = _REPEATING.fullmatch(latex)
    if match is None:
        return None
    block = match["bar"] or match["round"] or (match["dot"] + match["between"] + (match["last"] or ""))
    whole, before = match["whole"] or "0", match["before"]
    nines = int("9" * len(block) + "0" * len(before))
    value = Fraction(int(whole + before), 10 ** len(before)) + Fraction(int(block), nines)
    return -value if match["sign"] == "-" else value


def _comma_number(latex: str) -> Fraction | None:
    match = _COMMA_DECIMAL.fullmatch(latex) if len(latex) <= MAX_DIGITS else None
    if match is None:
        return None
    if match[3] is None and match[2].count(".") < 2:
        return None
    value = Fraction(int(match[2].replace(".", "") + (match[3] or "")), 10 ** len(match[3] or ""))
    return -value if match[1] == "-" else value


# Words

_LETTERS = re.compile(r"[^\W\d_][^\W\d_.']*(?:[ '-]+[^\W\d_]+)*\.?")
_LONG_WORD = re.compile(r"[^\W\d_]{4}|[^\W\d_]{3}(?=[ '])|(?<=[ '])[^\W\d_]{3}")
_IN_PARENTHESES = re.compile(
    r"\(?\s*(?:\\(?:text|mathrm|mbox|textbf|textrm|operatorname)\s*\{)?\s*\(?\s*([^(){}\\]*?)\s*\)?\s*\}?\s*\)?\.?"
)


def _words(latex: str, written: str) -> tuple[str | None, str | None]:
    """(the answer as words, the letter that was folded), for letters only, such as a name or an option."""
    inner = _IN_PARENTHESES.fullmatch(latex)
    if inner is None or not inner[1] or not _LETTERS.fullmatch(inner[1]):
        return None, None
    words = inner[1].rstrip(".")
    if len(words) == 1:
        folded = latin_look_alike(words)
        return (folded, f"U+{ord(words):04X} read as {folded}") if folded else (words, None)
    # `xy` can be a product and `R - r` a difference; a name has a longer word, is in capitals, or is marked as text
    capitals = words.isupper() and words.isalpha()
    named = capitals or _LONG_WORD.search(words) or r"\text" in written or r"\mbox" in written
    return (" ".join(words.lower().split()), None) if named else (None, None)
