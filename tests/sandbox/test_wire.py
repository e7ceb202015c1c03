"""Values that travel between judge and program arrive as they were, and as nothing but plain data."""

from __future__ import annotations

import json
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.sandbox.inside import wire

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


def sent(value: Any) -> Any:
    """The value, as the other side gets it."""
    return wire.decode(json.loads(json.dumps(wire.encode(value, wire.no_references))), wire.no_references)


@given(PLAIN)
def test_plain_data_arrives_as_it_was(value: Any):
    assert sent(value) == value
    assert type(sent(value)) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        10**4000,
        -(2**53),
        {1, (2, 3)},
        frozenset("ab"),
        bytearray(b"x"),
        range(1, 9, 2),
        Fraction(1, 3),
        Decimal("0.10"),
        date(2024, 2, 29),
        datetime(2024, 2, 29, 1, 2, 3),
        time(1, 2),
        timedelta(days=1, microseconds=5),
        Counter("aab"),
        OrderedDict(b=1, a=2),
        deque([1, 2], 3),
        array("i", [1]),
        int,
        str,
        type(None),
        float("inf"),
        "\ud800",
        {(1, 2): [None]},
    ],
)
def test_other_plain_types_arrive_as_they_were(value: Any):
    assert sent(value) == value
    assert type(sent(value)) is type(value)


def test_subclasses_arrive_as_their_base_so_that_no_method_of_theirs_is_called():
    class Same(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    class Items(list[int]):
        def __iter__(self) -> Any:
            raise AssertionError

    assert type(sent(Same(3))) is int and sent(Same(3)) != 4
    assert sent(Items([1])) == [1]
    assert type(sent(defaultdict(int, a=1))) is dict


@pytest.mark.parametrize("value", [object(), print, (x for x in "a"), lambda: 0, Exception(), iter([])])
def test_what_is_no_plain_data_is_not_sent(value: Any):
    with pytest.raises(wire.NotPlain):
        sent(value)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"t": 1},
        {"t": [1], "s": [2]},
        {"v": ["os.system", ["ls"]]},
        {"v": ["fractions.Fraction", [1, 0]]},
        {"i": "x"},
        {"n": "eval"},
        {"s": [[1]]},
        {"d": [1]},
        {"h": 0},
        {"unknown": 1},
        {"c": [1]},
        {"b": "zz"},
        {"v": 3},
    ],
)
def test_nonsense_is_refused_and_nothing_else_happens(data: Any):
    with pytest.raises(wire.NotPlain):
        wire.decode(data, wire.no_references)


def test_depth_is_bounded_both_ways():
    value: list[Any] = []
    for _ in range(5000):
        value = [value]

    with pytest.raises(wire.NotPlain):
        wire.encode(value, wire.no_references)
    with pytest.raises(wire.NotPlain):
        wire.decode(value, wire.no_references)
