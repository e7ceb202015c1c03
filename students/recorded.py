"""What the stages before training record of the teacher, and whether a loss can read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from distill.core import tables
from distill.core.config import Settings
from distill.core.plugins import Choice
from distill.core.records import Trace, TraceTokens
from students.divergence import LossSettings

SAMPLED_LOSS = "forward_kl"
"""The divergence that takes draws from the teacher: it is linear in the teacher, so their mean is right."""

AT_A_TIME = 64
"""Traces that are read together: each may be tens of thousands of ids."""

TOKENS = "tokens.parquet"
"""Where a scoring stage leaves the ids that it made of traces' texts."""


def refusal(loss: Choice, sections: Mapping[str, Settings]) -> str | None:
    """Why nothing that the experiment records will do for a divergence; None: it will.

    A scoring stage counts before the sampling stage, as in training.
    """
    settings = cast(LossSettings, loss.config)
    score, sample = sections.get("score"), sections.get("sample")
    if score is None and sample is None:
        return "`train.loss` matches the teacher's logits, but nothing records them; add `score:` or set `loss: none`"
    softened = _not_recorded(settings.loss_temperature, score, sample)
    if getattr(score, "mode", "topk") == "sampled":
        return softened if loss.name == SAMPLED_LOSS else only_sampled(loss)
    source = "sample.top_logprobs" if score is None else "score.top_k"
    made = int(getattr(sample, "top_logprobs", 0) if score is None else getattr(score, "top_k", 0))
    if made < settings.top_k:
        wanted = settings.top_k
        return f"`train.loss.top_k` is {wanted}, but `{source}` is {made}; raise it to {wanted}, or set `loss: none`"
    return softened


def _not_recorded(temperature: float, score: Settings | None, sample: Settings | None) -> str | None:
    """Why a loss temperature is not there: nothing can make it afterwards from what is kept of a distribution."""
    section, name = ("score", "temperatures") if score is not None else ("sample", "logprob_temperatures")
    recorded = getattr(score if score is not None else sample, name, ())
    if temperature == 1 or temperature in recorded:
        return None
    both = sorted({*recorded, temperature})
    return (
        f"`loss_temperature` {temperature:g} needs a figure of every token that is not recorded; add "
        f"`{name}: {both}` to `{section}:`, or leave the temperature at 1"
    )


def only_sampled(loss: Choice) -> str:
    """Why a divergence cannot take draws from the teacher."""
    return (
        f"`{loss.name}` cannot be matched to draws from the teacher: only `{SAMPLED_LOSS}` has the right gradient in "
        f"the mean; set `loss: {SAMPLED_LOSS}`, or score in mode `topk`"
    )


class Traces:
    """The traces of a file, each with the ids that a scoring stage made of its text, where it made any: the ids that
    its teacher rows belong to. Read anew by every look at them, one by one.
    """

    def __init__(self, path: Path, scored: Path | None) -> None:
        self.path = path
        self.tokens = None if scored is None or not (scored / TOKENS).exists() else scored / TOKENS

    def __iter__(self) -> Iterator[Trace]:
        if self.tokens is None:
            yield from tables.stream(self.path, Trace, AT_A_TIME)
            return
        there = set(tables.column(self.tokens, "key"))
        made, ahead = tables.stream(self.tokens, TraceTokens, AT_A_TIME), dict[str, TraceTokens]()
        for trace in tables.stream(self.path, Trace, AT_A_TIME):
            if trace.key not in there:
                yield trace
                continue
            while trace.key not in ahead:  # both files have one order, so that this stays one entry long
                tokens = next(made)
                ahead[tokens.key] = tokens
            yield _retold(trace, ahead.pop(trace.key))


def _retold(trace: Trace, tokens: TraceTokens) -> Trace:
    return replace(
        trace, prompt_ids=tokens.prompt_ids, prefill_ids=tokens.prefill_ids, completion_ids=tokens.completion_ids,
        tokenizer=tokens.tokenizer, reasoning_tokens=None,
    )  # fmt: skip
