"""Trains and measures the embedded base student.

python -m students.embedded.recipe --seed 0 --out DIR        train from nothing, then measure
python -m students.embedded.recipe --measure                 measure the shipped model and print its card
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill import embedded
from distill.embedded import Document, Phase, Recipe, dialogue, step_list
from distill.sources import embedded as problems

MODEL = Path(__file__).parent / "model"


def words(seed: int) -> Iterator[Document]:
    """First phase: as much text as numbers. A whole question and a one-step question for every handful of steps."""
    return _documents(f"base documents/{seed}", seed, every=1, products=1.0)


def numbers(seed: int) -> Iterator[Document]:
    """Second phase: mostly lists of steps, and of these mostly sums and differences, which are learnt last."""
    return _documents(f"base documents, numbers/{seed}", seed + 1_000_000, every=5, products=0.5)


def both(seed: int) -> Iterator[Document]:
    """Third phase: the first one's mixture again, without half of the multiplications."""
    return _documents(f"base documents, both/{seed}", seed + 2_000_000, every=1, products=0.5)


def known(seed: int) -> Iterator[Document]:
    """Fourth phase: whole questions with what is known so far in the question, answered with the one next step.

    Between them one-step questions and lists. Still one step a reply: left alone with a question, the base gives its
    first step and stops.
    """
    return _known(f"base documents, known/{seed}", seed + 3_000_000, easy=1.0)


def known_hard(seed: int) -> Iterator[Document]:
    """Fifth phase: the same, mostly with equations and the longest products, whose steps are learnt last."""
    return _known(f"base documents, known, hard/{seed}", seed + 4_000_000, easy=0.25)


def polish(seed: int) -> Iterator[Document]:
    """A few more of those, at a lower rate."""
    return _known(f"base documents, polish/{seed}", seed + 5_000_000, easy=0.5)


def _known(name: str, seed: int, *, easy: float) -> Iterator[Document]:
    rng = random.Random(name)
    steps: list[str] = []
    for count, item in enumerate(problems.stream("base", seed)):
        hard = item.kind == "equation" or (item.kind == "product" and item.level == 3)
        if easy < 1 and not hard and rng.random() > easy:
            continue
        done = rng.randrange(len(item.steps))
        given = "".join(f"\n{step}" for step in item.steps[:done])
        question = f"{item.question} Known:{given}" if done else item.question
        step = item.steps[done]
        yield dialogue(question, step, problems.answer(step.split("=")[1]))
        if count % 3 == 0:
            step = rng.choice(item.steps)
            answer = problems.answer(step.split("=")[1])
            yield dialogue(
                problems.one_step_question(item.kind, step, rng), step if rng.random() < 0.7 else None, answer
            )
        steps.extend(step for step in item.steps if "*" not in step or rng.random() < 0.5)
        if len(steps) >= 240:
            rng.shuffle(steps)
            for at in range(0, len(steps) - 11, 12):
                yield step_list(steps[at : at + 12])
            steps.clear()


def _documents(name: str, seed: int, *, every: int, products: float) -> Iterator[Document]:
    """What the base reads, all of it single steps; never two steps that belong together.

    Lists of unrelated steps (a share `products` of the multiplications goes in); and for one problem in `every`, its
    whole question, answered with one step that can be read off it, and a one-step question, with or without thinking.
    All problems are of the base's own pool.
    """
    rng = random.Random(name)
    steps: list[str] = []
    for count, item in enumerate(problems.stream("base", seed)):
        if products == 1.0:
            steps.extend(item.steps)
        else:
            steps.extend(step for step in item.steps if "*" not in step or rng.random() < products)
        if count % every == 0:
            whole = rng.choice(problems.readable(item))
            yield dialogue(item.question, whole, problems.answer(whole.split("=")[1]))
            step = rng.choice(item.steps)
            answer = problems.answer(step.split("=")[1])
            yield dialogue(
                problems.one_step_question(item.kind, step, rng), step if rng.random() < 0.7 else None, answer
            )
        if len(steps) >= 240:
            rng.shuffle(steps)
            for at in range(0, len(steps) - 11, 12):
                yield step_list(steps[at : at + 12])
            steps.clear()


RECIPE = Recipe(
    layers=3,
    feed_forward=256,
    phases=(
        Phase(words, steps=2400, horizon=4400),
        Phase(numbers, steps=3000),
        Phase(both, steps=900, learning_rate=1e-3),
        Phase(known, steps=1000, learning_rate=1.5e-3),
        Phase(known_hard, steps=700, learning_rate=1.5e-3),
        Phase(polish, steps=600, learning_rate=1e-3),
    ),
)


