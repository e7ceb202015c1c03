"""Settings: strict, frozen, keyed by what shapes the result."""

from __future__ import annotations

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distill.core.config import Settings, Unkeyed, canonical, digest


class Section(Settings):
    rate: float = 1.0
    workers: Annotated[int, Unkeyed] = 2
    seed: int | None = None


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="no setting `wrokers`. Did you mean `workers`"):
        Section.model_validate({"wrokers": 3})


@pytest.mark.parametrize("value", ["1", True, None, [1]])
def test_types_are_strict(value: object) -> None:
    with pytest.raises(ValidationError):
        Section.model_validate({"rate": value})


def test_a_whole_number_is_a_number() -> None:
    assert Section.model_validate({"rate": 1}) == Section(rate=1.0)


def test_settings_that_cannot_change_a_result_are_not_keyed() -> None:
    assert Section(workers=1).keyed() == Section(workers=8).keyed() == {"rate": 1.0, "seed": None}
    assert Section(workers=8).dump()["workers"] == 8


def test_seed_zero_is_a_seed() -> None:
    assert Section(seed=0).keyed() != Section().keyed()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values))
def test_the_canonical_text_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert canonical(value) == canonical(backwards)
    assert digest(value) == digest(backwards)


def test_nan_has_no_canonical_text() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})
