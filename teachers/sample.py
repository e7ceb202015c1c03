"""`sample`: the teacher answers the training problems; every answer is paid for once and kept in the ledger.

The policy asks round by round (`teachers.rounds`). Ends by streaming what it used out of the ledger, in order and
without clock figures: samples.parquet, outcomes.parquet (one row a problem: why its asking ended, and the pass rate),
labels.parquet where problems were labelled by majority, and logits-NNNNN.safetensors where log-probabilities were
recorded. What is written depends on the answers alone, not on the order in which they came or on stops in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal, cast

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distill import rollout
from distill.core import shards, tables
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.plugins import Choice, ChoiceOf
from distill.core.protocols import TokenLogprobs
from distill.core.records import Problem, Sample, Sampling
from distill.core.shards import ShardInfo, ShardRows
from distill.core.stage import Report, StageRun
from distill.rollout import Display, Prices, Teacher
from distill.stages import labels, verify
from teachers import outcomes
from teachers.family import Family, family_of
from teachers.forecast import forecast, row
from teachers.outcomes import Outcome, Seen
from teachers.policy import Labelling, Policy
from teachers.recording import SHARD_TOKENS, Temperatures, shard_path, unable
from teachers.rounds import Answers, Course, Manner, go
from teachers.settings import Config as TeacherConfig

VERSION = 2
LABEL_CHUNK = 256
"""Problems that vote at a time."""


class Budget(Settings):
    """The most that the answers of this stage may cost, whenever they were bought; failed tries count."""

    tokens: PositiveInt | None = None
    """Tokens, read and written."""
    cost: PositiveFloat | None = None
    """Money, in the currency of `teacher.price`."""
    when_spent: Literal["stop", "use"] = "stop"
    """`stop`: end there and keep what was bought; the same command goes on with a larger budget. `use`: go on to the
    next stage with the answers that are there."""

    @property
    def limits(self) -> rollout.Budget:
        """For `rollout.fill`."""
        return rollout.Budget(self.tokens, self.cost)


class Config(Settings):
    """Settings of `sample:`. What is left out comes from the teacher's family."""

    policy: Annotated[Choice, ChoiceOf("teachers.policies", "policy")] = Field(default="fixed", validate_default=True)
    """How many samples a problem: `{fixed: 4}`, `{adaptive: {k: 4, max_n: 16}}`, `self_consistency`, `star`."""
    sample_temperature: NonNegativeFloat | None = None
    """Temperature of the draw; 0 is greedy. None: the family's, else 0.6."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Nucleus: the smallest set of tokens with this much probability is drawn from. None: the family's, else 0.95."""
    top_k: NonNegativeInt | None = None
    """Draw among the k most probable tokens only; 0 is no limit. None: the family's, else 0."""
    max_tokens: PositiveInt | None = None
    """Longest completion. Raising it later buys only the answers that were cut. None: the family's, else 32768."""
    escalate_to: PositiveInt | None = None
    """Answers that were cut are tried again with twice the limit, up to this one; only those. None: left as cut."""
    top_logprobs: NonNegativeInt = 0
    """Log-probabilities recorded per token while sampling, for logit matching; 0 records none."""
    logprob_temperatures: Temperatures = Field(default_factory=list)
    """Values of `train.loss.loss_temperature` other than 1 that shall be possible: `[2.0]`. Changes no answer."""
    seed: NonNegativeInt = 0
    """Other draws than those of another seed. Apart from the experiment's seed: changing it buys new answers."""
    system: str | None = None
    """System prompt put before every problem that has none of its own. None: the family's; empty: none."""
    instruction: str | None = None
    """Advice put after the last user turn. None: the family's; empty: none."""
    thinking: bool | None = None
    """Ask the template for thinking or for the no-think form; None leaves the family's default, or the template's."""
    budget: Budget | None = None
    """The most it may cost: `{tokens: 5000000}` or `{cost: 20.0}`, with `when_spent: stop` or `use`."""

    def manner(self, teacher: TeacherConfig, thinking: bool | None = None) -> Manner:
        """How a problem is asked; `thinking` is what the problem itself says of that."""
        wished = self.thinking if thinking is None else thinking
        family = family_of(teacher).asked(wished)
        sampling = Sampling(
            temperature=_first(self.sample_temperature, family.temperature),
            top_p=_first(self.top_p, family.top_p),
            top_k=self.top_k if self.top_k is not None else family.top_k,
            seed=self.seed,
            thinking=family.thinking if wished is None else wished,
            max_tokens=self.max_tokens or family.max_tokens,
            top_logprobs=self.top_logprobs,
            logprob_temperatures=tuple(self.logprob_temperatures),
            arguments=family.arguments,
        )
        return Manner(
            sampling=sampling,
            teacher=Teacher(
                teacher.engine, teacher.model, teacher.revision, dialect=family.dialect, prices=_prices(teacher)
            ),
            system=(family.system if self.system is None else self.system) or None,
            instruction=(family.instruction if self.instruction is None else self.instruction) or None,
            escalate_to=self.escalate_to,
        )

    def build_policy(self) -> Policy:
        """The policy for these settings."""
        policy: Policy = self.policy.module().build(self.policy.config)
        return policy


