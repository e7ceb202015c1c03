"""Text that a model wrote, made safe to look at."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from distill.text.visible import shortened, visible


def test_what_cannot_be_seen_is_shown():
    assert visible("a\x00b\x1b[31m\x7f") == "a␀b␛[31m␡"
    assert visible("\u202egnp.exe\u2066x\u200b") == "⟨U+202E⟩gnp.exe⟨U+2066⟩x⟨U+200B⟩"
    assert visible("\ud83d half") == "⟨U+D83D⟩ half"
    assert visible("\U000e0041") == "⟨U+E0041⟩"


def test_what_can_be_seen_stays():
    text = "Größe: 3\n\t4 · 𝑥² שלום مرحبا 日本 👍🏽"

    assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"


@given(st.text(st.characters(codec=None)))
def test_nothing_unseen_is_left_and_every_text_can_be_encoded(text: str):
    shown = visible(text)

    shown.encode("utf-8")
    kinds = {unicodedata.category(character) for character in shown if character not in "\n\t"}
    assert not kinds & {"Cc", "Cs"}
    assert visible(shown) == shown


@given(st.text(), st.integers(8, 40))
def test_a_long_text_keeps_its_beginning_and_its_end(text: str, most: int):
    cut = shortened(text, most)

    if len(text) <= most:
        assert cut == text
    else:
        assert cut.startswith(text[: most * 3 // 4]) and cut.endswith(text[-(most // 4) :])
        assert f"{len(text) - most * 3 // 4 - most // 4:,} characters left out" in cut
