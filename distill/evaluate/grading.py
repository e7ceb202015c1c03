"""From answers to scores: verdicts from the ledger or a verifier, and classes of equal answers over all models."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from distill.core.config import canonical
from distill.core.ledger import Ledger
from distill.core.plugins import Choice
from distill.core.protocols import Verifier
from distill.core.records import Sample, Verdict
from distill.core.stage import Workspace
from distill.evaluate import forcing, scores
from distill.evaluate.answers import CHUNK, Answers, Task
from distill.evaluate.forcing import ForcedScore
from distill.evaluate.scores import NO_VOTE, Score
from distill.rollout.asks import chunks
from distill.stages import equality, verify


@dataclass(frozen=True)
class Line:
    """A score, and what its answer would vote for; None: it has no vote."""

    score: Score
    vote: str | None


class Grading:
    """Verdicts on answers, kept in the ledger by the verifier's version and settings; a context manager."""

    def __init__(self, verifier: Choice, workspace: Workspace) -> None:
        self.verifier, self.workspace = verifier, workspace
        self.seconds: dict[str, float] = defaultdict(float)
        """Spent on each model."""

    def __enter__(self) -> Grading:
        with ExitStack() as opened:
            ledger = opened.enter_context(Ledger(self.workspace.ledger))
            self._graders = opened.enter_context(verify.Graders(self.verifier, ledger, None, self.workspace))
            self._stack = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def grade(self, task: Task, model: str, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Verdict, Line]]:
        """Each answer with its verdict and its line, in order, a chunk at a time."""
        by_id = task.by_id
        for chunk in chunks(samples, CHUNK):
            began_s = time.monotonic()
            verdicts = self._graders.grade(by_id, chunk)
            self.seconds[model] += time.monotonic() - began_s
            for sample, verdict in zip(chunk, verdicts, strict=True):
                score = scores.score(model, by_id[sample.problem_id], sample, verdict, task=task.name)
                yield sample, verdict, Line(score, _vote(sample, verdict))


def grouped(task: Task, lines: Sequence[Line], verifier: Choice) -> list[Score]:
    """The scores of all models on one task, with the class of equal answers that each belongs to.

    Classes are those of each problem's own verifier, made without a look at the gold answer, as a voter would. Where
    the verifier compares no answers (of programs, say), none has a vote.
    """
    ballots: dict[str, Counter[str]] = {}
    for line in lines:
        if line.vote is not None:
            ballots.setdefault(line.score.problem_id, Counter())[line.vote] += 1
    leaders = _leaders(task, ballots, verifier)
    numbers: dict[str, dict[str, int]] = {}
    found = []
    for line in lines:
        group, of_problem = NO_VOTE, leaders.get(line.score.problem_id)
        if line.vote is not None and of_problem is not None:
            seen = numbers.setdefault(line.score.problem_id, {})
            group = seen.setdefault(of_problem[line.vote], len(seen))
        found.append(replace(line.score, group=group))
    return found


def _leaders(task: Task, ballots: Mapping[str, Counter[str]], verifier: Choice) -> dict[str, dict[str, str]]:
    """The text that leads the class of each text, by problem; none of problems whose verifier compares no answers."""
    by_verifier: dict[str, tuple[Choice, dict[str, Counter[str]]]] = {}
    for name, problem in task.by_id.items():
        if name in ballots:
            choice = verify.choice_of(problem, verifier)
            by_verifier.setdefault(canonical(choice.keyed()), (choice, {}))[1][name] = ballots[name]
    leaders: dict[str, dict[str, str]] = {}
    for choice, part in by_verifier.values():
        judge: Verifier = choice.module().build(verify.on_all_cores(choice.config))
        with closing(judge):
            classes = equality.classes(part, judge) if equality.compares(judge) else {}
            for name, of_problem in classes.items():
                leaders[name] = {text: leader for leader, texts in of_problem.items() for text in texts}
    return leaders


def _vote(sample: Sample, verdict: Verdict) -> str | None:
    """What the verifier took for the answer, else all of it; None where none was found or none could be graded."""
    return (verdict.extracted or sample.answer).strip() if verdict.value in ("correct", "wrong") else None


def forced_scores(answers: Answers, settings: forcing.Config, grading: Grading) -> list[ForcedScore]:
    """The lines of one model's forced answers to one task: graded and grouped as any others, each manner by itself."""
    found: list[ForcedScore] = []
    for forced in answers.forced(list(answers), settings):
        lines = [line for *_, line in grading.grade(answers.task, answers.model.name, forced.samples)]
        found += forcing.scored(forced, grouped(answers.task, lines, grading.verifier))
    return found
