"""IFEval's instructions by their ids, and JSON that fits a schema: followed or not, never passed over."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core.protocols import Answer, Finding
from distill.text import constraints
from distill.text.constraints import CHECKS, Instruction, count_sentences, count_words, fault, in_language, readings
from distill.verifiers.constraints import Config, ConstraintsVerifier, build

pytest.importorskip("jsonschema", reason="needs the extra `constraints`")

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"},
     ["NASA and ESA", "I saw a UFO", "WELL-KNOWN FACTS"], ["NASA and Esa", "WELL-KNOWN"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"},
     ["only ONE here", "none"], ["ONE and TWO"]),
    ("change_case:english_capital", {}, ["THIS IS A LOUD SENTENCE."], ["This is not.", "DAS IST DEUTSCH UND LAUT."]),
    ("change_case:english_lowercase", {}, ["this is a quiet sentence."], ["Not so.", "das ist deutsch und leise."]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["Say hi.\nHi!", "  say HI. Hi"], ["Hi! Say hi."]),
    ("combination:two_responses", {}, ["one\n******\ntwo", "******one******two******"],
     ["one", "one******one", "one******two******three", "one************two"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [place]", "[[a] [b]"],
     ["[name]", "[na\nme] [a]", "] ["]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. Write.", "p. s. x"], ["PS: x"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. x", "p.p. s"], ["P.S. x"]),
    ("detectable_format:constrained_response", {}, ["So: My answer is no."],
     ["My answer is it."]),
    ("detectable_format:json_format", {}, ['{"a": [1, null]}', '```json\n{"a": 1}\n```', "3"],
     ["{'a': 1}", '{"a": 1', 'Sure: {"a": 1}', "NaN", '{"a": 1, "a": 2}', "[" * 100_000]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb"], ["SECTION 1\na", "Section 1 a Section 2"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n* b", "- a\n  * b\nc"],
     ["* a", "* a\n* b\n* c", "**a**\n**b**"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and *b*", "**a** *b*"],
     ["*a*", "* *", "**", "*a\nb* *c*"]),
    ("detectable_format:title", {}, ["<<A title>>\ntext", "text << a >>"], ["<title>", "<< >>", "<<a\nb>>", ">> a <<"]),
    ("keywords:existence", {"keywords": ["cat", "c++"]}, ["Cats like C++."], ["Cats like C."]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat", "c++"]}, ["Catalogue of C."], ["A CAT.", "I like C++."]),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": "at least"}, ["Cat, cat"], ["cat"]),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 3, "let_relation": "less than"}, ["Eel"], ["Eerie"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"}, ["##"], ["#"]),
    ("language:response_language", {"language": "de"},
     ["Das ist ein ganz gewöhnlicher Satz.", "Ja, ich komme morgen gerne zu dir nach Hause."],
     ["This is quite an ordinary sentence.", "这是一个句子。", "42"]),
    ("language:response_language", {"language": "hi"}, ["यह एक साधारण वाक्य है।"], ["This is a sentence.", "这是"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
     ["One.\n\nweekend, two."], ["Weekend\n\ntwo", "One.\n\nweekends", "a\n\nweekend\n\nb", "weekend"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***a***b***"],
     ["a\n\nb", "a***b***c", "a*** ***b"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["One. Two."],
     ["One, e.g. this."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["a b c"], ["a b", "..."]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["one two"], ["one two three"]),
    ("punctuation:no_comma", {}, ["no, that is；not".replace(",", "")], ["a, b"]),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}, ['So. "any other questions?"'],
     ["Any other questions? No."]),
    ("startend:quotation", {}, ['"all of it"', ' "a" b "c" '], ['"', 'a "b"', "'a'"]),
]  # fmt: skip
"""Instruction, arguments, texts that follow it, texts that do not."""

BIG = 50_000
HARD = [unit * (BIG // len(unit)) for unit in (
    "\n", " ", "[", "<", "*", "a", "A.", ". ", "p.", "\t- ", '"', "é", "。", "1.\n", "A-", "$", "`", "\\(", "\\[",
)]  # fmt: skip
"""Texts that make careless patterns take hours."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[ConstraintsVerifier]:
    built = build(Config(workers=1, cpu_s=1.0))
    yield built
    built.close()


def told(*instructions: tuple[str, dict[str, Any]]) -> str:
    return json.dumps([{"instruction": name, "kwargs": kwargs} for name, kwargs in instructions])


def grade(verifier: ConstraintsVerifier, text: str, *instructions: tuple[str, dict[str, Any]], **more: Any) -> Finding:
    return verifier.grade([Answer(text, None, told(*instructions), **more)])[0]


