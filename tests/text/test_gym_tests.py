"""Entries of reasoning-gym through JSON and back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.gym_tests import dump, parse

keys = st.text(max_size=5) | st.integers() | st.tuples(st.integers(), st.integers())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=9,
)


@given(st.text(), st.dictionaries(st.text(max_size=9), values, max_size=3))
def test_what_is_dumped_is_parsed_again(task: str, entry: dict[str, object]):
    assert parse(dump(task, entry)) == (task, entry)


def test_other_values_become_plain_ones():
    entry = {"a": np.int64(3), "b": np.array([[1, 2]]), "c": {3, 1}, "d": Fraction(1, 2)}

    assert parse(dump("x", entry)) == ("x", {"a": 3, "b": [[1, 2]], "c": [1, 3], "d": "1/2"})


@pytest.mark.parametrize("text", ["", "[]", '{"task": "x"}', '{"task": 1, "entry": {}}', "[" * 100_000])
def test_anything_else_is_refused(text: str):
    with pytest.raises(ValueError, match="tests "):
        parse(text)