def _first(set_here: float | None, of_family: float | None) -> float | None:
    return of_family if set_here is None else set_here


def _prices(teacher: TeacherConfig) -> Prices | None:
    return None if teacher.price is None else teacher.price.prices


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """Refuse what cannot work before anything is paid for: (key, what is wrong), or None."""
    if not {"sample", "teacher"} <= set(sections):
        return None
    config, teacher = cast(Config, sections["sample"]), cast(TeacherConfig, sections["teacher"])
    if _verifies(config.build_policy()) and "verify" not in sections:
        return ("sample", "policy"), f"policy `{config.policy.name}` looks at answers and needs the section `verify:`"
    if config.logprob_temperatures and not config.top_logprobs:
        text = "`logprob_temperatures` say how log-probabilities will be used; record some (`top_logprobs: 16`)"
        return ("sample", "logprob_temperatures"), text
    if why := unable(teacher.engine, config.logprob_temperatures):
        return ("sample", "logprob_temperatures"), why
    manner = config.manner(teacher)
    if config.escalate_to is not None and config.escalate_to <= manner.sampling.max_tokens:
        text = f"`escalate_to: {config.escalate_to}` is no more than max_tokens, which is {manner.sampling.max_tokens}"
        return ("sample", "escalate_to"), text
    if config.system and not family_of(teacher).takes_system:
        return ("sample", "system"), f"{family_of(teacher).title} takes no system prompt; put it into `instruction`"
    if config.budget is not None and config.budget.cost is not None and teacher.price is None:
        text = "a budget in money needs `teacher.price`: {input: ..., output: ...} per million tokens, or `free`"
        return ("sample", "budget"), text
    return None


def _verifies(policy: Policy) -> bool:
    """Whether answers are graded or compared while sampling."""
    return policy.needs_verdicts or isinstance(policy, Labelling)


def keyed(sections: Mapping[str, Settings]) -> dict[str, Any]:
    """The settings that shape what is written: `verify:` only where the policy looks at verdicts, a budget only where
    the stage may end with less than was asked for.
    """
    config = cast(Config, sections["sample"])
    settings = {name: section.keyed() for name, section in sections.items() if name != "verify"}
    if config.budget is None or config.budget.when_spent == "stop":
        del settings["sample"]["budget"]
    if _verifies(config.build_policy()) and "verify" in sections:
        settings["verify"] = sections["verify"].keyed()
    return settings


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The teacher's identity, and what its family says: another way to ask it is another sampling."""
    teacher = cast(TeacherConfig, sections["teacher"])
    identity = rollout.identify(teacher.engine, teacher.model, teacher.revision)
    return {"teacher": identity.id, "family": digest(family_of(teacher).keyed())}


def run(stage: StageRun) -> Report:
    """Sample the train split as the policy asks; write samples, outcomes, labels and log-probabilities."""
    task = _Task(stage)
    task.say_terms()
    with task.answers, Display("sample") as task.answers.display:
        course = go(task.policy, task.asked, task.answers, task.verifier)
    _refuse_unfinished(task.answers, task.config.budget)
    writer = _Writer(task, course)
    tables.write(stage.out / "samples.parquet", writer.samples(), Sample)
    results = list(writer.outcomes())
    tables.write(stage.out / outcomes.FILE, results, Outcome)
    labelled = _label(task, course)
    return writer.report(results, labelled)