@pytest.mark.parametrize(("name", "kwargs", "following", "others"), CASES, ids=[case[0] for case in CASES])
def test_each_instruction(name: str, kwargs: dict[str, Any], following: list[str], others: list[str]):
    instruction = Instruction(name, kwargs)

    assert fault(instruction) == ""
    assert {text: constraints.follows(instruction, text) for text in following} == dict.fromkeys(following, True)
    assert {text: constraints.follows(instruction, text) for text in others} == dict.fromkeys(others, False)


def test_the_25_kinds_are_all_there_and_all_tried():
    assert len(CHECKS) == 25
    assert {name for name, *_ in CASES} == set(CHECKS)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_no_text_takes_long(name: str):
    kwargs = next(kwargs for tried, kwargs, *_ in CASES if tried == name)
    took_s = {}
    for text in HARD:
        began_s = time.process_time()
        constraints.follows(Instruction(name, kwargs), text)
        took_s[text[:3]] = time.process_time() - began_s

    assert max(took_s.values()) < 2.0, took_s


@given(st.text())
def test_no_text_raises(text: str):
    for name, kwargs, *_ in CASES:
        if not name.startswith(("language", "change_case:english")):
            assert constraints.follows(Instruction(name, kwargs), text) in (True, False)


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        (("length_constraints:number_pages", {}), "unknown instruction length_constraints:number_pages"),
        (("length_constraints:number_words", {"num_words": 3}), "length_constraints:number_words: `relation`"),
        (("length_constraints:number_words", {"num_words": "x", "relation": "at least"}),
         "length_constraints:number_words: `num_words`"),
        (("length_constraints:number_words", {"num_words": 3, "relation": "about"}),
         "length_constraints:number_words: `relation`"),
        (("punctuation:no_comma", {"marks": 1}), "punctuation:no_comma: `marks`"),
        (("language:response_language", {"language": "xx"}), "language:response_language: `language`"),
        (("keywords:existence", {"keywords": []}), "keywords:existence: `keywords`"),
        (("json_schema", {}), "json_schema: needs `schema`"),
        (("json_schema", {"schema": {"type": "objet"}}), "json_schema: no JSON Schema"),
        (("json_schema", {"schema": {"$schema": "urn:own"}}), "json_schema: no JSON Schema: unknown dialect"),
        (("json_schema", {"schema": {"$schema": ["urn:own"]}}), "json_schema: no JSON Schema: unknown dialect"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_ungradable_with_its_name(
    verifier: ConstraintsVerifier, instruction: tuple[str, dict[str, Any]], why: str
):
    for text in ("some text", ""):
        found = grade(verifier, text, ("punctuation:no_comma", {}), instruction)
        assert found.value == "ungradable"
        assert found.reason.startswith(why)


@pytest.mark.parametrize(
    "tests", [None, "", "{", "[]", "{}", '["a"]', '[{"instruction": 1}]', '[{"instruction": "a", "b": 1}]']
)
def test_without_instructions_nothing_is_gradable(verifier: ConstraintsVerifier, tests: str | None):
    assert verifier.grade([Answer("text", None, tests)])[0].value == "ungradable"


def test_the_score_is_the_share_followed(verifier: ConstraintsVerifier):
    found = grade(verifier, "a, b", ("punctuation:no_comma", {}), CASES[0][:2], ("startend:quotation", {}),
                  ("keywords:existence", {"keywords": ["b"]}))  # fmt: skip

    assert (found.value, found.score, found.step_scores) == ("wrong", 0.25, (0.0, 0.0, 0.0, 1.0))
    assert found.reason == "not followed: punctuation:no_comma; 1 of 4"


def test_a_row_of_ifeval_is_read_as_it_is(verifier: ConstraintsVerifier):
    row = {
        "key": 1000, "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{"num_words": None, "relation": None}, {"num_words": 2.0, "relation": "at least", "language": None}],
    }  # fmt: skip

    assert verifier.grade([Answer("two words", None, json.dumps(row))])[0].value == "correct"


def test_settings_hold_the_instructions_where_tests_do_not():
    built = build(Config(instructions=[{"instruction": "punctuation:no_comma"}]))

    found = built.grade(
        [Answer("a, b", None), Answer("ab", None), Answer("a, b", None, told(("startend:quotation", {})))]
    )

    assert [one.value for one in found] == ["wrong", "correct", "wrong"]
    assert found[2].reason.startswith("not followed: startend:quotation")


def test_loose_forgives_an_opening_line_and_asterisks():
    tests = told(("startend:quotation", {}))
    text = 'Sure, here it is:\n"**quoted**"'

    for mode, value in (("strict", "wrong"), ("loose", "correct")):
        built = build(Config(mode=mode))  # type: ignore[arg-type]  # both are modes
        assert built.grade([Answer(text, None, tests)])[0].value == value
    assert readings("a\nb\nc") == ["a\nb\nc", "b\nc", "a\nb", "b"]


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("text", "schema", "value", "said"),
    [
        ('{"n": 3}', SCHEMA, "correct", "followed 1 instruction"),
        ('```json\n{"n": 3}\n```', SCHEMA, "correct", "followed 1 instruction"),
        ('{"n": "3"}', SCHEMA, "wrong", "(at $.n: type)"),
        ('{"n": 3, "m": 4}', SCHEMA, "wrong", "(at $: additionalProperties)"),
        ("n = 3", SCHEMA, "wrong", "(no JSON)"),
        ('{"n": 3, "n": 3}', SCHEMA, "wrong", "(no JSON)"),
        ("[" * 5000, {}, "wrong", "(no JSON)"),
        ("[1]", {"$ref": "#"}, "wrong", "(nested too deeply)"),
        ("[1]", {"$ref": "http://127.0.0.1:9/schema"}, "ungradable", "a reference leads nowhere"),
        ('"a"', {"pattern": "("}, "ungradable", "no JSON Schema: '(' is not a 'regex'"),
        ('"' + "a" * 40 + '!"', {"pattern": "^(a|aa|aaa)+$"}, "wrong", "(took over 1 s of CPU time)"),
    ],
)
def test_json_schema(verifier: ConstraintsVerifier, text: str, schema: dict[str, Any], value: str, said: str):
    found = grade(verifier, text, ("json_schema", {"schema": schema}))

    assert found.value == value
    assert said in found.reason
    assert grade(verifier, '{"n": 1}', ("json_schema", {"schema": SCHEMA})).value == "correct"  # the pool is whole


