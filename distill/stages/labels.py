"""Majority labels: what most of a teacher's answers say, where a problem has no gold answer.

A label is no gold answer. It has a record and a file of its own (`labels.parquet` beside the samples it was made of),
is read by `verify` for those samples alone, and every verdict and trace that rests on it is marked `majority`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.protocols import Verifier
from distill.core.records import LabelSource, Problem, Sample
from distill.stages.equality import classes
from distill.text.answers import extract, gold_fault

FILE = "labels.parquet"


@dataclass(frozen=True)
class Label:
    """The answer that most samples of a problem agree on, as it was most often written.

    `votes` of its `answers` agree; those that were cut, never ended or gave no answer have no vote but are counted.
    `support` is their share. `low_support`: it is below `threshold`, or another answer has as many votes; nothing is
    graded by such a label.
    """

    problem_id: str
    label: str
    votes: int
    answers: int
    support: float
    threshold: float
    low_support: bool
    label_source: LabelSource = "majority"


def vote(answers: Mapping[str, Sequence[Sample]], verifier: Choice, threshold: float) -> Iterator[Label]:
    """A label for each problem (answers by its id) in which any answer has a vote, in the order given.

    Answers are one group where the verifier takes each for the other, whatever they look like. The result does not
    depend on the order of the samples.
    """
    unmarked = getattr(verifier.config, "unmarked", "last") != "refuse"
    ballots = {problem: Counter(_votes(samples, unmarked)) for problem, samples in answers.items()}
    judge: Verifier = verifier.module().build(verifier.config)
    try:
        groups = classes(ballots, judge)
    finally:
        judge.close()
    for problem, members in groups.items():
        found = {leader: sum(ballots[problem][text] for text in texts) for leader, texts in members.items()}
        if found:
            first, second = [*sorted(found.values(), reverse=True), 0][:2]
            support = first / len(answers[problem])
            label = next(text for text, votes in found.items() if votes == first)
            low = support < threshold or first == second
            yield Label(problem, label, first, len(answers[problem]), support, threshold, low)


def read(folder: Path, problems: Mapping[str, Problem], ungradable: Mapping[str, str]) -> dict[str, Label]:
    """The labels beside a stage's samples that may be graded by, by problem id; none where there is no such file.

    Raises DistillError for a label of a problem that has a gradable gold answer, or is not for training: a label never
    stands in for gold, and dev and test are measured against gold alone.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    labels = tables.read(path, Label)
    for label in labels:
        problem = problems.get(label.problem_id)
        if problem is None or problem.split != "train":
            where = "is not there" if problem is None else f"is in {problem.split}"
            raise DistillError(f"{path}: labels problem {label.problem_id}, which {where}; only train may be labelled")
        if problem.id not in ungradable:
            raise DistillError(f"{path}: labels problem {problem.id}, which has a gold answer; remove one of the two")
    return {label.problem_id: label for label in labels if not label.low_support}


def _votes(samples: Sequence[Sample], unmarked: bool) -> Iterator[str]:
    """Final answers that could be somebody's gold answer: "N/A" and half a formula cannot."""
    for sample in samples:
        if sample.finish_reason == "stop" and sample.closed:
            found = extract(sample.answer, unmarked=unmarked)
            if found is not None and gold_fault(found.text) is None:
                yield found.text.strip()