def estimate(stage: StageRun) -> Report:
    """What `run` would buy, and what it may cost. Buys nothing, builds nothing."""
    task = _Task(stage)
    task.say_terms()
    least, most = forecast(task.policy, task.asked, task.manners, stage.workspace)
    named = [("in any case", most)] if least == most else [("at least", least), ("at most", most)]
    rows = [row(name, case) for name, case in named]
    basis = (
        "everything it can ask for is in the ledger"
        if not most.missing
        else f"lengths from stored answers of this teacher to {most.basis:,} problems, interval of 95%"
        if most.basis
        else "no stored answers of this teacher to expect a length from; a small run first would give some"
    )
    price = "" if most.worst_cost is not None else "; set `teacher.price` to see the cost"
    return Report(
        summary=f"dry run: nothing was bought; {basis}{price}",
        rows=rows,
        data={"least": asdict(least), "most": asdict(most), "budget": task.config.dump()["budget"]},
    )


class _Task:
    """What is to be done: the problems, who answers them how, and by what policy. Buys nothing."""

    def __init__(self, stage: StageRun) -> None:
        self.stage = stage
        self.config, self.teacher = (
            cast(Config, stage.sections["sample"]),
            cast(TeacherConfig, stage.sections["teacher"]),
        )
        path = stage.inputs["problems"] / "problems.parquet"
        self.problems = [p for p in tables.stream(path, Problem) if p.split == "train"]
        if not self.problems:
            raise DistillError("sample: no problem is in the train split; check `problems:`")
        self.policy = self.config.build_policy()
        self.verifier = cast(verify.Config, stage.sections["verify"]).verifier if "verify" in stage.sections else None
        self.ungradable = {} if self.verifier is None else verify.ungradable(self.problems, self.verifier)
        self.asked = self._gradable() if self.policy.needs_verdicts else self.problems
        self.manners = {
            thinking: self.config.manner(self.teacher, thinking) for thinking in {p.thinking for p in self.problems}
        }
        budget = rollout.Budget() if self.config.budget is None else self.config.budget.limits
        self.answers = Answers(stage.workspace, self.manners, budget, stage.say)
        self._warn()

    @property
    def family(self) -> Family:
        return family_of(self.teacher)

    def say_terms(self) -> None:
        """What the teacher's terms say, before anything is bought of it."""
        self.stage.say(f"terms: {self.family.notice}")
        if self.family.note:
            self.stage.say(self.family.note)

    def _gradable(self) -> list[Problem]:
        kept = [problem for problem in self.problems if problem.id not in self.ungradable]
        if not kept:
            reason = Counter(self.ungradable.values()).most_common(1)[0][0]
            raise DistillError(
                f"sample: policy `{self.config.policy.name}` looks at verdicts, and none of {len(self.problems):,} "
                f"training problems can be graded ({reason}); give them gold answers, or take another policy"
            )
        return kept

    def _warn(self) -> None:
        """Golds that cannot be graded against, before they are paid for."""
        bad = len(self.ungradable)
        if not bad or isinstance(self.policy, Labelling):
            return
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(self.ungradable.values()).most_common(3))
        fate = "set aside, never asked" if self.policy.needs_verdicts else "asked, but their answers cannot be graded"
        self.stage.say(f"warning: {bad:,} of {len(self.problems):,} training problems ({reasons}) are {fate}")


def _refuse_unfinished(answers: Answers, budget: Budget | None) -> None:
    """Answers that failed are owed, and a spent budget is a stop unless it was said that what is there shall do."""
    if answers.spent_out and (budget is None or budget.when_spent == "stop"):
        spent = f"{answers.spent.tokens:,} tokens" + (
            "" if answers.spent.cost is None else f", {answers.spent.cost:.2f}"
        )
        raise DistillError(
            f"sample: the budget is spent ({spent}); what was bought is kept. Raise `sample.budget` and run the same "
            "command again, or set `when_spent: use` to go on with what is there"
        )
    failed = sum(answers.failed.values())
    if failed and not answers.spent_out:
        raise DistillError(
            f"sample: {failed:,} answers failed ({answers.first_error}); the others are kept. "
            "Run the same command again: only these are asked for"
        )


