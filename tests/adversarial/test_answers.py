"""Hostile answers: all end within their limits, none is right, the pool stays whole, and the next answer is right."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from distill.core.protocols import Answer
from distill.text.answers import boxes, extract, gold_fault, named_option, option_of
from distill.text.readings import clean, read
from distill.text.shapes import shape
from distill.verifiers.math import Config, build
from tests.adversarial.answers import corpus

CPU_S = 0.3


def test_the_corpus_is_large_and_its_golds_are_answers():
    names = Counter(name for name, _, _ in corpus())

    assert len(names) >= 150
    assert max(names.values()) == 1
    assert [gold for _, _, gold in corpus() if gold_fault(gold)] == []


def test_no_hostile_answer_is_right_hangs_or_harms_the_next(tmp_path: Path):
    path = tmp_path / "made"
    verifier = build(Config(cpu_s=CPU_S, memory_mib=768))
    hostile = [(name, Answer(text.replace("{path}", str(path)), gold)) for name, text, gold in corpus()]
    honest = [Answer(f"\\boxed{{\\sqrt{{{2 * n * n}}}}}", f"{n}\\sqrt{{2}}") for n in range(2, 2 + len(hostile))]
    answers = [answer for (_, bad), good in zip(hostile, honest, strict=True) for answer in (bad, good)]
    began_s = time.monotonic()

    findings = verifier.grade(answers)

    took_s = time.monotonic() - began_s
    accepted = [name for (name, _), found in zip(hostile, findings[::2], strict=True) if found.value == "correct"]
    assert accepted == []
    assert {found.value for found in findings[::2]} <= {"wrong", "unparseable"}
    assert {found.value for found in findings[1::2]} == {"correct"}
    assert not path.exists()
    assert verifier.workers.alive == 2
    assert took_s < 240  # some dozens are killed at half a second each; a hang would take two minutes for one
    verifier.close()


@pytest.mark.parametrize(("name", "text"), [pytest.param(name, text, id=name) for name, text, _ in corpus()])
def test_reading_takes_linear_time(name: str, text: str):
    """In this process, before any worker: extraction and reading of the whole text."""
    began_s = time.process_time()

    found = extract(text)
    boxes(text)
    named_option(text)
    option_of(text[:2000])
    if found is not None:
        answer = found.text[:2000]
        clean(answer)
        read(answer)
        shape(answer)

    assert time.process_time() - began_s < 30.0, name  # no claim of speed: work that is not linear takes minutes
