"""A policy's rounds: buys what it asks for, shows it what became of that, and reads the answers at the end.

Holds a few words a problem (what was asked, the verdicts), never the answers: those stream through in chunks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from types import TracebackType

from distill import rollout
from distill.core.ledger import Ledger
from distill.core.plugins import Choice
from distill.core.records import Problem, Sample, Sampling, VerdictValue
from distill.core.stage import Workspace
from distill.rollout import Ask, Budget, Display, Teacher
from distill.rollout.asks import Loaded, Standing
from distill.stages.verify import grade
from distill.text.answers import gold_answer
from teachers.policy import BARE, Drawn, Line, Policy, Tally

CHUNK = 2048
"""Answers that are held at a time."""


@dataclass(frozen=True)
class Manner:
    """How a problem is put to the teacher, when all that its family advises is filled in."""

    sampling: Sampling
    teacher: Teacher
    system: str | None = None
    instruction: str | None = None
    escalate_to: int | None = None

    @property
    def limits(self) -> list[int]:
        """Limits in tokens that an answer is tried with: doubling from the first up to the cap, while it is cut."""
        limits = [self.sampling.max_tokens]
        while self.escalate_to is not None and limits[-1] < self.escalate_to:
            limits.append(min(2 * limits[-1], self.escalate_to))
        return limits

    def at(self, limit: int) -> Sampling:
        """The sampling with this limit."""
        return replace(self.sampling, max_tokens=limit)


@dataclass(frozen=True)
class Wanted:
    """Answers wanted to one problem, along one line."""

    problem: Problem
    line: Line
    indices: range

    def place(self) -> tuple[str, bool]:
        """What its samples say of where they belong."""
        return self.problem.id, self.line != BARE

    def only(self, index: int) -> Wanted:
        """One of its answers."""
        return replace(self, indices=range(index, index + 1))

    def ask(self, manner: Manner) -> Ask:
        """As it is put to the teacher."""
        asked = as_asked(self.problem, self.line, system=manner.system, instruction=manner.instruction)
        return Ask(asked, self.indices, rationalised=self.line != BARE)


def as_asked(problem: Problem, line: Line = BARE, *, system: str | None, instruction: str | None) -> Problem:
    """The problem as it is asked; its id stays.

    A system prompt goes before its turns, unless it brought its own; hint, then instruction after the last user turn.
    """
    hint = line.hint.replace("{gold}", gold_answer(problem.gold or "").strip())
    return rollout.as_asked(problem, system=system, after=[hint, instruction])


@dataclass(frozen=True)
class Spent:
    """Tokens, read and written, and money; failed tries included. Money is None where the price is unknown."""

    tokens: int = 0
    cost: float | None = None

    def __add__(self, other: Spent) -> Spent:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Spent(self.tokens + other.tokens, sum(known) if known else None)

    def __sub__(self, other: Spent) -> Spent:
        cost = None if self.cost is None else self.cost - (other.cost or 0.0)
        return Spent(self.tokens - other.tokens, cost)

    def left_of(self, budget: Budget) -> Budget | None:
        """What is left of a budget; None where there is none."""
        tokens = None if budget.tokens is None else max(0, budget.tokens - self.tokens)
        cost = None if budget.cost is None else max(0.0, budget.cost - (self.cost or 0.0))
        return None if tokens is None and cost is None else Budget(tokens, cost)


class Answers:
    """Buys and reads the answers of one sampling, and counts what they cost. A context: it keeps the engine loaded."""

    def __init__(
        self,
        workspace: Workspace,
        manners: Mapping[bool | None, Manner],
        budget: Budget,
        say: Callable[[str], None],
        display: Display | None = None,
    ) -> None:
        self.workspace, self.budget, self.say, self.display = workspace, budget, say, display
        self.loaded = Loaded()
        self.manners = {thinking: self._standing(manner) for thinking, manner in manners.items()}
        self.bought = 0
        self.spent = Spent()
        self.failed: Counter[str] = Counter()
        self.first_error: str | None = None
        self.spent_out = False

    def _standing(self, manner: Manner) -> Manner:
        who = manner.teacher
        standing = Standing(who.engine, who.model, who.revision, who.dialect, who.prices, self.loaded)
        return replace(manner, teacher=standing)

    def __enter__(self) -> Answers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loaded.close()

    def buy(self, wanted: Sequence[Wanted]) -> None:
        """Buy what is missing; what comes back cut is bought again with the next limit, where there is one.

        Stops where the budget ends: `spent_out`.
        """
        for manner, part in self._by_manner(wanted):
            tried, limits = part, manner.limits
            self._fill(manner, tried, limits[0], Spent())
            for last, limit in pairwise(limits):
                if self.spent_out:
                    return
                tried, already = self._cut(manner, tried, last)
                if not tried:
                    break
                self.say(f"cut at {last:,} tokens: {len(tried):,}; tried again with {limit:,}")
                self._fill(manner, tried, limit, already)

    def _fill(self, manner: Manner, wanted: Sequence[Wanted], limit: int, already: Spent) -> None:
        """One call of `rollout.fill`, within what is left. `already` is what these very answers have cost before."""
        others = self.spent - already
        filled = rollout.fill(
            [one.ask(manner) for one in wanted], manner.at(limit), manner.teacher, self.workspace,
            label="sample", budget=others.left_of(self.budget), display=self.display,
        )  # fmt: skip
        self.spent = others + Spent(filled.tokens, filled.cost)
        self.bought += filled.bought
        self.failed += filled.failed
        self.first_error = self.first_error or filled.first_error
        self.spent_out = filled.spent_out

    def _cut(self, manner: Manner, wanted: Sequence[Wanted], limit: int) -> tuple[list[Wanted], Spent]:
        """The answers that were cut at a limit, and what all their tries have cost."""
        source = {one.place(): one for one in wanted}
        cut: list[Wanted] = []
        keys: list[str] = []
        asks = [one.ask(manner) for one in wanted]
        for sample in rollout.read(asks, manner.at(limit), manner.teacher, self.workspace):
            if sample.finish_reason == "length":
                cut.append(source[sample.problem_id, sample.rationalised].only(sample.index))
                keys.append(sample.key)
        with Ledger(self.workspace.ledger) as ledger:
            priced, unpriced = ledger.usage(keys)
        spent, prices = Spent(priced.tokens + unpriced.tokens), manner.teacher.prices
        if prices is not None:
            today = prices.of(unpriced.prompt_tokens, unpriced.completion_tokens)
            spent = replace(spent, cost=(priced.cost or 0.0) + today)
        return cut, spent

    def read(self, wanted: Iterable[Wanted]) -> Iterator[Sample]:
        """The answers that are there, in order; of each the one with the largest limit that was bought."""
        if len(self.manners) == 1:
            (manner,) = self.manners.values()
            if len(manner.limits) == 1:  # as they stand in the ledger
                asks = [one.ask(manner) for one in wanted]
                yield from rollout.read(asks, manner.sampling, manner.teacher, self.workspace)
                return
        for chunk in _chunks(wanted):
            found: dict[tuple[str, bool, int], Sample] = {}
            for manner, part in self._by_manner(chunk):
                lacking = part
                for limit in reversed(manner.limits):
                    asks = [one.ask(manner) for one in lacking]
                    for sample in rollout.read(asks, manner.at(limit), manner.teacher, self.workspace):
                        found[sample.problem_id, sample.rationalised, sample.index] = sample
                    lacking = [
                        one.only(index)
                        for one in lacking
                        for index in one.indices
                        if (*one.place(), index) not in found
                    ]
                    if not lacking:
                        break
            for one in chunk:
                yield from (found[*one.place(), index] for index in one.indices if (*one.place(), index) in found)

    def _by_manner(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Manner, list[Wanted]]]:
        for thinking, manner in self.manners.items():
            part = [one for one in wanted if one.problem.thinking == thinking]
            if part:
                yield manner, part


def _chunks(wanted: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    chunk: list[Wanted] = []
    size = 0
    for one in wanted:
        chunk.append(one)
        size += len(one.indices)
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@dataclass
class Course:
    """How a sampling went: what was drawn of each problem, in order of the problems."""

    tallies: dict[str, dict[Line, Drawn]]
    unfinished: dict[str, str] = field(default_factory=dict)
    """Problems whose asking ended before the policy's end, and why."""

    def wanted(self, problems: Iterable[Problem]) -> Iterator[Wanted]:
        """All that was asked for, in order."""
        for problem in problems:
            for line, drawn in self.tallies.get(problem.id, {}).items():
                yield Wanted(problem, line, range(drawn.asked))