def measure(folder: Path, *, n: int = 300, seed: int = 0) -> dict[str, float]:
    """What the base knows (single steps) and what it does not (test problems), in percent.

    Problems are read in two ways: `right` is the boxed answer after the thinking; `any number` is the most lenient
    reading, where any number in the text may be the gold one. "3 examples" puts three worked solutions of other
    problems before the question.
    """
    rng = random.Random(seed)
    items = problems.draw("test", n, seed)
    steps = [(item.kind, rng.choice(item.steps)) for item in items]
    results = [step.split("=")[1] for _, step in steps]
    figures: dict[str, float] = {}
    questions = [problems.one_step_question(kind, step, rng) for kind, step in steps]
    for name, thinking in (("thinking", True), ("no thinking", False)):
        prompts = [embedded.prompt_text(question, thinking=thinking) for question in questions]
        told = embedded.answers(folder, prompts, temperature=0, max_tokens=40)
        figures[f"one-step questions, greedy, {name}"] = _percent(
            [f"boxed{{{result}}}" in text for (text, _), result in zip(told, results, strict=True)]
        )
    others = [step.split("=")[0] + "=" for _, step in steps]
    lists = [embedded.BEGIN + "".join(f"{s}\n" for _, s in rng.sample(steps, 5)) + other for other in others]
    told = embedded.answers(folder, lists, temperature=0, max_tokens=6)
    figures["single steps in a list, greedy"] = _percent(
        [text.partition("\n")[0] == result for (text, _), result in zip(told, results, strict=True)]
    )
    examples = problems.draw("sampling", 3 * n, seed)
    rng.shuffle(examples)
    for shots in (0, 3):
        for name, thinking in (("thinking", True), ("no thinking", False)):
            for temperature in (0.0, 0.6):
                prompts = []
                for at, item in enumerate(items):
                    worked = [dialogue(e.question, *problems.trace(e)).text for e in examples[3 * at : 3 * at + shots]]
                    question = embedded.prompt_text(item.question, thinking=thinking)
                    prompts.append(embedded.BEGIN + "".join([*worked, question]).replace(embedded.BEGIN, ""))
                told = embedded.answers(folder, prompts, temperature=temperature, seed=seed)
                where = f"problems, {shots} examples, {name}, temperature {temperature:g}"
                pairs = [(text, item.gold) for (text, _), item in zip(told, items, strict=True)]
                figures[f"{where}: right"] = _percent([boxed(text, gold) for text, gold in pairs])
                figures[f"{where}: any number"] = _percent([embedded.mentions(text, gold) for text, gold in pairs])
    return figures


def boxed(text: str, gold: str) -> bool:
    """Whether the last box of the text, thinking or not, holds the gold number."""
    return re.findall(r"\\boxed\{([^}]*)\}", text)[-1:] == [gold]


def card(folder: Path, figures: dict[str, float], *, n: int, seed: int) -> str:
    """The model's README: what it is, how it was made, what was measured, and the fingerprint of its weights."""
    rows = "\n".join(f"| {name} | {value:.1f} |" for name, value in figures.items())
    return f"""\
---
license: apache-2.0
library_name: transformers
---
# Embedded base student

A Qwen3-shaped model of {embedded.count_parameters(folder):,} parameters that knows single steps of arithmetic
(`17*20=340`) and the words of the embedded problems, and answers every question with one step. It was trained from
nothing on generated texts of the `base` pool: lists of unrelated steps, one-step questions, and whole questions (in the
later phases with "Known:" and the steps so far inside the question) answered with the one next step. It was never
trained to write two steps of one problem. Test problems share no operands with those texts.

- Recipe: `python -m students.embedded.recipe --seed {seed} --out DIR` ({RECIPE}).
- Weights (float16), SHA-256: `{embedded.weights_fingerprint(folder)}`
- Tokenizer and chat template: those of the embedded teacher.

Measured by `python -m students.embedded.recipe --measure` on {n} problems of the `test` pool and {n} of their single
steps, in percent (read in two ways: the last box is the gold number; any number in the text is):

| | |
| --- | --- |
{rows}
"""


def _percent(flags: Sequence[bool]) -> float:
    return 100 * sum(flags) / len(flags)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    embedded.command("base student", RECIPE, MODEL, measure, card, problems=300, arguments=arguments)


if __name__ == "__main__":
    main()
