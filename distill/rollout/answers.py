"""From what an engine drew to the record that is kept."""

from __future__ import annotations

from dataclasses import replace

from distill.core.protocols import Completion
from distill.core.records import ModelIdentity, ReasoningKind, Sample, Sampling
from distill.core.shards import ShardInfo
from distill.rollout.asks import Ask, Prefix
from distill.rollout.meter import Prices
from distill.text.think import THINK, Dialect, split_think


def as_sample(
    completion: Completion,
    ask: Ask,
    index: int,
    sampling: Sampling,
    identity: ModelIdentity,
    engine: str,
    *,
    dialect: Dialect = THINK,
    prices: Prices | None = None,
) -> Sample:
    """The record of one completion, with reasoning and answer apart; one that continues a prefix is kept with it.

    Its cost is that of its own tokens: what failed tries cost is the ledger's to keep, so that an answer is the same
    however it came. A prefix is read, not written.
    """
    given, settings = 0, sampling.keyed()
    if ask.prefix is not None:
        completion, given = _continued(completion, ask.prefix, dialect), len(ask.prefix.ids)
        settings |= {"prefix_tokens": given}  # apart from answers that were drawn from their beginning
    read, written = completion.prompt_tokens + given, completion.completion_tokens - given
    thinker = completion.opened or sampling.thinking is True
    split = split_think(
        completion.text, opened=completion.opened, thinker=thinker, dialect=dialect, apart=completion.reasoning
    )
    kind = _kind(split.reasoning, completion.reasoning_kind or dialect.kind)
    silent = kind == "hidden" and completion.finish_reason == "length" and not split.answer.strip()
    return Sample(
        key=completion.key,
        problem_id=ask.problem.id,
        index=index,
        model_id=identity.id,
        model_name=identity.name,
        engine=engine,
        max_tokens=sampling.max_tokens,
        finish_reason=completion.finish_reason,
        reasoning=split.reasoning,
        answer=split.answer,
        closed=split.closed and not silent,  # cut while it thought out of sight
        reasoning_kind=kind,
        text=completion.text,
        system=next((message.content for message in ask.problem.messages if message.role == "system"), None),
        rationalised=ask.rationalised,
        prompt_ids=None if ask.rationalised else completion.prompt_ids,
        prefill_ids=completion.prefill_ids,
        completion_ids=completion.completion_ids,
        tokenizer=identity.tokenizer,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        reasoning_tokens=0 if kind == "none" else completion.reasoning_tokens,
        latency_s=completion.latency_s,
        cost=None if prices is None else prices.of(read, written),
        error=completion.error,
        settings=settings,
    )


def _continued(drawn: Completion, prefix: Prefix, dialect: Dialect) -> Completion:
    """The whole answer of which the prefix was given and the rest was drawn."""
    prompt_tokens = drawn.prompt_tokens
    if drawn.prompt_ids is not None:  # a server counts what it was given as prompt
        prompt_tokens = len(drawn.prompt_ids) + len(drawn.prefill_ids or ())
    thinking = prefix.thinking
    if thinking is None or dialect.close in drawn.text:
        thinking = None if drawn.reasoning_tokens is None else len(prefix.ids) + drawn.reasoning_tokens
    return replace(
        drawn,
        text=prefix.text + drawn.text,
        completion_ids=None if drawn.completion_ids is None else prefix.ids + drawn.completion_ids,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(prefix.ids) + drawn.completion_tokens,
        reasoning_tokens=thinking,
    )


def shard_info(completion: Completion, identity: ModelIdentity) -> ShardInfo | None:
    """What the log-probabilities of a completion say of themselves; None where there are none that can be kept."""
    if completion.logprobs is None or identity.vocab_size is None:
        return None
    return ShardInfo(
        model_id=identity.id,
        tokenizer=identity.tokenizer,
        template=identity.template,
        vocab_size=identity.vocab_size,
        top_k=completion.logprobs.ids_NK.shape[1],
        temperatures=(1.0, *completion.logprobs.tails),
    )


def _kind(reasoning: str | None, declared: ReasoningKind | None) -> ReasoningKind:
    if reasoning is None:
        return "hidden" if declared in ("hidden", "summary") else "none"
    return declared if declared in ("full", "summary") else "full"
