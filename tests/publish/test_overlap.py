"""Evaluated problems are looked for in the training questions."""

from __future__ import annotations

from pathlib import Path

from distill.publish import overlap, release
from tests.publish.card_run import add_task, card_run, problem

TRAINED = {
    "a": "A shop sells 12 red and 7 green pens. How many pens does the shop sell in all?",
    "b": "Find the positive integer n such that n squared plus 3 equals 52.",
}


def test_a_copy_is_found_by_its_words_or_its_id() -> None:
    found = overlap.compare(
        "bench",
        {
            "1": "A shop sells 12 red and 7 green pens! How many pens does the shop sell in all?",
            "2": "What colour is the sky on a clear day at noon in summer?",
            "b": None,
        },
        TRAINED,
    )

    assert (found.items, found.questions, found.copies, found.siblings) == (3, 2, 2, 0)
    assert found.example == "1" and found.by_text


def test_a_copy_inside_another_text_is_one() -> None:
    long = f"Please solve this. {TRAINED['a']} Give only the number."
    assert overlap.compare("bench", {"1": TRAINED["a"]}, {"x": long}).copies == 1


def test_other_numbers_make_a_sibling_and_no_copy() -> None:
    found = overlap.compare(
        "bench", {"1": "A shop sells 15 red and 9 green pens. How many pens does the shop sell in all?"}, TRAINED
    )
    assert (found.copies, found.siblings) == (0, 1)


def test_a_short_question_with_another_number_is_no_near_copy() -> None:
    """Four of its five runs of characters are the same, which the filter takes for a copy."""
    found = overlap.compare("bench", {"1": "What is the product 23*88?"}, {"x": "What is the product 23*87?"})
    assert (found.copies, found.siblings) == (0, 1)
    near = TRAINED["a"].replace("in all", "altogether")
    assert overlap.compare("bench", {"1": near}, TRAINED).copies == 1


def test_without_texts_only_ids_are_compared_and_that_is_said() -> None:
    found = overlap.compare("bench", {"a": None, "z": None}, TRAINED)
    assert (found.copies, found.by_text) == (1, False)


def test_every_task_of_a_run_is_looked_at(tmp_path: Path) -> None:
    made = card_run()
    copy = problem("What is 3 plus 3?", "6", "test", source="bench")
    other = problem("Name the capital of the largest country in Africa.", "Algiers", "test", source="bench")
    made.evaluated = [copy, other]
    add_task(made, "bench", [copy, other], {"student": 1})

    own, bench = release.gather(made.write(tmp_path / "run"), None, None).overlaps

    assert (own.task, own.items, own.questions, own.copies, own.by_text) == ("problems", 8, 3, 0, True)
    assert (bench.task, bench.items, bench.copies, bench.by_text) == ("bench", 2, 1, True)
    assert bench.example == copy.id
