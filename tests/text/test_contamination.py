"""Copies, near copies and rewrites of benchmark questions are found; unrelated questions are not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core import jsonl
from distill.core.errors import DistillError
from distill.text import contamination
from distill.text.contamination import Index, Signature, build, read, write

BENCHMARK = [
    "Find the roots of $x^2-5x+6$.",
    r"If $\frac{a}{b} = 3$ and $a - b = 14$, what is the value of $a + b$ when both are positive integers?",
    "Maria picked 48 apples on Monday and twice as many on Tuesday. She sold 30 of them at the market and shared the "
    "rest equally among 6 neighbours. How many apples did each neighbour get?",
    "Why?",
]


def index(*texts: str) -> Index:
    return Index([build("made", texts or BENCHMARK)])


def how(question: str, *texts: str) -> str | None:
    match = index(*texts).match(question)
    return None if match is None else match.how


@pytest.mark.parametrize("question", BENCHMARK)
def test_every_original_is_found(question: str):
    assert how(question) == "exact"


def test_a_short_item_is_found_with_other_spacing_and_inside_instructions():
    assert how(r"Find the roots of \( x^{2} - 5 x + 6 \).") in ("exact", "fuzzy")
    assert how("Please think step by step. Find the roots of x^2-5x+6. Put the answer in a box.") == "exact"


def test_a_long_item_is_found_inside_instructions_and_in_part():
    wrapped = f"Solve the following problem carefully.\n\n{BENCHMARK[2]}\n\nReason step by step."
    assert how(wrapped) == "exact"
    assert how(BENCHMARK[2].replace("at the market", "at a fair")) == "runs"


def test_an_item_with_other_numbers_is_a_sibling():
    assert how(BENCHMARK[2].replace("48", "50").replace("30", "20").replace(" 6 ", " 7 ")) == "numbers"


def test_an_item_in_other_words_is_a_rewrite():
    rewrite = (
        "On Monday Maria picked 48 apples, and on Tuesday she picked double that amount. After selling 30 at a market, "
        "she divided what was left evenly between six neighbours. What number of apples did every one receive?"
    )
    assert how(rewrite) == "rewritten"
    assert how(rewrite.replace("48", "49")) is None


def test_a_tiny_item_is_found_alone_only():
    assert how("why") == "exact"
    assert how("Explain why the sky is blue.") is None


def test_unrelated_questions_are_not_found():
    assert how("A baker makes 48 loaves and sells 30 of them for 6 dollars each. What does he earn?") is None
    assert how("") is None
    assert how("...") is None


def test_a_signature_gives_no_text_back_and_reads_as_it_was(tmp_path: Path):
    made = build("made", BENCHMARK)
    write(tmp_path / "made.sig", made)

    assert read(tmp_path / "made.sig") == made
    data = (tmp_path / "made.sig").read_bytes()
    assert all(word not in data for word in (b"Maria", b"maria", b"apples", b"roots"))


def test_the_same_questions_make_the_same_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write(tmp_path / name, build("made", BENCHMARK))

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", [None, b"", b"hello", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_signature_is_refused_by_name(tmp_path: Path, content: bytes | None):
    path = tmp_path / "bench.sig"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DistillError, match=r"bench\.sig"):
        read(path)


def test_a_benchmark_without_words_makes_no_signature():
    with pytest.raises(DistillError, match="no question with a word"):
        build("empty", ["", "..."])


@given(st.lists(st.sampled_from(BENCHMARK), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter_to_whether_one_is_found(items: list[str], rng: random.Random):
    shuffled = rng.sample(items, len(items))

    for question in BENCHMARK:
        one, other = index(*items).match(question), index(*shuffled).match(question)
        assert (one is None) == (other is None)
        assert one is None or other is None or (one.how, one.share) == (other.how, other.share)


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in jsonl.read(path)]


def signed(shared_data: Path, name: str) -> tuple[Signature, list[dict[str, Any]]]:
    pairs = rows(shared_data / "decontamination" / f"{name}_rephrased.jsonl.gz")
    return build(name, [row["original"] for row in pairs]), pairs


@pytest.mark.parametrize("name", ["gsm8k", "humaneval", "mmlu"])
def test_real_originals_are_all_found(shared_data: Path, name: str):
    signature, pairs = signed(shared_data, name)
    asked = Index([signature])

    missed = [row["original"] for row in pairs if (m := asked.match(row["original"])) is None or m.how != "exact"]

    assert missed == []


def test_most_real_rewrites_of_word_problems_are_found(shared_data: Path):
    signature, pairs = signed(shared_data, "gsm8k")
    asked = Index([signature])

    found = [
        row["index"]
        for row in pairs
        if (m := asked.match(row["rephrased"].partition("\nAnswer:")[0])) is not None and m.how == "rewritten"
    ]

    assert len(found) >= 0.5 * len(pairs)  # runs of words find none of the 641


def test_real_training_problems_are_not_taken_for_test_problems(shared_data: Path):
    asked = Index([build("gsm8k-test", [r["question"] for r in rows(shared_data / "gsm8k" / "test.jsonl.gz")])])
    train = rows(shared_data / "gsm8k" / "train.jsonl.gz")

    flagged = [m for row in train if (m := asked.match(row["question"])) is not None and m.how != "numbers"]

    assert len(flagged) < 0.002 * len(train), [json.dumps(m.__dict__) for m in flagged]


def test_the_gate_would_notice_a_looser_match(shared_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contamination, "SHARED_STEMS", 1)
    asked = Index(
        [build("gsm8k-test", [r["question"] for r in rows(shared_data / "gsm8k" / "test.jsonl.gz")])], rewritten=0.05
    )
    train = rows(shared_data / "gsm8k" / "train.jsonl.gz")[:3000]

    assert sum(asked.match(row["question"]) is not None for row in train) > 0.002 * len(train)
