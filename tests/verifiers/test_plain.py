"""Verifiers of answers that are no mathematics: choices, texts, values, measurements, form, and several at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distill.core import jsonl
from distill.core.errors import ConfigError
from distill.core.plugins import ChoiceOf
from distill.core.protocols import Answer, Finding
from distill.text.final import final_answer, numbers_in
from distill.verifiers import exact, literal, numeric, regex


def grade(name: str, text: str, gold: str | None, /, reasoning: str | None = None, **settings: Any) -> Finding:
    choice = ChoiceOf("distill.verifiers", "verifier")._validate({"verifier": name, **settings})
    verifier = choice.module().build(choice.config)
    try:
        (finding,) = verifier.grade([Answer(text, gold, reasoning=reasoning)])
        return finding  # type: ignore[no-any-return]  # plug-ins are loaded by name
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("text", "gold", "value", "reason"),
    [
        ("The answer is (C).", "C", "correct", "same option"),
        ("The answer is (C).", "(C)", "correct", "same option"),
        ("The answer is (C).", "C) twelve", "correct", "same option"),
        ("The answer is (B).", "C", "wrong", "another option"),
        ("The answer is (B) or (C).", "C", "wrong", "several options"),
        ("A, B, C, D", "C", "wrong", "several options"),
        ("It depends.", "C", "unparseable", "no option chosen"),
        ("The answer is (С).", "C", "correct", "same option (look-alike character)"),
        ("The answer is (C).", "twelve", "ungradable", "gold is no option letter"),
    ],
)
def test_choice(text: str, gold: str, value: str, reason: str):
    finding = grade("choice", text, gold)

    assert (finding.value, finding.reason) == (value, reason)


@pytest.mark.parametrize(
    ("text", "gold", "settings", "value"),
    [
        ("Paris", "paris", {}, "correct"),
        ("**Answer:** Paris.", "Paris", {}, "correct"),
        ("I think it is this one.\n<answer>Paris</answer>", "Paris", {}, "correct"),
        (r"\boxed{Paris}", "Paris", {}, "correct"),
        ("The capital is Paris", "Paris", {}, "wrong"),
        ("It is\nParis", "Paris", {"where": "last_line"}, "correct"),
        ("Paris", "Paris", {"where": "tag"}, "unparseable"),
        ("paris", "Paris", {"fold_case": False}, "wrong"),
        ("New   York", "New York", {}, "correct"),
        ("New   York", "New York", {"fold_space": False}, "wrong"),
        ("“Paris”", "Paris", {}, "correct"),
        ("Ｐaris", "Paris", {}, "correct"),
        ("Lutetia", "Paris|Lutetia", {"alternatives": "|"}, "correct"),
        ("Paris|Lutetia", "Paris|Lutetia", {"alternatives": "|"}, "wrong"),
    ],
)
def test_exact(text: str, gold: str, settings: dict[str, Any], value: str):
    assert grade("exact", text, gold, **settings).value == value


@pytest.mark.parametrize(
    ("text", "gold", "value"),
    [
        ("{1: None, 2: None}", "{2: None, 1: None}", "correct"),
        ("[1, 2]", "(1, 2)", "wrong"),
        ("'a'", '"a"', "correct"),
        ("1.0", "1", "correct"),
        ("assert f(1) == [3]", "[3]", "correct"),
        ("So:\n```python\n[3]\n```", "[3]", "correct"),
        ("`[3]`", "[3]", "correct"),
        ("f(3)", "[3]", "wrong"),
        ("__import__('os').system('true')", "0", "wrong"),
        ("(" * 5000, "0", "wrong"),
        ("9" * 30_000, "0", "wrong"),
        ("nan", "0", "wrong"),
        ("3", "f(x)", "ungradable"),
    ],
)
def test_literal(text: str, gold: str, value: str):
    assert grade("literal", text, gold).value == value


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda x: st.lists(x, max_size=3)))
def test_a_value_written_out_is_itself(value: Any):
    verifier = literal.build(literal.Config())

    assert verifier.grade([Answer(repr(value), repr(value), extracted=True)])[0].value == "correct"


def test_literal_agrees_with_execution_on_real_predictions(shared_data: Path):
    verifier = literal.build(literal.Config())
    path = shared_data / "cruxeval_outputs" / "codellama7b_output_prediction.jsonl.gz"
    checked = 0
    for _, row in jsonl.read(path):
        findings = verifier.grade([Answer(text, row["output"], extracted=True) for text in row["generations"]])
        assert [f.value == "correct" for f in findings] == row["scored"], row["id"]
        checked += len(findings)
    assert checked == 3750


@pytest.mark.parametrize(
    ("text", "gold", "settings", "value"),
    [
        (r"\boxed{3.14}", "3.14159", {}, "correct"),
        (r"\boxed{3.2}", "3.14159", {}, "wrong"),
        (r"\boxed{6.0 \times 10^{23}}", "6.022e23", {}, "correct"),
        (r"\boxed{-1{,}234.5 \text{ m}}", "-1234", {}, "correct"),
        (r"\boxed{0.5}", "0", {"relative": 0.0, "absolute": 0.5}, "correct"),
        (r"\boxed{0.51}", "0", {"relative": 0.0, "absolute": 0.5}, "wrong"),
        (r"\boxed{3 \text{ or } 4}", "3", {}, "wrong"),
        (r"\boxed{\text{none}}", "3", {}, "unparseable"),
        (r"\boxed{1e999999999}", "3", {}, "wrong"),
        (r"\boxed{5}", "about five", {}, "ungradable"),
        (r"\boxed{5}", "4 to 6", {}, "ungradable"),
    ],
)
def test_numeric(text: str, gold: str, settings: dict[str, Any], value: str):
    assert grade("numeric", text, gold, **settings).value == value


def test_numeric_without_a_tolerance_is_refused():
    with pytest.raises(ValidationError, match="use the `math` verifier"):
        numeric.Config(relative=0)


@given(st.floats(min_value=1e-30, max_value=1e30), st.floats(min_value=-0.0099, max_value=0.0099))
def test_numeric_accepts_what_is_within(gold: float, off: float):
    verifier = numeric.build(numeric.Config())

    assert verifier.grade([Answer(repr(gold * (1 + off)), repr(gold), extracted=True)])[0].value == "correct"


@pytest.mark.parametrize(
    ("text", "gold", "settings", "value"),
    [
        ("Answer: 2024-01-31", r"\d{4}-\d\d-\d\d", {}, "correct"),
        ("Answer: on 2024-01-31", r"\d{4}-\d\d-\d\d", {}, "wrong"),
        ("Answer: on 2024-01-31", r"\d{4}-\d\d-\d\d", {"whole": False}, "correct"),
        ("ABC", "abc", {"ignore_case": True}, "correct"),
        ("abc", None, {"pattern": "[a-c]+"}, "correct"),
        ("abc", "(", {}, "ungradable"),
        ("a" * 40 + "!", "(a|aa|aaa)+$", {"timeout_s": 0.05}, "unparseable"),
    ],
)
def test_regex(text: str, gold: str | None, settings: dict[str, Any], value: str):
    assert grade("regex", text, gold, **settings).value == value


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="no regular expression"):
        regex.build(regex.Config(pattern="("))


@pytest.mark.parametrize(
    ("text", "reasoning", "settings", "reason", "score"),
    [
        (r"\boxed{1}", "thought", {}, "well formed", 1.0),
        (r"\boxed{1}", None, {}, "no thinking", 0.0),
        (r"\boxed{1}", "\n", {}, "empty thinking", 0.0),
        (r"\boxed{1}", "a</think>b", {}, "think tags more than once", 0.0),
        (r"\boxed{1} <think>", "a", {}, "think tags more than once", 0.0),
        ("1", "a", {}, "no boxed answer", 0.0),
        (r"\boxed{1}\boxed{2}", "a", {}, "several boxed answers", 0.0),
        ("1", None, {"boxed": False, "thinking": False}, "well formed", 1.0),
    ],
)
def test_format(text: str, reasoning: str | None, settings: dict[str, Any], reason: str, score: float):
    finding = grade("format", text, None, reasoning, **settings)

    assert (finding.reason, finding.score) == (reason, score)


def test_language_counts_thinking_and_answer():
    assert grade("language", "The answer is five.", None, "Let me think about it.").score == 1.0
    mixed = grade("language", "The answer is five.", None, "我们先想一想")
    assert mixed.value == "wrong"
    assert mixed.score == pytest.approx(4 / 10)


def test_any_of_takes_the_first_that_is_right_or_the_strongest_objection():
    settings = {"of": ["choice", {"exact": {"where": "whole"}}]}

    assert grade("any_of", "twelve", "C", **settings).reason == "exact: another text"
    assert grade("any_of", "The answer is (C)", "C", **settings).reason == "choice: same option"
    assert grade("any_of", "C", "C", **settings).value == "correct"
    assert grade("any_of", "", "C", **settings).value == "unparseable"


def test_all_of_stops_at_the_first_that_is_not():
    settings = {"of": ["math", {"format": {"thinking": False}}]}

    assert grade("all_of", r"\boxed{5}", "5", **settings).value == "correct"
    assert grade("all_of", "The answer is 5", "5", **settings).reason == "format: no boxed answer"
    assert grade("all_of", r"\boxed{6}", "5", **settings).reason.startswith("math: ")


def test_a_verifier_made_of_others_changes_its_version_with_theirs(monkeypatch: pytest.MonkeyPatch):
    def version() -> int:
        choice = ChoiceOf("distill.verifiers", "verifier")._validate({"verifier": "any_of", "of": ["exact"]})
        return int(choice.module().build(choice.config).version)

    before = version()
    monkeypatch.setattr(exact.ExactVerifier, "version", 2)

    assert version() != before


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("a\n\nb ", "last_line", "b"),
        ("x <answer>a</answer> y <answer> b </answer>", "auto", "b"),
        ("Answer: a\nAnswer: b", "auto", "b"),
        ("answer is 7", "auto", "7"),
        (" all of it ", "whole", "all of it"),
        ("no box", "boxed", None),
    ],
)
def test_where_an_answer_stands(text: str, where: Any, found: str | None):
    assert final_answer(text, where) == found


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1,234,567", ["1234567"]),
        ("1,23", ["1", "23"]),
        (r"-1.5 \cdot 10^{-7}", ["-1.5e-7"]),
        ("−3", ["-3"]),
        ("٣", ["3"]),
        ("x2 and v1.2.3", []),
        (".5", [".5"]),
    ],
)
def test_numbers_in_a_text(text: str, numbers: list[str]):
    assert numbers_in(text) == numbers
