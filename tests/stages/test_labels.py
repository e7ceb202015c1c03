"""Majority labels: votes by meaning, none of what is empty, and never gold."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from distill.core.plugins import Choice
from distill.core.records import Sample
from distill.stages import labels, verify
from distill.stages.labels import Label

MATH: Choice = verify.Config().verifier


def sample(answer: str, index: int = 0, **fields: object) -> Sample:
    made = Sample(
        key=f"{index:064x}", problem_id="p", index=index, model_id="m", model_name="m", engine="e", max_tokens=100,
        finish_reason="stop", reasoning="", answer=answer, closed=True,
    )  # fmt: skip
    return Sample(**{**vars(made), **fields})


def vote(answers: Sequence[str | Sample], threshold: float = 0.5) -> Label | None:
    samples = [one if isinstance(one, Sample) else sample(one, index) for index, one in enumerate(answers)]
    found = list(labels.vote({"p": samples}, MATH, threshold))
    return found[0] if found else None


def boxed(*answers: str) -> list[str]:
    return [f"\\boxed{{{answer}}}" for answer in answers]


def test_answers_of_one_meaning_vote_together_whatever_they_look_like():
    label = vote(boxed("1/2", "0.5", "\\frac12", "3", "3"))

    assert label is not None
    assert (label.label, label.votes, label.answers, label.support) == ("1/2", 3, 5, 0.6)
    assert not label.low_support
    assert label.label_source == "majority"


def test_what_is_empty_has_no_vote_but_weighs_on_the_support():
    label = vote([*[""] * 5, *boxed("7", "7")])

    assert label is not None
    assert (label.label, label.votes, label.answers) == ("7", 2, 7)
    assert label.low_support


@pytest.mark.parametrize(
    "unread",
    [
        sample("\\boxed{3}", finish_reason="length"),
        sample("\\boxed{3}", closed=False),
        sample("\\boxed{}"),
        sample("\\boxed{N/A}"),
        sample("\\boxed{unknown}"),
        sample("\\boxed{\\frac{1}{2"),
        sample("I cannot say."),
    ],
    ids=lambda one: one.answer + one.finish_reason,
)
def test_no_sentinel_no_half_and_no_cut_answer_becomes_a_label(unread: Sample):
    assert vote([unread] * 3) is None
    label = vote([*[unread] * 2, *boxed("7")], threshold=0.3)
    assert label is not None
    assert label.label == "7"


def test_a_tie_is_no_majority():
    label = vote(boxed("3", "3", "4", "4"))

    assert label is not None
    assert label.support == 0.5
    assert label.low_support


def test_the_threshold_is_the_share_that_is_enough():
    answers = boxed("7", "7", "7", "1", "2")
    assert [vote(answers, threshold).low_support for threshold in (0.6, 0.61)] == [False, True]  # type: ignore[union-attr]  # it has votes


def test_the_order_of_the_answers_changes_nothing():
    answers = boxed("1/2", "8", "0.5", "8.0", "\\frac{1}{2}", "8", "7", "0.50")
    first = vote(answers)
    for seed in range(5):
        assert vote(random.Random(seed).sample(answers, len(answers))) == first


def test_symbols_are_compared_by_the_verifier_and_both_ways():
    label = vote(boxed("x^2-1", "(x-1)(x+1)", "x^2+1"))
    assert label is not None
    assert label.votes == 2
    # a gold inequality accepts the interval, a gold interval no inequality: as votes they are two answers
    apart = vote(boxed("1<x<2", "1<x<2", "(1,2)"))
    assert apart is not None
    assert (apart.label, apart.votes) == ("1<x<2", 2)


def test_several_problems_vote_apart():
    samples = {"a": [sample("\\boxed{1}")] * 2, "b": [sample("")], "c": [sample("\\boxed{2}")] * 2}

    assert [(label.problem_id, label.label) for label in labels.vote(samples, MATH, 0.5)] == [("a", "1"), ("c", "2")]
