"""Which option an answer states: every way of stating one, and none where none is stated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core import jsonl
from distill.text.choices import choice_of


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("The answer is (C).", "C"),
        ("the answer is C", "C"),
        ("The answer is: **C**", "C"),
        ("Final Answer: C. Mitochondria", "C"),
        (r"The answer is $\boxed{C}$.", "C"),
        (r"\boxed{\text{C}}", "C"),
        (r"\boxed{(C) 12 m}", "C"),
        ("(C) is the correct answer", "C"),
        ("Option C is correct.", "C"),
        ("I would choose option C.", "C"),
        ("The closest option is (C) 4 m/s", "C"),
        ("C", "C"),
        ("(C)", "C"),
        ("C.", "C"),
        ("C) twelve", "C"),
        ("**C**", "C"),
        ("The answer is (A).\n\nOn reflection, the answer is (C).", "C"),
        ("The answer is not (A). The answer is (C).", "C"),
        ("The answer is A.", "A"),
        ("The answer is A or B.", "AB"),
        ("The answer is (A), (B), and (C)", "ABC"),
        ("The answer is a matter of taste.", None),
        ("The answer is A man.", None),
        ("A man has four dogs.", None),
        ("I think so.", None),
        ("The capital is Paris.", None),
        ("Options A to D are all plausible.", None),
        ("", None),
        ("The answer is not among the choices", None),
    ],
)
def test_what_is_stated(text: str, letters: str | None):
    found = choice_of(text)

    assert (None if found is None else "".join(found.letters)) == letters


@pytest.mark.parametrize("text", ["The answer is (С).", "С", "The answer is Α"])  # Cyrillic Es, Greek Alpha
def test_look_alikes_count_and_are_flagged(text: str):
    found = choice_of(text)

    assert found is not None
    assert found.letters in (("C",), ("A",))
    assert found.look_alike


def test_full_width_letters_are_the_letters():
    found = choice_of("The answer is （Ｃ）.")

    assert found is not None
    assert found.letters == ("C",)


@given(st.text(max_size=300))
def test_any_text_has_one_or_none(text: str):
    found = choice_of(text)

    assert found is None or all(len(letter) == 1 for letter in found.letters)


def test_a_long_text_takes_linear_time():
    assert choice_of("answer is " * 50_000) is None
    assert choice_of("(" * 200_000) is None


def test_real_answers_that_state_one_option(shared_data: Path):
    checked = 0
    for _, row in jsonl.read(shared_data / "mmlu_pro_outputs" / "outputs.jsonl.gz"):
        text = row.get("generated_text") or row["model_outputs"]
        stated = set(re.findall(r"answer is \(([A-J])\)", text))
        if len(stated) != 1 or re.search(r"answer is \([A-J]\)(?: (?:or|and) |,? ?\()", text):
            continue
        if re.search(r"(?i)\b(?:answer|option)\b", text.split("answer is (")[-1]):
            continue  # something is stated once more, in other words
        checked += 1
        found = choice_of(text)
        assert found is not None, text[-200:]
        assert found.letters == tuple(stated), text[-200:]
    assert checked > 1600


def test_real_answers_that_state_none(shared_data: Path):
    none = 0
    for _, row in jsonl.read(shared_data / "mmlu_pro_outputs" / "outputs.jsonl.gz"):
        text = row.get("generated_text") or row["model_outputs"]
        if row["pred"] is None and not re.search(r"\([A-J]\)|\b[A-J][.:]|[`*][A-J]\b", text):
            none += 1
            assert choice_of(text) is None, text[-200:]
    assert none > 50
