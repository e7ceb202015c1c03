"""Budget forcing: what a model answers when its thinking is cut short, and when it is told to think on.

From stored answers, so that only what follows is bought (Muennighoff et al. 2025, "s1: Simple test-time scaling",
arXiv 2501.19393, section 3). Cut at budget b: an answer that thought longer keeps its first b thinking tokens, to the
id, gets the end of thinking, and answers; one that thought less is used as it is. Wait: where thinking had ended, its
end is replaced by "Wait" and it goes on, several times if asked, as far as the limit. What is continued has a ledger
key of its own, which the given ids are part of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from distill import rollout
from distill.core import tables
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.protocols import Codec
from distill.core.records import Problem, Sample, Sampling
from distill.core.stage import Workspace
from distill.evaluate import metrics, scores
from distill.evaluate.scores import Score
from distill.rollout import Ask, Prefix, Teacher
from distill.rollout.asks import Standing
from distill.text.think import Dialect, Span, end_of_thinking, thinking_span

FILE = "forced.parquet"


class Config(Settings):
    """Settings of `evaluate.forcing:`."""

    budgets: list[NonNegativeInt] = Field(default_factory=list)
    """Thinking tokens after which thinking is cut off and the answer asked for; 0 asks for it at once."""
    waits: list[PositiveInt] = Field(default_factory=list)
    """How often an end of thinking is replaced by `wait`; one figure for each number. The answers of 3 go on from those
    of 2, so that all up to the largest are bought."""
    end: str | None = None
    """What ends thinking that is cut off. None: the model family's own end tag, on a line of its own."""
    answer_prompt: str = ""
    """What the answer then begins with (`Final Answer:`)."""
    wait: str = Field(default="Wait", min_length=1)
    """What takes the place of the end of thinking."""

    @field_validator("budgets", "waits")
    @classmethod
    def _distinct(cls, numbers: list[int]) -> list[int]:
        if len(set(numbers)) != len(numbers):
            raise ValueError("a number is there twice")
        return sorted(numbers)

    @model_validator(mode="after")
    def _something(self) -> Config:
        if not self.budgets and not self.waits:
            raise ValueError("asks for nothing: give `budgets`, `waits` or both, or leave `forcing` out")
        return self


@dataclass(frozen=True)
class Forced:
    """All answers of one model at one budget, or after so many waits; the other is None.

    `samples` are in the order of those that were given; where `changed` is False it is the given one.
    """

    budget: int | None
    waits: int | None
    samples: list[Sample]
    changed: list[bool]


@dataclass(frozen=True)
class ForcedScore(Score):
    """The line of one answer, as in `Score`, and how it was forced; `changed` False: it is the answer as drawn."""

    budget: int | None = None
    waits: int | None = None
    changed: bool = False


def refusal(engine: Choice) -> str | None:
    """Why this engine cannot continue an answer, in one line; None: it can. Loads nothing."""
    module = engine.module()
    if not hasattr(module, "codec"):
        return (
            f"engine `{engine.name}` cannot continue an answer from its token ids, which `forcing` does; take engine "
            "transformers, llamacpp or vllm, or openai with `api: completions` and a `tokenizer`"
        )
    if not getattr(engine.config, "continues", True):
        return f"engine `{engine.name}`: {module.NO_PREFIX}, which `forcing` does"
    return None


