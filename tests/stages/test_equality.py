"""Classes of equal answers: by the verifier's comparison, led by the most common spelling, whatever the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pydantic import TypeAdapter

from distill.core.plugins import Choice
from distill.core.protocols import Verifier
from distill.stages import equality
from distill.stages.verify import VerifierChoice


@contextmanager
def verifier(written: Any) -> Iterator[Verifier]:
    adapter: TypeAdapter[Choice] = TypeAdapter(VerifierChoice)
    choice = adapter.validate_python(written)
    with closing(choice.module().build(choice.config)) as judge:
        yield judge


@pytest.mark.parametrize("turned", [False, True])
def test_spellings_of_one_answer_are_one_class_led_by_the_most_common(turned: bool):
    votes = {"0.5": 1, "1/2": 2, "\\frac12": 1, "3": 2, "x": 1}
    ballots = {
        "p": Counter(dict(reversed(votes.items())) if turned else votes),
        "q": Counter({"7": 1}),
        "none": Counter(),
    }

    with verifier("math") as judge:
        found = equality.classes(ballots, judge)

    assert {leader: sorted(texts) for leader, texts in found["p"].items()} == {
        "1/2": ["0.5", "1/2", "\\frac12"], "3": ["3"], "x": ["x"],
    }  # fmt: skip
    assert found["q"] == {"7": ["7"]} and found["none"] == {}


@pytest.mark.parametrize(
    ("written", "compares"),
    [
        ("math", True), ("exact", True), ("choice", True), ("numeric", True), ("literal", True),
        ("regex", False), ("format", False), ("language", False), ("constraints", False), ("code", False),
        ({"judge": {"model": "m", "engine": "openai"}}, False),
        ({"any_of": ["math", "exact"]}, True), ({"all_of": ["math", "format"]}, False),
    ],
)  # fmt: skip
def test_which_verifiers_compare_answers(written: Any, compares: bool):
    with verifier(written) as judge:
        assert equality.compares(judge) is compares


def test_without_a_comparison_every_text_is_its_own_class():
    with verifier({"regex": {"pattern": ".*"}}) as judge:  # which would take any text for any other
        assert equality.classes({"p": Counter(["a", "b", "a"])}, judge) == {"p": {"a": ["a"], "b": ["b"]}}
