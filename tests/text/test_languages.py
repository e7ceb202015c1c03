"""Which language a text is in: real questions in seven languages, and one paragraph in many."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from distill.core import jsonl
from distill.text.languages import SCRIPTS, consistency

LANGUAGES = ("de", "en", "es", "fr", "ja", "ru", "zh")


def questions(shared_data: Path, language: str) -> list[str]:
    text = (shared_data / "mgsm" / f"mgsm_{language}.tsv").read_text(encoding="utf-8")
    return [line.partition("\t")[0] for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_question_is_in_its_own_language(shared_data: Path, language: str):
    shares = [consistency(text, language).share for text in questions(shared_data, language)]

    assert min(shares) >= 0.7  # names in Latin letters stand in Russian and Chinese questions
    assert sum(shares) / len(shares) > 0.995


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_question_passes_as_a_language_of_another_script(shared_data: Path, language: str):
    others = [name for name in LANGUAGES if SCRIPTS[name] != SCRIPTS[language]]

    for text in questions(shared_data, language):
        assert max(consistency(text, other).share for other in others) < 0.9, text


def test_most_long_questions_are_told_apart_within_a_script(shared_data: Path):
    for language, other in (("de", "en"), ("fr", "en"), ("es", "en"), ("en", "de")):
        long = [text for text in questions(shared_data, language) if len(text) > 250]
        passing = [text for text in long if consistency(text, other).share >= 0.9]

        assert len(passing) <= 0.05 * len(long), (language, other, passing[:2])


WRITTEN_IN = {"ru": "CYRILLIC", "ar": "ARABIC", "hi": "DEVANAGARI", "el": "GREEK", "he": "HEBREW", "th": "THAI"}


def test_no_paragraph_passes_as_a_language_of_another_script(shared_data: Path):
    checked = 0
    for _, row in jsonl.read(shared_data / "udhr_fixtures" / "fixtures.jsonl.gz"):
        letters = [char for char in row["fixture"] if char.isalpha()]
        latin = sum(unicodedata.name(char, "").startswith("LATIN") for char in letters) > 0.9 * len(letters)
        for language in WRITTEN_IN:
            if latin:
                checked += 1
                assert consistency(row["fixture"], language).share < 0.5, (row["iso6393"], language)
        if not latin:
            checked += 1
            assert consistency(row["fixture"], "en").share < 0.5, row["iso6393"]
    assert checked > 100


def test_traces_of_an_english_task_are_english_but_for_those_that_slip(shared_data: Path):
    slipped = 0
    for path in sorted((shared_data / "thinking_traces").glob("*.jsonl.gz")):
        for _, row in list(jsonl.read(path))[::8] if "235b" not in path.name else jsonl.read(path):
            found = consistency(row["thinking"] or row["output"] or "", "en")
            assert found.share > 0.99
            slipped += found.foreign_words > 0
    assert slipped >= 3  # of the file of which all rows are read; SOURCE.md counts three


def test_what_the_question_says_is_not_foreign():
    assert consistency("The sign 直 means straight", "en", question="What is 直?").foreign_words == 0
    assert consistency("The sign 直 means straight", "en").foreign == ("直",)


def test_a_text_without_words_is_in_every_language():
    assert consistency("3 + 4 = 7 $\\sqrt{2}$", "ru").share == 1.0


def test_an_unknown_language_is_an_error():
    with pytest.raises(ValueError, match="no language `xx`"):
        consistency("text", "xx")
