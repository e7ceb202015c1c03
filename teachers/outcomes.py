"""What became of each problem: how much was asked, why no more, and what that says of the teacher."""

from __future__ import annotations

from dataclasses import dataclass

from distill.core.records import Sample
from teachers.policy import BARE, Policy, Tally

FILE = "outcomes.parquet"


@dataclass(frozen=True)
class Outcome:
    """One problem after the sampling. Counts are of answers without a hint, unless their name says otherwise.

    `graded` and `correct` are None where the policy needs no verdicts. `stopped` is the policy's rule that ended the
    asking (`set aside`: nothing to grade against, never asked; `budget`: it was spent before). `pass_rate` is the
    estimate that fits this rule, from the first `counted` graded answers. Tokens are those of all answers that are
    there, hinted ones included.
    """

    problem_id: str
    policy: str
    asked: int
    answered: int
    graded: int | None
    correct: int | None
    cut: int
    hinted: int
    hinted_correct: int | None
    stopped: str
    counted: int | None
    pass_rate: float | None
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass
class Seen:
    """What is counted of one problem's answers while they stream by."""

    answered: int = 0
    cut: int = 0
    hinted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    def add(self, sample: Sample) -> None:
        """Count one answer."""
        if sample.rationalised:
            self.hinted += 1
        else:
            self.answered += 1
            self.cut += sample.finish_reason == "length"
        self.prompt_tokens += sample.prompt_tokens
        self.completion_tokens += sample.completion_tokens
        if sample.cost is not None:
            self.cost = (self.cost or 0.0) + sample.cost


def outcome(problem_id: str, name: str, policy: Policy, tally: Tally, seen: Seen, unfinished: str | None) -> Outcome:
    """The record of one problem; `unfinished` says why the policy could not go to its end, where it could not."""
    bare, hinted = tally.get(BARE), [drawn for line, drawn in tally.items() if line != BARE]
    stopped = policy.stopped(tally)
    graded = policy.needs_verdicts and bare is not None
    return Outcome(
        problem_id=problem_id,
        policy=name,
        asked=0 if bare is None else bare.asked,
        answered=seen.answered,
        graded=len(bare.graded) if graded and bare is not None else None,
        correct=bare.correct if graded and bare is not None else None,
        cut=seen.cut,
        hinted=seen.hinted,
        hinted_correct=sum(drawn.correct for drawn in hinted) if graded else None,
        stopped=unfinished or stopped.rule,
        counted=stopped.n,
        pass_rate=stopped.pass_rate,
        prompt_tokens=seen.prompt_tokens,
        completion_tokens=seen.completion_tokens,
        cost=seen.cost,
    )
