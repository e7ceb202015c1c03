"""Trains and measures the embedded teacher.

python -m teachers.embedded.recipe --seed 0 --out DIR        train from nothing, then measure
python -m teachers.embedded.recipe --measure                 measure the shipped model and print its card
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from distill import embedded
from distill.embedded import Document, Phase, Recipe, dialogue, step_list
from distill.sources import embedded as problems

MODEL = Path(__file__).parent / "model"


def solutions(seed: int) -> Iterator[Document]:
    """First phase: mostly worked problems."""
    return _documents(f"teacher documents/{seed}", seed, solved=0.80, direct=0.03, products=1.0)


def numbers(seed: int) -> Iterator[Document]:
    """Second phase: mostly lists of steps, and of these mostly sums and differences, which are learnt last."""
    return _documents(f"teacher documents, numbers/{seed}", seed + 1_000_000, solved=0.20, direct=0.01, products=0.5)


def _documents(name: str, seed: int, *, solved: float, direct: float, products: float) -> Iterator[Document]:
    """What the teacher reads, all of it of its own pool.

    A share `solved` of the problems is worked step by step, a share `direct` answered without thinking; the steps of
    the others (a share `products` of the multiplications) go into shuffled lists of single steps.
    """
    rng = random.Random(name)
    steps: list[str] = []
    for item in problems.stream("teacher", seed):
        choice = rng.random()
        if choice < solved:
            yield dialogue(item.question, *problems.trace(item))
        elif choice < solved + direct:
            yield dialogue(item.question, None, problems.answer(item.gold))
        else:
            if products == 1.0:
                steps.extend(item.steps)
            else:
                steps.extend(step for step in item.steps if "*" not in step or rng.random() < products)
            if len(steps) >= 200:
                rng.shuffle(steps)
                for at in range(0, 192, 12):
                    yield step_list(steps[at : at + 12])
                steps.clear()


RECIPE = Recipe(
    layers=3, feed_forward=512, phases=(Phase(solutions, steps=2800, horizon=3600), Phase(numbers, steps=2800))
)


def measure(folder: Path, *, n: int = 600, seed: int = 0) -> dict[str, float]:
    """Pass@1 on `n` test problems, overall and by kind and level, in percent, and mean completion tokens.

    One sample a problem at temperature 0.6, top-p 0.95, unless the name says otherwise.
    """
    items = problems.draw("test", n, seed)
    prompts = [embedded.prompt_text(item.question) for item in items]
    sampled = embedded.answers(folder, prompts, temperature=0.6, seed=seed)
    right = [embedded.is_right(text, item.gold) for (text, _), item in zip(sampled, items, strict=True)]
    figures = {"all": _percent(right)}
    for level in problems.LEVELS:
        figures[f"level {level}"] = _percent([r for r, i in zip(right, items, strict=True) if i.level == level])
    for kind in problems.KINDS:
        figures[kind] = _percent([r for r, i in zip(right, items, strict=True) if i.kind == kind])
    greedy = embedded.answers(folder, prompts, temperature=0)
    figures["all, greedy"] = _percent(
        [embedded.is_right(text, item.gold) for (text, _), item in zip(greedy, items, strict=True)]
    )
    figures["mean completion tokens"] = sum(tokens for _, tokens in sampled) / n
    figures["longest completion, tokens"] = max(tokens for _, tokens in sampled)
    return figures


def card(folder: Path, figures: dict[str, float], *, n: int, seed: int) -> str:
    """The model's README: what it is, how it was made, what was measured, and the fingerprint of its weights."""
    rows = "\n".join(f"| {name} | {value:.1f} |" for name, value in figures.items())
    return f"""\
---
license: apache-2.0
library_name: transformers
---
# Embedded teacher

A Qwen3-shaped model of {embedded.count_parameters(folder):,} parameters that solves generated arithmetic and algebra
problems (products, equations, shops, distances) step by step, R1-style, and is sometimes wrong. It was trained from
nothing on generated problems of the `teacher` pool; test problems share no operands with them.

- Recipe: `python -m teachers.embedded.recipe --seed {seed} --out DIR` ({RECIPE}).
- Weights (float16), SHA-256: `{embedded.weights_fingerprint(folder)}`
- Template: the prompt opens the thinking (`<think>` and a newline); with `enable_thinking=false` it closes it at
  once. The template writes the BOS; the tokenizer never adds one. Generation ends at `{embedded.END}`.

Measured by `python -m teachers.embedded.recipe --measure` on {n} problems of the `test` pool, one sample each at
temperature 0.6, top-p 0.95 (accuracy in percent: the boxed answer after the thinking equals the gold number):

| | |
| --- | --- |
{rows}
"""


def _percent(flags: Sequence[bool]) -> float:
    return 100 * sum(flags) / len(flags)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    embedded.command("teacher", RECIPE, MODEL, measure, card, problems=600, arguments=arguments)


if __name__ == "__main__":
    main()
