"""The `near_duplicates` filter against exact Jaccard similarity."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from distill.core.records import Message, Trace
from distill.filters import near_duplicates
from distill.stages import funnel
from distill.text.ngrams import runs
from tests.filters.test_filters import TRACE

WORDS = [f"word{n}" for n in range(400)]


def texts(seed: int = 0) -> list[str]:
    """Forty texts of 120 words, each with a copy that has some words changed: 0 to 39 of them."""
    rng = random.Random(seed)
    made = []
    for changed in range(40):
        own = rng.choices(WORDS, k=120)
        copy = list(own)
        for place in rng.sample(range(120), changed):
            copy[place] = rng.choice(WORDS)
        made += [" ".join(own), " ".join(copy)]
    return made


def trace(n: int, text: str, **about: object) -> Trace:
    return replace(TRACE, key=f"{n:04d}", reasoning=text, answer="", **about)  # type: ignore[arg-type]  # by name


def rejected(traces: list[Trace], **settings: object) -> set[str]:
    chosen = near_duplicates.build(near_duplicates.Config(**settings))  # type: ignore[arg-type]  # by name
    return {d.sample_key for d in funnel.apply(traces, [("near", chosen)])[0] if not d.kept}


def jaccard(one: str, other: str) -> float:
    a, b = (runs(near_duplicates.tokens(text), 5) for text in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_agrees_with_exact_similarity_away_from_the_threshold(threshold: float):
    some = [trace(n, text) for n, text in enumerate(texts())]
    gone = rejected(some, threshold=threshold, permutations=256)

    for n in range(0, len(some), 2):
        similar = jaccard(some[n].reasoning or "", some[n + 1].reasoning or "")
        if abs(similar - threshold) > 0.1:  # three standard deviations of the estimate
            assert (some[n + 1].key in gone) == (similar > threshold), similar
    assert not any(int(key) % 2 == 0 for key in gone)


def test_the_verified_copy_stays_whatever_the_order():
    text = texts()[0]
    some = [trace(0, text, verdict="wrong"), trace(1, text + " more"), trace(2, text), trace(3, texts()[5])]

    for order in (some, some[::-1]):
        assert rejected(order) == {"0000", "0002"}


def test_scope_is_all_problems_or_one():
    text = texts()[0]
    some = [trace(0, text), trace(1, text, problem_id="p1"), trace(2, text, problem_id="p1")]

    assert rejected(some) == {"0001", "0002"}
    assert rejected(some, within="problem") == {"0002"}


def test_of_questions_one_stays_with_all_its_traces():
    question = texts()[0]
    other = (Message("user", question + " please"),)
    some = [
        replace(trace(0, "a b c"), messages=(Message("user", question),)),
        replace(trace(1, "d e f"), messages=(Message("user", question),)),
        replace(trace(2, "g h i"), messages=other, problem_id="p1"),
        replace(trace(3, "j k l"), problem_id="p2"),
    ]

    assert rejected(some, of="question") == {"0002"}


def test_short_and_empty_texts_are_no_trouble():
    some = [trace(0, ""), trace(1, ""), trace(2, "one"), trace(3, "two")]

    assert rejected(some) == {"0001"}


@pytest.mark.parametrize(("threshold", "permutations"), [(0.5, 128), (0.8, 128), (0.9, 256), (1.0, 64), (0.05, 4)])
def test_bands_find_pairs_at_the_threshold(threshold: float, permutations: int):
    rows = near_duplicates.band_rows(threshold, permutations)

    found = 1 - (1 - threshold**rows) ** (permutations // rows)
    assert found >= near_duplicates.RECALL or rows == 1