def force(
    asked: Mapping[str, Problem],
    samples: Sequence[Sample],
    sampling: Sampling,
    teacher: Teacher,
    settings: Config,
    workspace: Workspace,
    *,
    label: str,
) -> list[Forced]:
    """The answers at each budget, the smallest first, and after each number of waits; buys what the ledger lacks.

    `asked` are the problems by id, in the words that the model was asked with; `samples` its answers as they were
    drawn with `sampling`, whose `max_tokens` is the limit of a continued answer too, the given tokens included. Raises
    DistillError where the engine cannot continue an answer, where answers have no token ids, where the family's
    thinking has no end tag, and where a budget leaves nothing of the limit for an answer.
    """
    if (why := refusal(teacher.engine)) is not None:
        raise DistillError(f"{label}: {why}")
    sampling = replace(sampling, top_logprobs=0)
    with ExitStack() as stack:
        if not isinstance(teacher, Standing):  # one for all waits, loaded only if something has to be bought
            teacher = Standing(teacher.engine, teacher.model, teacher.revision, teacher.dialect, teacher.prices)
            stack.enter_context(closing(teacher.loaded))
        more = () if teacher.revision is None else (teacher.revision,)
        codec: Codec = teacher.engine.module().codec(teacher.engine.config, teacher.model, *more)
        stack.enter_context(closing(codec))
        forcing = _Forcing(asked, sampling, teacher, settings, workspace, label, codec)
        return [*forcing.cuts(samples), *forcing.waits(samples)]


def scored(forced: Forced, lines: Sequence[Score]) -> list[ForcedScore]:
    """The lines of forced answers, from the plain lines of the same answers in the same order."""
    return [
        ForcedScore(**vars(line), budget=forced.budget, waits=forced.waits, changed=changed)
        for line, changed in zip(lines, forced.changed, strict=True)
    ]


def summarise(lines: Sequence[ForcedScore]) -> list[dict[str, Any]]:
    """What is said of one model on one task, budget by budget, then wait by wait, as plain data.

    `thinking_tokens` and `completion_tokens` are those of the whole answers, given tokens included: what each would
    cost if it were asked for in this way from the start. `extended` is how many were continued.
    """
    groups: dict[tuple[int | None, int | None], list[ForcedScore]] = {}
    for line in lines:
        groups.setdefault((line.budget, line.waits), []).append(line)
    return [
        {
            "budget": budget,
            "waits": waits,
            "rate": asdict(metrics.pass_rate(scores.verdicts_by_item(group))),
            "thinking_tokens": asdict(metrics.mean_of(scores.lengths_by_item(group, thinking=True))),
            "completion_tokens": asdict(metrics.mean_of(scores.lengths_by_item(group, thinking=False))),
            "answers": len(group),
            "extended": sum(line.changed for line in group),
        }
        for (budget, waits), group in groups.items()
    ]


def manner(entry: Mapping[str, Any]) -> str:
    """How an entry of `summarise` was forced, as it follows a model's name: `, budget 64` or `, 1 wait`."""
    budget, waits = entry["budget"], entry["waits"]
    return f", {waits} wait{'s' if waits > 1 else ''}" if budget is None else f", budget {budget:,}"


def read(folder: Path) -> list[ForcedScore]:
    """The forced lines that an evaluate stage wrote into `folder`; none where it forced nothing."""
    return tables.read(folder / FILE, ForcedScore) if (folder / FILE).exists() else []


def write(folder: Path, lines: Sequence[ForcedScore]) -> int:
    """Write forced lines into `folder`; returns how many."""
    return tables.write(folder / FILE, lines, ForcedScore)


