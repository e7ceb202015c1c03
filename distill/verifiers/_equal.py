"""Whether two answers are the same, by their shapes: the policies on lists, sets, tuples, intervals, names, relations.

The same rules serve two callers, which differ in how they compare the expressions at the ends: quickly, from exact
numbers and texts, in this process, or with a symbolic engine in a worker. A quick comparison may say None, "this needs
the engine"; whatever else it says, the engine's comparison says too, because both walk through the rules below.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from distill.text.readings import read
from distill.text.shapes import Shape, is_name, listed, shape, squeezed, variables

T = TypeVar("T")
Said = bool | None
"""Equal, different, or not known without a symbolic engine."""
_ORDER = {"<", r"\le", ">", r"\ge"}
_FLIPPED = {">": "<", r"\ge": r"\le"}
_SET_COMMANDS = (r"\mathbb", r"\emptyset", r"\setminus", r"\cap", r"\cup")
_ROUGH = (r"\approx",)
_VECTOR = (("(", ")"), ("[", "]"))
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln)(?![a-z])")
_EXPANSION_LIMIT = 64


class Leaves(Protocol):
    """How what has no further shape is compared. Texts are `Shape.text`; the gold comes first."""

    def expressions(self, gold: str, given: str) -> Said:
        """Whether two expressions, numbers or texts are the same."""

    def rounds(self, exact: str, rough: str) -> Said:
        """Whether a decimal is an exact value, rounded to as many places as it has."""

    def relations(self, gold: Sequence[Relation], given: Sequence[Relation]) -> Said:
        """Whether two conjunctions of relations say the same."""

    def sets(self, gold: str, given: str) -> Said:
        """Whether two sets of numbers, written with unions, differences or names, are the same."""

    def solutions(self, gold: Sequence[Relation], given: str) -> Said:
        """Whether the set `given` is what the relations `gold` in one variable describe."""


@dataclass(frozen=True)
class Relation:
    """`left sign right`, the sign one of `=`, `<`, `\\le`, `\\ne`, `\\in`, `\\equiv`."""

    left: Shape
    sign: str
    right: Shape


@dataclass(frozen=True)
class _Item:
    """One of several answers: a value, and its name where it was written as `name = value`."""

    name: str | None
    value: Shape


def equal(gold: Shape, given: Shape, leaves: Leaves) -> Said:
    """Whether the answer `given` is the answer `gold`. Not symmetric: only a gold inequality accepts an interval."""
    if gold.marks == _ROUGH:
        return _some(equal(value, given, leaves) for value in gold.parts)
    if given.marks == _ROUGH:
        exact, rough = given.parts
        said = equal(gold, exact, leaves)
        return (
            said if said is not False else _every((equal(gold, rough, leaves), leaves.rounds(exact.text, rough.text)))
        )
    golds, givens = _items(gold), _items(given)
    gold_named, given_named = (_all_named(items) for items in (golds, givens))
    if gold_named and given_named:
        if len(golds) == len(givens) == 1:
            return _one_named(golds[0], givens[0], gold, given, leaves)
        return _matched(_groups(golds), _groups(givens), lambda a, b: _same_group(a, b, leaves))
    if gold_named or given_named:
        return _names_dropped(golds, givens, gold, given, leaves)
    if gold.kind == "relation" and given.kind not in ("relation", "list"):
        return _relation_as_set(_atoms(gold), given, leaves)
    if given.kind == "relation" and gold.kind not in ("relation", "list"):
        value = _evaluation(given)
        return False if value is None else _one(gold, value, leaves)
    return _values([item.value for item in golds], [item.value for item in givens], gold, given, leaves)


# Names


def _items(answer: Shape) -> list[_Item]:
    """The answers in a text: `x = 1, 2` is two of that name, `\\pm 3` is two without one."""
    parts = answer.parts if answer.kind == "list" else (answer,)
    items: list[_Item] = []
    name: str | None = None
    for part in parts:
        item = _named(part)
        if item.name is None and name and part.kind not in ("relation", "list"):
            item = _Item(name, item.value)
        name = item.name
        letters = [squeezed(letter) for letter in (name or "").strip("()").split(",")]
        if len(letters) > 1 and item.value.kind == "tuple" and len(letters) == len(item.value.parts):
            items += [_Item(letter, value) for letter, value in zip(letters, item.value.parts, strict=True)]
            continue  # (x, y) = (1, 2)
        listed_in = part.kind == "relation" and part.marks[-1] == r"\in" and item.value.kind == "set"
        values = item.value.parts if item.name and listed_in else (item.value,)  # x \in \{1, 2\}
        items += [_Item(item.name, each) for value in values for each in _signs(value)]
    return items if len(items) <= _EXPANSION_LIMIT else [_Item(None, answer)]


def _named(part: Shape) -> _Item:
    """`x = ... = 5` as x and 5; `x \\in [0, 1]` as x and the interval."""
    if part.kind != "relation" or not set(part.marks) <= {"=", r"\in"} or len(part.parts) < 2:
        return _Item(None, part)
    if part.marks[-1] == r"\in" and len(part.parts) > 2:
        return _Item(None, part)
    first = part.parts[0].text
    if is_name(first) and read(first).number is None:
        return _Item(squeezed(first), part.parts[-1])
    return _Item(None, part)


def _all_named(items: Sequence[_Item]) -> bool:
    return bool(items) and all(item.name is not None for item in items)


def _one_named(a: _Item, b: _Item, gold: Shape, given: Shape, leaves: Leaves) -> Said:
    if a.name == b.name or _both_define(a, b):
        return _one(a.value, b.value, leaves)
    if gold.marks == given.marks == ("=",):  # y = 2x and 2x = y, x = y/2: equations in the same letters
        return leaves.relations(_atoms(gold), _atoms(given))
    return False


def _both_define(a: _Item, b: _Item) -> bool:
    """`y = 2x + 3` and `f(x) = 2x + 3` define the same; `x = 5` and `y = 5` do not."""
    if a.name is None or b.name is None or ("(" in a.name) == ("(" in b.name):
        return False
    function, letter = (a, b) if "(" in a.name else (b, a)
    assert function.name is not None and letter.name is not None
    argument = function.name.partition("(")[2].rstrip(")")
    return len(letter.name) == 1 and letter.name != argument and is_name(argument) and not argument.isupper()


def _groups(items: Sequence[_Item]) -> list[dict[str, Shape]]:
    """`p = 5, q = 2, p = 7, q = 2` as two solutions: a new one begins where a name comes again."""
    groups: list[dict[str, Shape]] = [{}]
    for item in items:
        name = item.name or ""
        if name in groups[-1]:
            groups.append({})
        groups[-1][name] = item.value
    return groups


def _same_group(a: dict[str, Shape], b: dict[str, Shape], leaves: Leaves) -> Said:
    if a.keys() != b.keys():
        return False
    return _every(_one(a[name], b[name], leaves) for name in a)


def _names_dropped(golds: Sequence[_Item], givens: Sequence[_Item], gold: Shape, given: Shape, leaves: Leaves) -> Said:
    """One side has names and the other has not: its values count, in order where they have different names."""
    named, plain, other = (golds, givens, given) if _all_named(golds) else (givens, golds, gold)
    if other.kind == "relation":  # `x = 5` beside `2x = 10`, `x \in [0, 1)` beside `0 \le x < 1`
        if named is givens and given.kind == "relation" and given.marks[-1] == r"\in":
            return _relation_as_set(_atoms(gold), givens[0].value, leaves)
        return leaves.relations(_atoms(gold), _atoms(given)) if gold.kind == given.kind == "relation" else False
    groups = _groups(named)
    several = len({_letter(item.name or "") for item in named}) > 1
    if not several:
        return _values([i.value for i in golds], [i.value for i in givens], gold, given, leaves)
    rows = [list(group.values()) for group in groups]
    if len(rows) > 1:  # p = 5, q = 2, p = 7, q = 2 beside (5, 2), (7, 2)
        tuples = [Shape("tuple", ", ".join(v.text for v in row), tuple(row), ("(", ")")) for row in rows]
        plain_values = [item.value for item in plain]
        pair = (tuples, plain_values) if named is golds else (plain_values, tuples)
        return _matched(*pair, lambda a, b: _one(a, b, leaves))
    values = list(other.parts) if other.kind == "tuple" else [item.value for item in plain]
    if len(values) != len(rows[0]):
        return False
    pairs = zip(rows[0], values, strict=True) if named is golds else zip(values, rows[0], strict=True)
    return _every(_one(a, b, leaves) for a, b in pairs)


def _letter(name: str) -> str:
    return name.partition("_")[0]


def _evaluation(relation: Shape) -> Shape | None:
    r"""The value in an equation that says what its left side comes to; None if it is an equation still to be solved.

    `(x+y)^2 = 81`, `2 + 3 = 5`, `\cos A = 1/2` are such; `2x = 4` is not: it is an answer in x, and says 2.
    """
    if set(relation.marks) != {"="}:
        return None
    left = relation.parts[0].text
    return relation.parts[-1] if len(variables(left)) != 1 or _FUNCTION.search(left) else None


# Several values


def _signs(value: Shape) -> list[Shape]:
    """The two values of `1 \\pm x`; all other signs in it turn together."""
    if r"\pm" not in value.text and r"\mp" not in value.text:
        return [value]
    if value.kind == "set":
        return [Shape("set", value.text.replace(r"\pm", "+-"), tuple(v for part in value.parts for v in _signs(part)))]
    upper = value.text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = value.text.replace(r"\pm", "-").replace(r"\mp", "+")
    return [shape(upper), shape(lower)]


def _values(golds: list[Shape], givens: list[Shape], gold: Shape, given: Shape, leaves: Leaves) -> Said:
    if len(golds) == len(givens) == 1:
        return _one(golds[0], givens[0], leaves)
    if all(value.kind == "relation" for value in (*golds, *givens)):
        said = _matched(golds, givens, lambda a, b: _one(a, b, leaves))
        return said if said else leaves.relations(_all_atoms(golds), _all_atoms(givens))
    if len(givens) == 1 and all(value.kind == "relation" for value in golds):
        return _relation_as_set(_all_atoms(golds), givens[0], leaves)
    if len(golds) > 1 and all(value.kind == "tuple" for value in (*golds, *givens)):
        golds, givens = _distinct(golds), _distinct(givens)  # the same point twice is one point
    if len(golds) == 1 and gold.kind != "list":
        return _one(golds[0], Shape("list", given.text, tuple(givens)), leaves)
    if len(givens) == 1 and given.kind != "list":
        return _one(Shape("list", gold.text, tuple(golds)), givens[0], leaves)
    return _matched(golds, givens, lambda a, b: _one(a, b, leaves))


def _one(gold: Shape, given: Shape, leaves: Leaves) -> Said:
    """One answer against one answer."""
    kinds = (gold.kind, given.kind)
    match kinds:
        case ("expression", "expression"):
            return leaves.expressions(gold.text, given.text)
        case ("list", "list"):
            return _matched(gold.parts, given.parts, lambda a, b: _one(a, b, leaves))
        case ("set", "set"):
            return _covered(gold.parts, given.parts, leaves)
        case ("list", "set") | ("set", "list"):
            a, b = (_distinct(x.parts) if x.kind == "set" else x.parts for x in (gold, given))
            return _matched(a, b, lambda a, b: _one(a, b, leaves))
        case ("tuple", "tuple"):
            loose = len(gold.parts) > 2 and gold.marks in _VECTOR and given.marks in _VECTOR  # no intervals
            return _in_order(gold.parts, given.parts, leaves) if loose or gold.marks == given.marks else False
        case ("tuple", "list") | ("list", "tuple"):
            marks = gold.marks or given.marks
            return _in_order(gold.parts, given.parts, leaves) if marks == ("(", ")") else False
        case ("matrix", "matrix"):
            return _in_order(gold.parts, given.parts, leaves) if gold.marks == given.marks else False
        case ("relation", "relation"):
            return _relations(gold, given, leaves)
        case ("relation", _):
            return _relation_as_set(_atoms(gold), given, leaves)
        case (_, "relation"):
            return False
        case ("union", "union"):
            said = _matched(gold.parts, given.parts, lambda a, b: _one(a, b, leaves))
            return said or leaves.sets(gold.text, given.text)
        case ("union", _) | (_, "union"):
            return leaves.sets(gold.text, given.text)
        case ("expression", "matrix") | ("matrix", "expression"):
            return leaves.expressions(gold.text, given.text)
        case ("set", "expression" | "tuple" | "matrix") if len(gold.parts) == 1:
            return _one(gold.parts[0], given, leaves)
        case ("expression" | "tuple" | "matrix", "set") if len(given.parts) == 1:
            return _one(gold, given.parts[0], leaves)
        case ("expression", "list") | ("list", "expression"):
            return _commas(gold, given, leaves)
        case ("expression", "set" | "tuple") | ("set" | "tuple", "expression"):
            text = gold.text if gold.kind == "expression" else given.text
            return leaves.sets(gold.text, given.text) if any(c in text for c in _SET_COMMANDS) else False
    return False


def _commas(gold: Shape, given: Shape, leaves: Leaves) -> Said:
    """A number whose commas could separate a list, or a list whose comma could be a decimal comma."""
    number, several = (gold, given) if gold.kind == "expression" else (given, gold)
    if read(several.text).comma_number is not None:
        return leaves.expressions(gold.text, given.text)
    if "," not in number.text or read(number.text).number is None:
        return False
    return _matched(listed(number.text).parts, several.parts, lambda a, b: _one(a, b, leaves))


def _distinct(parts: Sequence[Shape]) -> list[Shape]:
    return list({squeezed(part.text): part for part in parts}.values())


def _in_order(golds: Sequence[Shape], givens: Sequence[Shape], leaves: Leaves) -> Said:
    if len(golds) != len(givens):
        return False
    return _every(_one(a, b, leaves) for a, b in zip(golds, givens, strict=True))


def _covered(golds: Sequence[Shape], givens: Sequence[Shape], leaves: Leaves) -> Said:
    """Equal as sets: every element of each is in the other, however often it was written."""
    there = _every(_some(_one(a, b, leaves) for b in givens) for a in golds)
    return there is not False and _every((there, *(_some(_one(a, b, leaves) for a in golds) for b in givens)))


def _matched(golds: Sequence[T], givens: Sequence[T], same: Callable[[T, T], Said]) -> Said:
    """Equal as multisets. Being the same is transitive, so that the first partner found is as good as any."""
    if len(golds) != len(givens):
        return False
    left, unknown = list(givens), False
    for gold in golds:
        said = [same(gold, given) for given in left] if unknown else _until_true(gold, left, same)
        if said and said[-1] is True:
            left.pop(len(said) - 1)
        elif True in said:
            left.pop(said.index(True))
        elif None in said:
            unknown = True
        else:
            return False
    return None if unknown else True


def _until_true(gold: T, givens: Sequence[T], same: Callable[[T, T], Said]) -> list[Said]:
    said: list[Said] = []
    for given in givens:
        said.append(same(gold, given))
        if said[-1]:
            break
    return said


def _every(said: Iterable[Said]) -> Said:
    unknown = False
    for one in said:
        if one is False:
            return False
        unknown |= one is None
    return None if unknown else True


def _some(said: Iterable[Said]) -> Said:
    unknown = False
    for one in said:
        if one:
            return True
        unknown |= one is None
    return None if unknown else False


# Relations


def _atoms(relation: Shape) -> list[Relation]:
    """`1 < x \\le 2` as 1 < x and x \\le 2; `>` turned around."""
    if relation.kind != "relation":
        return []
    atoms = []
    for left, sign, right in zip(relation.parts, relation.marks, relation.parts[1:], strict=False):
        atoms.append(Relation(right, _FLIPPED[sign], left) if sign in _FLIPPED else Relation(left, sign, right))
    return atoms


def _all_atoms(relations: Sequence[Shape]) -> list[Relation]:
    return [atom for relation in relations for atom in _atoms(relation)]


def _relations(gold: Shape, given: Shape, leaves: Leaves) -> Said:
    golds, givens = _atoms(gold), _atoms(given)
    said = _matched(golds, givens, lambda a, b: _same_atom(a, b, leaves))
    return said or leaves.relations(golds, givens)


def _same_atom(a: Relation, b: Relation, leaves: Leaves) -> Said:
    """Equal as they are written. False is not the last word: -x > -1 is x < 1."""
    if a.sign != b.sign:
        return False
    return _every((_one(a.left, b.left, leaves), _one(a.right, b.right, leaves)))


def _relation_as_set(golds: Sequence[Relation], given: Shape, leaves: Leaves) -> Said:
    if given.kind in ("tuple", "union", "set") or (
        given.kind == "expression" and any(command in given.text for command in _SET_COMMANDS)
    ):
        return leaves.solutions(golds, given.text)
    return False
