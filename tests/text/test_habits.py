"""Habits of thinking are counted by their phrases, and only where a sentence begins with them."""

from __future__ import annotations

import pytest

from distill.text.habits import Habits, after_the_answer, habits


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Habits(0, 0, 0, 0)),
        ("Wait, that's wrong. Hmm. Actually, no, it is 5.", Habits(0, 5, 0, 0)),
        ("We wait for the train that is actually late.", Habits(0, 0, 0, 0)),
        ("Let me double-check: 3*4=12. To verify, 12/4=3.", Habits(2, 0, 0, 0)),
        ("Alternatively, use symmetry.\nAnother way: draw it.\nLet's try n=3.", Habits(0, 0, 3, 0)),
        ("More precisely, x>0. In other words, x is positive.", Habits(0, 0, 0, 2)),
        ("**Wait** a minute", Habits(0, 1, 0, 0)),
        ("waiting, checkers, another wayward", Habits(0, 0, 0, 0)),
    ],
)
def test_habits(text: str, found: Habits):
    assert habits(text) == found


@pytest.mark.parametrize(
    ("thinking", "gold", "share"),
    [
        ("12345 7 12345", "7", 6 / 13),
        ("it is 7", "7", 0.0),
        ("17 and 70 and 7.5 and x7", "7", None),
        ("no number", "7", None),
        (r"so \frac{1}{2}.", r"\frac{1}{2}", 1 / 15),
        ("7", None, None),
        ("", "7", None),
    ],
)
def test_thinking_after_the_answer(thinking: str, gold: str | None, share: float | None):
    assert after_the_answer(thinking, gold) == (None if share is None else pytest.approx(share))


def test_a_long_thinking_is_counted_in_linear_time():
    assert habits("wait " * 200_000).turns_back == 1