class _Forcing:
    """One call of `force`."""

    def __init__(
        self,
        asked: Mapping[str, Problem],
        sampling: Sampling,
        teacher: Standing,
        settings: Config,
        workspace: Workspace,
        label: str,
        codec: Codec,
    ) -> None:
        self.asked, self.sampling, self.teacher, self.settings = asked, sampling, teacher, settings
        self.workspace, self.label, self.codec = workspace, label, codec
        dialect: Dialect = teacher.dialect
        if dialect.channels or not dialect.close:
            self._refuse("`forcing` needs thinking that ends with a tag, and this model family's does not")
        end = end_of_thinking(dialect) if settings.end is None else settings.end
        if dialect.close not in end:
            self._refuse(f"`forcing.end` {end!r} does not hold {dialect.close}, which ends this model's thinking")
        self._end = codec.encode(end + settings.answer_prompt)
        self._wait = codec.encode(settings.wait)

    def cuts(self, samples: Sequence[Sample]) -> list[Forced]:
        """The answers at each budget; all that is missing is bought together."""
        spans = [self._span(sample) for sample in samples]
        prefixes = [
            self._cut(sample, span, budget)
            for budget in self.settings.budgets
            for sample, span in zip(samples, spans, strict=True)
        ]
        budgets, n = self.settings.budgets, len(samples)
        whole = self._continued(list(samples) * len(budgets), prefixes, "budgets")
        return [
            Forced(
                budget,
                None,
                whole[place * n : (place + 1) * n],
                [prefix is not None for prefix in prefixes[place * n : (place + 1) * n]],
            )
            for place, budget in enumerate(budgets)
        ]

    def waits(self, samples: Sequence[Sample]) -> list[Forced]:
        """The answers after each number of waits; each goes on from the one before."""
        found, now, changed = [], list(samples), [False] * len(samples)
        for turn in range(1, max(self.settings.waits, default=0) + 1):
            prefixes = [self._extension(sample, self._span(sample)) for sample in now]
            now = self._continued(now, prefixes, f"wait {turn}")
            changed = [before or prefix is not None for before, prefix in zip(changed, prefixes, strict=True)]
            if turn in self.settings.waits:
                found.append(Forced(None, turn, now, changed))
        return found

    def _cut(self, sample: Sample, span: Span | None, budget: int) -> Prefix | None:
        """The beginning of an answer that thought longer than the budget, and the end of thinking."""
        if span is None or span.stop - span.start <= budget:
            return None
        ids = self._ids(sample)[: span.start + budget] + self._end
        if len(ids) >= self.sampling.max_tokens:
            self._refuse(
                f"`forcing` at budget {budget} leaves no token for an answer within `max_tokens` "
                f"{self.sampling.max_tokens}; take a smaller budget, or raise the limit"
            )
        text = self.codec.decode(ids)
        return Prefix(ids, text, self._where(ids, text).end)

    def _extension(self, sample: Sample, span: Span | None) -> Prefix | None:
        """The thinking of an answer without its end, and `wait`; None where it has not ended, or nothing is left."""
        if span is None or span.end is None:
            return None
        ids = self._ids(sample)[: span.stop] + self._wait
        return Prefix(ids, self.codec.decode(ids), None) if len(ids) < self.sampling.max_tokens else None

    def _continued(self, samples: Sequence[Sample], prefixes: Sequence[Prefix | None], what: str) -> list[Sample]:
        """Each answer as it goes on from its prefix; the answer itself where it has none."""
        asks = [
            Ask(self.asked[sample.problem_id], range(sample.index, sample.index + 1), prefix=prefix)
            for sample, prefix in zip(samples, prefixes, strict=True)
            if prefix is not None
        ]
        if not asks:
            return list(samples)
        drawn = iter(rollout.gather(asks, self.sampling, self.teacher, self.workspace, label=f"{self.label}, {what}"))
        return [
            sample if prefix is None else self._checked(sample, next(drawn))
            for sample, prefix in zip(samples, prefixes, strict=True)
        ]

    def _checked(self, before: Sample, after: Sample) -> Sample:
        """The continued answer without clock figures. It must have been asked with the prompt of the first."""
        if after.finish_reason != "error" and after.prompt_ids != before.prompt_ids:
            self._refuse(
                "an answer was continued after another prompt than it was drawn with; its template has changed"
            )
        return replace(after, latency_s=0.0, created="")

    def _span(self, sample: Sample) -> Span | None:
        """Where an answer's thinking is; None where it has none, or failed."""
        if sample.finish_reason == "error" or sample.reasoning is None:
            return None
        return self._where(self._ids(sample), sample.text)

    def _where(self, ids: tuple[int, ...], text: str) -> Span:
        return thinking_span(ids, text, self.codec.encode, self.codec.decode, self.teacher.dialect)

    def _ids(self, sample: Sample) -> tuple[int, ...]:
        if sample.completion_ids is None or sample.prompt_ids is None:
            self._refuse("`forcing` continues answers by their token ids, and these have none; the server gives no ids")
        return sample.completion_ids

    def _refuse(self, why: str) -> NoReturn:
        raise DistillError(f"{self.label}: {why}")