def test_a_reference_out_of_the_schema_is_not_fetched(tmp_path: Path, verifier: ConstraintsVerifier):
    other = tmp_path / "other.json"
    other.write_text('{"type": "string"}')

    found = grade(verifier, '"text"', ("json_schema", {"schema": {"$ref": other.as_uri()}}))

    assert (found.value, found.reason[:37]) == ("ungradable", "json_schema: a reference leads nowhere"[:37])


def test_what_is_cut_is_unparseable(verifier: ConstraintsVerifier):
    instruction = ("punctuation:no_comma", {})

    assert grade(verifier, "fine", instruction, finish_reason="length").reason == "truncated"
    assert grade(verifier, "fine", instruction, closed=False).reason == "unfinished thinking"
    assert grade(verifier, "a" * 200_001, instruction).reason == "answer too long"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("...", 0),
        ("One", 1),
        ("One. Two! Three?", 3),
        ("Wait... what?! No.", 2),
        ("Wait... What?!", 2),
        ('He said "Go." Then he went.', 2),
        ("Dr. Smith met J. R. Jones at 3.5 p.m. on Jan. 5.", 1),
        ("In the U.S. it works. Yes.", 2),
        ("See e.g. Fig. 3. It helps.", 2),
        ("1. One thing.\n2. Another.", 2),
        ("It was I. He knew.", 2),
        ("今天很好。明天呢？", 2),
        ("A list\n- one\n- two", 1),
    ],
)
def test_sentences(text: str, count: int):
    assert count_sentences(text) == count


def test_words_are_runs_of_word_characters():
    assert [count_words(text) for text in ("don't", "well-known", "3.5", "a_b", "¿Qué?", "")] == [2, 2, 2, 1, 1, 0]


@pytest.mark.parametrize(
    ("text", "language", "is_it"),
    [
        ("Bonjour, comment allez-vous?", "fr", True),
        ("Bonjour, comment allez-vous?", "en", False),
        ("Habari ya asubuhi rafiki yangu", "sw", True),
        ("Habari ya asubuhi rafiki yangu", "en", False),
        ("مرحبا كيف حالك اليوم", "ar", True),
        ("مرحبا كيف حالك اليوم", "fa", False),
        ("Привет, как дела сегодня?", "ru", True),
        ("Привет, как дела сегодня?", "de", False),
        ("", "en", False),
    ],
)
def test_the_language_of_short_texts(text: str, language: str, is_it: bool):
    assert in_language(text, language) is is_it