class _Writer:
    """Streams the answers into the stage's files, and counts on the way."""

    def __init__(self, task: _Task, course: Course) -> None:
        self.task, self.course = task, course
        self.seen = {problem.id: Seen() for problem in task.problems}
        self.logit_rows = 0
        self.unsoftened: Counter[float] = Counter()
        """Answers whose stored log-probabilities lack a temperature that is wanted now."""
        self.groups = self.alike = 0

    def samples(self) -> Iterator[Sample]:
        """The records of samples.parquet, in order of the problems; log-probabilities are written on the way."""
        read = self.task.answers.read(self.course.wanted(self.task.asked))
        for sample in self._alike(self._placed(read)):
            self.seen[sample.problem_id].add(sample)
            yield sample

    def _placed(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Without clock figures; recorded rows go from the ledger's shards into the stage's own, which samples name."""
        if not self.task.config.top_logprobs:
            yield from (replace(sample, logits=None, latency_s=0.0, created="") for sample in samples)
            return
        info: ShardInfo | None = None
        with Ledger(self.task.stage.workspace.ledger) as ledger:
            for number, chunk in enumerate(_by_tokens(samples, SHARD_TOKENS)):
                recorded = [sample for sample in chunk if sample.logits is not None]
                path = shard_path(self.task.stage.out, number)
                if recorded:
                    info = info or self._info(ledger.shard_info(recorded[0]))
                    rows = [
                        ShardRows(s.key, s.completion_ids or (), self._wanted(ledger.logprobs(s))) for s in recorded
                    ]
                    self.logit_rows += shards.write(path, rows, info)
                for sample in chunk:
                    named = None if sample.logits is None else path.name
                    yield replace(sample, logits=named, latency_s=0.0, created="")

    def _info(self, stored: ShardInfo) -> ShardInfo:
        """The stage's shards hold what is wanted now, whatever more or less the ledger's have."""
        config = self.task.config
        wanted = (1.0, *config.logprob_temperatures)
        return replace(stored, top_k=min(stored.top_k, config.top_logprobs), temperatures=wanted)

    def _wanted(self, stored: TokenLogprobs) -> TokenLogprobs:
        """With the entries and tail terms that are wanted. What earlier runs did not record is absent, and counted."""
        import numpy as np

        kept = shards.narrow(stored, self.task.config.top_logprobs)
        absent_N = np.full_like(kept.tail_N, np.nan)
        wanted = self.task.config.logprob_temperatures
        self.unsoftened.update(t for t in wanted if t not in kept.tails)
        return replace(kept, tails={t: kept.tails.get(t, absent_N) for t in wanted})

    def _alike(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Count the problems whose answers are all the same text: paid for more than once, learned from once."""
        problem, first, count, same = "", "", 0, True

        def end() -> None:
            self.groups += count > 1
            self.alike += count > 1 and same

        for sample in samples:
            if sample.problem_id != problem:
                end()
                problem, first, count, same = sample.problem_id, sample.text, 0, True
            if not sample.rationalised:
                count += 1
                same = same and sample.text == first
            yield sample
        end()

    def outcomes(self) -> Iterator[Outcome]:
        """One record a problem, in their order."""
        asked = {problem.id for problem in self.task.asked}
        for problem in self.task.problems:
            tally, seen = self.course.tallies.get(problem.id, {}), self.seen[problem.id]
            unfinished = self.course.unfinished.get(problem.id) if problem.id in asked else "set aside"
            if seen.answered + seen.hinted < sum(drawn.asked for drawn in tally.values()):
                unfinished = "budget"  # a failed answer would have ended the stage
            yield outcomes.outcome(problem.id, self.task.config.policy.name, self.task.policy, tally, seen, unfinished)

    def report(self, results: Sequence[Outcome], labelled: dict[str, int]) -> Report:
        """The summary, and the same as data."""
        self._warn_if_alike()
        self._warn_if_unsoftened()
        answers = self.task.answers
        samples = sum(one.answered + one.hinted for one in results)
        tokens, read = (sum(one.completion_tokens for one in results), sum(one.prompt_tokens for one in results))
        costs = [one.cost for one in results if one.cost is not None]
        cut = sum(one.cut for one in results)
        stopped = Counter(one.stopped for one in results)
        hinted = sum(one.hinted for one in results)
        data: dict[str, Any] = {
            "samples": samples, "problems": len(self.task.asked), "tokens": tokens, "prompt_tokens": read,
            "cost": sum(costs) if costs else None, "cut": cut, "logit_rows": self.logit_rows,
            "policy": self.task.config.policy.name, "stopped": dict(stopped.most_common()), "hinted": hinted,
            "set_aside": len(self.task.problems) - len(self.task.asked), "alike": self.alike, "labels": labelled,
            "spent_tokens": answers.spent.tokens, "spent_cost": answers.spent.cost,
            "asked_as": {str(t): _shown(manner) for t, manner in self.task.manners.items()},
            "terms": self.task.family.notice, "family": self.task.family.record,
        }  # fmt: skip
        parts = [
            f"{samples:,} answers to {len(self.task.asked):,} problems, {tokens:,} tokens, {cut:,} cut at the limit",
            *([f"cost {sum(costs):,.2f}"] if costs else []),
            *([", ".join(f"{n:,} {rule}" for rule, n in stopped.most_common())] if set(stopped) != {"n"} else []),
            *(
                [f"{labelled['labels']:,} majority labels, {labelled['low_support']:,} of low support"]
                if labelled
                else []
            ),
        ]
        return Report(summary="; ".join(parts), data=data)

    def _warn_if_unsoftened(self) -> None:
        for temperature, count in sorted(self.unsoftened.items()):
            self.task.stage.say(
                f"warning: {count:,} stored answers were recorded without temperature {temperature:g}, and nothing can "
                "add it; at that loss temperature they train by cross-entropy. `score:` records it for all of them"
            )

    def _warn_if_alike(self) -> None:
        temperature = next(iter(self.task.manners.values())).sampling.temperature
        if temperature == 0 or not self.alike:
            return
        why = (
            "does the teacher honour temperature and seed?" if self.alike == self.groups else "more samples add little"
        )
        self.task.stage.say(
            f"warning: of {self.groups:,} problems with several answers {self.alike:,} got identical ones; {why}"
        )


def _shown(manner: Manner) -> dict[str, Any]:
    """What was resolved, for the manifest."""
    about = {**manner.sampling.keyed(), "max_tokens": manner.sampling.max_tokens}
    return about | {"system": manner.system, "instruction": manner.instruction, "escalate_to": manner.escalate_to}


def _label(task: _Task, course: Course) -> dict[str, int]:
    """Labels for the problems without a gradable gold answer, where the policy gives any; how many there are."""
    policy, verifier = task.policy, task.verifier
    if not isinstance(policy, Labelling) or verifier is None:
        return {}
    unlabelled = [problem for problem in task.asked if problem.id in task.ungradable and not problem.tests]
    counts = Counter(labels=0, low_support=0)

    def made() -> Iterator[labels.Label]:
        for start in range(0, len(unlabelled), LABEL_CHUNK):
            group = unlabelled[start : start + LABEL_CHUNK]
            answers: dict[str, list[Sample]] = {}
            for sample in task.answers.read(course.wanted(group)):
                answers.setdefault(sample.problem_id, []).append(sample)
            for label in labels.vote(answers, verifier, policy.threshold):
                counts.update(labels=1, low_support=int(label.low_support))
                yield label

    tables.write(task.stage.out / labels.FILE, made(), labels.Label)
    return dict(counts)


def _by_tokens(samples: Iterable[Sample], tokens: int) -> Iterator[list[Sample]]:
    """Lists of samples whose recorded ones have at least so many tokens, all but the last."""
    chunk: list[Sample] = []
    size = 0
    for sample in samples:
        chunk.append(sample)
        size += sample.completion_tokens if sample.logits is not None else 0
        if size >= tokens:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
