"""The embedded base knows single steps, which is what the guard of the quickstart measures."""

from __future__ import annotations

from distill import embedded
from distill.evaluate import task
from students.embedded.recipe import MODEL
from tests.evaluate.tasks.made import choose
from tests.evaluate.tasks.test_contract import grade


def test_the_embedded_base_answers_most_steps_when_it_may_think():
    problems = task.load(choose("steps", rows=24))
    prompts = [embedded.prompt_text(problem.messages[-1].content) for problem in problems]

    texts = embedded.answers(MODEL, prompts, temperature=0, max_tokens=40)

    finals = [text.partition(embedded.UNTHINK)[2] for text, _ in texts]
    right = [verdict.value for verdict in grade(problems, finals)].count("correct")
    assert right >= 17, "86% of 300 by the model's card; fewer than 17 of 24 has a chance of 2%"
