"""Words and runs of words, whatever dress a text comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.text.ngrams import hashes, runs, without_numbers, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\dfrac{1}{2}+x$.", r"find \( \frac {1} {2} + x \)"),
        (r"$\left( a,\, b \right)$", "(a, b)"),
        (r"$1{,}000{,}000$ apples", "1,000,000 Apples!"),
        (r"\text{cm} and \mathrm{m}", "cm and m"),
        ("x − 1", "x - 1"),  # a minus sign of Unicode
        ("Ａ １２", "a 12"),
        (r"$n_{}^{}$ and $k^{}_{ }$", "$n$ and $k$"),
        ("What's   the\n\nsum?", "what s the sum"),
    ],
)
def test_dress_does_not_count(one: str, other: str):
    assert words(one) == words(other)


@pytest.mark.parametrize(("one", "other"), [("1.5", "15"), ("1,2", "12"), ("x+y", "x-y"), ("3 apples", "4 apples")])
def test_meaning_does(one: str, other: str):
    assert words(one) != words(other)


def test_scripts_without_spaces_are_signs():
    assert words("令 p=3，请找出") == ["令", "p", "=", "3", "请", "找", "出"]


def test_numbers_can_be_made_alike():
    assert without_numbers(words("3.5 cats, 12 dogs")) == without_numbers(words("7 cats, 1,000 dogs"))


@given(st.lists(st.sampled_from("abcdefg"), max_size=30), st.integers(1, 12))
def test_runs_are_all_runs(tokens: list[str], n: int):
    found = runs(tokens, n)

    assert all(len(run.split()) == min(n, len(tokens)) for run in found)
    assert len(found) <= max(1, len(tokens) - n + 1)
    assert bool(found) == bool(tokens)


def test_hashes_are_the_same_everywhere():
    assert hashes({"two words"}) == {14314489994309630037}  # XXH3 of these bytes; files made elsewhere depend on it


@given(st.text(max_size=200))
def test_any_text_has_words(text: str):
    assert all(word == word.lower() and word.strip() == word for word in words(text))
