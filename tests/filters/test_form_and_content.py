"""Filters that look at one trace's form, length, language and content, each with its own reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from distill.core.protocols import Filter, Screen
from distill.core.records import Message, Trace
from distill.filters import domains, format, language, lengths, pass_rate, private, readability
from distill.stages import funnel
from distill.stages.filter import Config
from tests.filters.test_filters import TRACE

ENGLISH = "First we multiply seventeen by twenty, then we add what is left over, and so we come to the answer. " * 2
GERMAN = "Zuerst multiplizieren wir siebzehn mit zwanzig, dann addieren wir den Rest und erhalten so die Antwort. " * 2


def why(chosen: Filter, **changes: Any) -> str:
    assert isinstance(chosen, Screen)
    return chosen.fault(replace(TRACE, **changes))


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({}, {}, ""),
        ({}, {"reasoning": None}, "no thinking"),
        ({}, {"reasoning": " \n"}, "no thinking"),
        ({"thinking": "any"}, {"reasoning": None}, ""),
        ({"thinking": "forbidden"}, {}, "thinking where none belongs"),
        ({"thinking": "forbidden"}, {"reasoning": None}, ""),
        ({}, {"reasoning": "a</think>b<think>c"}, "think tag inside the thinking"),  # two blocks
        ({}, {"answer": "\\boxed{1}</think>"}, "think tag after the thinking"),
        ({"boxed": "one"}, {}, ""),
        ({"boxed": "one"}, {"answer": "It is 391."}, "no boxed answer"),
        ({"boxed": "one"}, {"answer": "\\boxed{1} or \\boxed{2}"}, "several boxed answers"),
        ({"boxed": "some"}, {"answer": "\\boxed{1} or \\boxed{2}"}, ""),
        ({"boxed": "some"}, {"answer": "391", "reasoning": "\\boxed{391}"}, "no boxed answer"),
    ],
)
def test_format(settings: dict[str, Any], changes: dict[str, Any], reason: str):
    assert why(format.build(format.Config(**settings)), **changes) == reason


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({}, {}, ""),
        ({"min_thinking": 10}, {}, "thinking under 10 tokens"),
        ({"min_thinking": 8, "max_thinking": 8}, {}, ""),  # 29 characters; bounds are inclusive
        ({"max_thinking": 7}, {}, "thinking over 7 tokens"),
        ({"min_thinking": 10}, {"reasoning": None}, ""),
        ({"min_answer": 7}, {}, "answer under 7 tokens"),
        ({"max_answer": 5}, {}, "answer over 5 tokens"),
        ({"max_total": 13}, {}, "over 13 tokens"),
        ({"max_thinking": 40}, {"completion_ids": tuple(range(50)), "reasoning_tokens": 41}, "thinking over 40 tokens"),
        ({"max_answer": 9}, {"completion_ids": tuple(range(50)), "reasoning_tokens": 41}, ""),
        ({"max_answer": 49}, {"completion_ids": tuple(range(50)), "reasoning": None}, "answer over 49 tokens"),
    ],
)
def test_lengths(settings: dict[str, Any], changes: dict[str, Any], reason: str):
    assert why(lengths.build(lengths.Config(**settings)), **changes) == reason


def test_lengths_that_nothing_can_have_are_refused():
    with pytest.raises(ValidationError, match="min_answer 5 is more than max_answer 4"):
        lengths.Config(min_answer=5, max_answer=4)


@pytest.mark.parametrize(
    ("settings", "reasoning", "reason"),
    [
        ({}, "short\n\nparagraphs\n\n" * 500, ""),
        ({}, "Let me run it:\n```python\nprint(1)\n```\n", "code block in the thinking"),
        ({"code_blocks": True}, "```python\nprint(1)\n```\n", ""),
        ({}, "the value of `x` is 3", ""),
        ({}, "on and on " * 500, "paragraph over 4,000 characters"),
        ({"longest_paragraph": None}, "on and on " * 500, ""),
    ],
)
def test_readability(settings: dict[str, Any], reasoning: str, reason: str):
    assert why(readability.build(readability.Config(**settings)), reasoning=reasoning) == reason


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({}, {"reasoning": ENGLISH}, ""),
        ({}, {"reasoning": ENGLISH + "凭直觉"}, "foreign script in the thinking"),
        ({}, {"answer": "Ответ: \\boxed{391}"}, "foreign script in the answer"),
        ({"foreign_words": 3}, {"reasoning": ENGLISH + "凭直觉"}, ""),
        ({}, {"reasoning": GERMAN}, "thinking in another language (de)"),
        ({"language": "de"}, {"reasoning": GERMAN, "answer": "\\boxed{391}"}, ""),
        ({"language": "de"}, {"reasoning": ENGLISH}, "thinking in another language (en)"),
        ({"language": "zh"}, {"reasoning": "我们先计算十七乘以二十", "answer": "答案"}, ""),
        ({"language": "ja"}, {"reasoning": "我们先计算十七乘以二十", "answer": ""}, "thinking in another language"),
        ({"language": "zh"}, {"reasoning": "まず十七に二十を掛けます"}, "foreign script in the thinking"),
        ({}, {"reasoning": "$\\alpha + \\beta$ and Δ, π, θ"}, ""),  # symbols are no words
        ({}, {"reasoning": ENGLISH + "the word 直觉", "messages": (Message("user", "What does 直觉 mean?"),)}, ""),
        ({}, {"reasoning": ENGLISH + "`变量`"}, ""),  # code
    ],
)
def test_language(settings: dict[str, Any], changes: dict[str, Any], reason: str):
    assert why(language.build(language.Config(**settings)), **changes) == reason


def test_a_language_that_nobody_knows_is_refused():
    with pytest.raises(ValidationError, match="no language `xx`"):
        language.Config(language="xx")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("write to bob.smith+x@corp.co.uk today", "personal data: e-mail address"),
        ("write to bob@example.com", ""),
        ("@property and a@b are code", ""),
        ("pay with 4111 1111 1111 1111 please", "personal data: payment card number"),
        ("pay with 4111 1111 1111 1112 please", ""),  # its check digit is wrong
        ("2432902008176640000 is 20!", ""),
        ("0.4111111111111111", ""),
        ("account DE89 3704 0044 0532 0130 00", "personal data: bank account number"),
        ("account DE89 3704 0044 0532 0130 01", ""),
        ("call +49 30 901820", "personal data: telephone number"),
        ("+12 34", ""),
        ("x = 3 +12 45", ""),
        ("the server 8.8.8.8 answers", "personal data: network address"),
        ("the server 192.168.0.1 answers", ""),
        ("version 1.2.3.4.5", ""),
        ("-----BEGIN RSA PRIVATE KEY-----", "secret: private key"),
        ("AKIA" + "ABCD1234" * 2, "secret: AWS access key"),
        ("token hf_" + "aB3" * 11, "secret: Hugging Face token"),
        ("sk-ant-" + "aB3" * 11, "secret: OpenAI or Anthropic key"),
        ("a risk-adjusted-return-on-capital-of-the-firm", ""),
    ],
)
def test_private(text: str, reason: str):
    assert why(private.build(private.Config()), reasoning=text) == reason
    assert why(private.build(private.Config(personal=False, secrets=False)), reasoning=text) == ""


def test_the_reason_never_holds_the_find():
    text = "hf_" + "aB3" * 11

    assert text not in why(private.build(private.Config()), answer=text)


def kept(chosen: Filter, traces: Iterable[Trace]) -> set[str]:
    return {d.sample_key for d in funnel.apply(list(traces), [("it", chosen)])[0] if d.kept}


def answers(problem: str, *verdicts: str | None) -> list[Trace]:
    return [
        replace(TRACE, key=f"{problem}{n}", problem_id=problem, verdict=verdict)  # type: ignore[arg-type]  # a literal
        for n, verdict in enumerate(verdicts)
    ]


def test_pass_rate_counts_graded_answers_only():
    some = [
        *answers("a", *["correct"] * 4, *["error"] * 4),  # 1.0 over 4
        *answers("b", "correct", "wrong", "unparseable", "wrong"),  # 0.25
        *answers("c", "correct", "wrong", "correct", "wrong"),  # 0.5
        *answers("d", "wrong", "ungradable", "ungradable", None),  # too few
    ]

    def problems(**settings: Any) -> set[str]:
        return {key[0] for key in kept(pass_rate.build(pass_rate.Config(**settings)), some)}

    assert problems() == {"a", "b", "c", "d"}
    assert problems(low=0.25, high=0.5) == {"b", "c", "d"}  # both ends count
    assert problems(low=0.26, high=0.49) == {"d"}
    assert problems(high=0.99, insufficient="reject") == {"b", "c"}


def test_pass_rate_comes_before_what_takes_the_wrong_answers_away():
    with pytest.raises(ValidationError, match="`pass_rate` must come before `verdict`"):
        Config.model_validate(["verdict", {"pass_rate": {"low": 0.2}}])
    Config.model_validate([{"pass_rate": {"low": 0.2}}, "verdict"])


def of_domains(**sizes: int) -> list[Trace]:
    return [replace(TRACE, key=f"{name}{n}", domain=name) for name, size in sizes.items() for n in range(size)]


def test_domains_are_capped_or_brought_to_shares():
    some = of_domains(maths=60, code=30, logic=9)

    def left(**settings: Any) -> dict[str, int]:
        keys = kept(domains.build(domains.Config(**settings)), some)
        return {name: sum(key.startswith(name) for key in keys) for name in ("maths", "code", "logic")}

    assert left(caps={"maths": 10}) == {"maths": 10, "code": 30, "logic": 9}
    assert left(shares={"maths": 2, "code": 1}) == {"maths": 60, "code": 30, "logic": 0}
    assert left(shares={"maths": 0.5, "code": 0.2, "logic": 0.3}) == {"maths": 15, "code": 6, "logic": 9}
    assert left(shares={"maths": 1, "history": 1}) == {"maths": 0, "code": 0, "logic": 0}


@pytest.mark.parametrize("settings", [{}, {"caps": {"a": 1}, "shares": {"a": 1}}])
def test_domains_want_caps_or_shares(settings: dict[str, Any]):
    with pytest.raises(ValidationError, match="one of them"):
        domains.Config(**settings)
