"""The shipped base student: the teacher's tokenizer, single steps, and no reasoning yet."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import teachers.embedded
from distill import embedded
from distill.embedded import Document
from distill.sources import embedded as problems
from students.embedded.recipe import MODEL, RECIPE, boxed

TEACHER = Path(teachers.embedded.__file__).parent / "model"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_it_reads_and_writes_as_the_teacher_does(name: str):
    assert (MODEL / name).read_bytes() == (TEACHER / name).read_bytes()


def test_it_is_smaller_than_the_teacher_and_both_ship_in_12_mb():
    assert embedded.count_parameters(MODEL) < embedded.count_parameters(TEACHER)
    assert sum(file.stat().st_size for folder in (MODEL, TEACHER) for file in folder.iterdir()) <= 12e6


def test_the_card_names_the_weights_that_are_there():
    assert embedded.weights_fingerprint(MODEL) in (MODEL / "README.md").read_text()


@pytest.mark.parametrize("phase", [phase.documents for phase in RECIPE.phases])
def test_the_recipe_shows_questions_of_its_own_pool_and_one_step_of_each(phase: Callable[[int], Iterator[Document]]):
    texts = [document.text for document in itertools.islice(phase(0), 2000)]
    seen = {item.question for pool in ("teacher", "sampling", "dev", "test") for item in problems.draw(pool, 3000, 0)}

    for text in texts:
        if "<|User|>" in text:
            question, _, reply = text.partition("<|User|>")[2].partition("<|Assistant|>")
            assert question not in seen
            assert reply.count("=") <= 1
        else:
            assert text.count("=") == 12


@pytest.mark.parametrize("phase", [phase.documents for phase in RECIPE.phases])
def test_lists_put_no_problem_s_steps_in_their_order(phase: Callable[[int], Iterator[Document]]):
    lists = [document.text for document in itertools.islice(phase(0), 2000) if "<|User|>" not in document.text]

    # shuffled among 240: two neighbours where the second uses the first's result are there by chance only
    pairs = [
        (one, other) for text in lists for one, other in itertools.pairwise(text.removeprefix("<|begin|>").splitlines())
    ]
    chained = sum(one.split("=")[1] in re.split(r"[-+*/]", other.split("=")[0]) for one, other in pairs)
    assert chained < 0.03 * len(pairs)


def test_one_step_questions_name_both_numbers_of_the_step():
    rng = random.Random(0)
    for item in problems.draw("base", 300, 0):
        for step in item.steps:
            question = problems.one_step_question(item.kind, step, rng)
            given = set(re.findall(r"\d+", step.split("=")[0]))
            assert given <= set(re.findall(r"\d+", question)) | {step.split("=")[1]}, (question, step)


def test_it_knows_single_steps():
    rng = random.Random(0)
    steps = [rng.choice(item.steps) for item in problems.draw("test", 60, 7)]
    lists = [
        embedded.BEGIN + "".join(f"{other}\n" for other in rng.sample(steps, 5)) + step.split("=")[0] + "="
        for step in steps
    ]

    told = embedded.answers(MODEL, lists, temperature=0, max_tokens=6)

    right = sum(text.split("\n")[0] == step.split("=")[1] for (text, _), step in zip(told, steps, strict=True))
    assert right >= 54


@pytest.mark.parametrize("thinking", [True, False])
def test_it_cannot_solve_problems_under_the_most_lenient_reading(thinking: bool):
    items = problems.draw("test", 60, 7)

    told = embedded.answers(
        MODEL, [embedded.prompt_text(item.question, thinking=thinking) for item in items], temperature=0.6
    )

    assert sum(embedded.mentions(text, item.gold) for (text, _), item in zip(told, items, strict=True)) <= 6


def test_a_box_counts_with_or_without_thinking():
    assert boxed("Answer: \\boxed{51}", "51")
    assert not boxed("\\boxed{51} no, \\boxed{5}", "51")