def go(policy: Policy, problems: Sequence[Problem], answers: Answers, verifier: Choice | None) -> Course:
    """Ask round by round until the policy asks no more, or the budget is spent.

    A problem with an answer that failed, and is owed, is asked no further: what comes next may depend on it.
    """
    course = Course({problem.id: {} for problem in problems})
    by_id = {problem.id: problem for problem in problems}
    while not answers.spent_out:
        live: dict[str, Tally] = {key: t for key, t in course.tallies.items() if key not in course.unfinished}
        asked = policy.next_round(live)
        wanted = [
            Wanted(by_id[key], line, range((had := live[key].get(line, Drawn()).asked), had + more))
            for key in course.tallies
            for line, more in asked.get(key, {}).items()
            if more > 0
        ]
        if not wanted:
            break
        answers.buy(wanted)
        if policy.needs_verdicts and verifier is not None:
            _see(course, wanted, answers, verifier, by_id)
        else:
            for one in wanted:
                course.tallies[one.problem.id][one.line] = Drawn(one.indices.stop)
    if answers.spent_out:
        live = {key: tally for key, tally in course.tallies.items() if key not in course.unfinished}
        course.unfinished |= dict.fromkeys(policy.next_round(live), "budget")
    return course


def _see(
    course: Course, wanted: Sequence[Wanted], answers: Answers, verifier: Choice, problems: Mapping[str, Problem]
) -> None:
    """Add a round to the tallies, with its verdicts. They are kept in the ledger: `verify` finds them there."""
    seen: dict[tuple[str, bool], list[VerdictValue]] = {}
    with Ledger(answers.workspace.ledger) as ledger:
        stream = answers.read(wanted)
        while samples := list(islice(stream, CHUNK)):
            verdicts = grade(problems, samples, verifier, store=ledger, quiet=True, workspace=answers.workspace)
            for sample, verdict in zip(samples, verdicts, strict=True):
                seen.setdefault((sample.problem_id, sample.rationalised), []).append(verdict.value)
    for one in wanted:
        got = seen.get(one.place(), [])
        before = course.tallies[one.problem.id].get(one.line, Drawn())
        course.tallies[one.problem.id][one.line] = Drawn(one.indices.stop, (*before.verdicts, *got))
        if len(got) < len(one.indices):
            course.unfinished[one.problem.id] = "budget" if answers.spent_out else "failed"
