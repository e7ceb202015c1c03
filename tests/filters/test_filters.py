"""Each filter's own reason, on traces made for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distill.core.protocols import Filter, Screen
from distill.core.records import Message, Trace
from distill.filters import at_most, exact_duplicates, repetition, unfinished, verdict
from distill.stages import funnel

TRACE = Trace(
    key="k0",
    problem_id="p0",
    messages=(Message("user", "What is 17*23?"),),
    reasoning="17*20=340\n17*3=51\n340+51=391\n",
    answer="\n\nAnswer: \\boxed{391}",
    verdict="correct",
)


def kept(chosen: Filter, *traces: Trace) -> list[bool]:
    return [decision.kept for decision in funnel.apply(traces, [("it", chosen)])[0]]


def why(chosen: Screen, **changes: Any) -> str:
    return chosen.fault(replace(TRACE, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"verdict": "wrong", "verdict_reason": "another number"}, "wrong: another number"),
        ({"verdict": "unparseable", "verdict_reason": "truncated"}, "unparseable: truncated"),
        ({"verdict": "ungradable", "verdict_reason": "no gold answer"}, "ungradable: no gold answer"),
        ({"verdict": None}, "not graded"),
    ],
)
def test_verdict(changes: dict[str, Any], reason: str):
    assert why(verdict.build(verdict.Config()), **changes) == reason


def test_verdict_keeps_what_it_is_told_to():
    chosen = verdict.build(verdict.Config(keep=["wrong"], ungraded=True))

    some = [TRACE, replace(TRACE, key="k1", verdict="wrong"), replace(TRACE, key="k2", verdict=None)]

    assert kept(chosen, *some) == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"reasoning": None}, ""),
        ({"closed": False, "answer": ""}, "thinking never ended"),
        ({"finish_reason": "length"}, "cut at the token limit"),
        ({"finish_reason": "length", "closed": False}, "thinking never ended"),
        ({"finish_reason": "error"}, "no answer came"),
        ({"answer": " \n"}, "empty answer"),
        ({"reasoning": "\n\n"}, "empty thinking"),
        ({"answer": "\\boxed{391} <think>or not"}, "stray think tag"),
        ({"reasoning": "a</think>b"}, "stray think tag"),  # two think blocks
    ],
)
def test_unfinished(changes: dict[str, Any], reason: str):
    assert why(unfinished.build(unfinished.Config()), **changes) == reason


@pytest.mark.parametrize(
    ("reasoning", "reason"),
    [
        (TRACE.reasoning, ""),
        ("340+51=391\n" * 40, "repeats itself"),
        ("".join(f"{n}*{n}={n * n}\n" for n in range(1000)) + "wait, again: " * 250, "ends in a loop"),
    ],
)
def test_repetition(reasoning: str, reason: str):
    assert why(repetition.build(repetition.Config()), reasoning=reasoning) == reason


def test_exact_duplicates_keep_the_verified_copy_whatever_the_order():
    wrong = replace(TRACE, key="a", verdict="wrong")
    right = replace(TRACE, key="b", answer="Answer:   \\boxed{391}")
    also = replace(TRACE, key="c")
    other = replace(TRACE, key="d", problem_id="p1")
    chosen = exact_duplicates.build(exact_duplicates.Config())

    for order in ([wrong, right, also, other], [also, other, wrong, right]):
        assert {t.key for t, stays in zip(order, kept(chosen, *order), strict=True) if stays} == {"b", "d"}


def test_no_thinking_and_empty_thinking_are_not_the_same_text():
    chosen = exact_duplicates.build(exact_duplicates.Config())

    assert kept(chosen, replace(TRACE, reasoning=None), replace(TRACE, key="k1", reasoning="")) == [True, True]


def test_at_most_caps_each_problem_and_draws_without_regard_to_length():
    traces = [replace(TRACE, key=f"k{n}", problem_id=f"p{n % 100}", reasoning="x" * (n // 100)) for n in range(800)]

    stay = [t for t, stays in zip(traces, kept(at_most.build(at_most.Config(k=2)), *traces), strict=True) if stays]

    assert len(stay) == 200
    assert all(sum(trace.problem_id == f"p{n}" for trace in stay) == 2 for n in range(100))
    mean = sum(len(trace.reasoning or "") for trace in stay) / 200
    assert 3.0 < mean < 4.0  # lengths are 0 to 7: an unbiased draw has a mean of 3.5, the shortest two 0.5


def test_at_most_can_prefer_short_traces():
    traces = [replace(TRACE, key=f"k{n}", reasoning="x" * n) for n in (5, 1, 3)]

    assert kept(at_most.build(at_most.Config(k=1, prefer="shortest")), *traces) == [False, True, False]
