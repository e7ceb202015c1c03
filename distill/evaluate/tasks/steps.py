"""Single steps of arithmetic in words: what the embedded base student knows before it is taught.

    evaluate: {guard: [steps]}

The regression guard of the quickstart: a student that learnt to reason in several steps and forgot how to take one
shows it here. Every question has one step (`12*3=36`, asked as `Tom buys 3 pens at 12 coins each. How much is that?`),
taken from the embedded source's `test` problems; a single step may also stand in a training problem, a whole problem
of the `test` pool never does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from pydantic import NonNegativeInt, PositiveInt

from distill import tabular
from distill.core.errors import DistillError
from distill.core.records import Problem
from distill.evaluate import task
from distill.sources import embedded


class Config(task.TaskSettings):
    """Settings of the `steps` task."""

    USUAL = task.Draw(max_tokens=160)
    """The embedded models were trained on no longer answers, and have a context of 1,024 tokens."""
    VERIFIER = "math"
    size: PositiveInt = 300
    """How many different questions."""
    seed: NonNegativeInt = 0
    """Other questions than those of another seed."""


def build(config: Config) -> Iterator[Problem]:
    """The questions, kinds and levels of their problems in equal parts as far as questions differ."""
    rng = random.Random(f"steps/{config.seed}")
    seen: set[str] = set()
    misses = 0
    for item in embedded.stream("test", config.seed):
        step = rng.choice(item.steps)
        question = embedded.one_step_question(item.kind, step, rng)
        if question in seen:
            misses += 1
            if misses > 20 * config.size + 1000:
                raise DistillError(f"`size: {config.size}` is more than there are; {len(seen):,} different were found")
            continue
        seen.add(question)
        yield tabular.problem(
            question,
            split="test",
            gold=step.partition("=")[2],
            domain=item.kind,
            source="steps",
            licence="Apache-2.0",
            verifier="math",
        )
        if len(seen) == config.size:
            return
