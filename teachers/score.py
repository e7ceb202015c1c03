"""`score`: one pass of a local teacher over the kept traces, for their log-probabilities.

Where they were captured while sampling this stage is not needed. It makes teacher rows for whatever was sampled
without them; traces whose ids are not the teacher's own tokens are counted and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

from pydantic import Field, PositiveInt

from distill import rollout
from distill.core import shards, tables
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.plugins import Choice, ChoiceOf
from distill.core.progress import Progress
from distill.core.protocols import Engine, ScoreRequest, TokenLogprobs
from distill.core.records import Trace
from distill.core.shards import ShardInfo, ShardRows
from distill.core.stage import Report, StageRun
from teachers.sample import SHARD_TOKENS, shard_path
from teachers.settings import Config as TeacherConfig

VERSION = 1


class Config(Settings):
    """Settings of `score:`."""

    top_k: PositiveInt = 16
    """Log-probabilities kept per token."""
    engine: Annotated[Choice, ChoiceOf("distill.engines", "engine")] = Field(
        default="transformers", validate_default=True
    )
    """An engine that can score given ids."""


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The teacher's identity on the scoring engine."""
    config, teacher = cast(Config, sections["score"]), cast(TeacherConfig, sections["teacher"])
    return {"teacher": rollout.identify(config.engine, teacher.model).id}


def run(stage: StageRun) -> Report:
    """Score the kept traces, write their rows in order of the traces."""
    config, teacher = cast(Config, stage.sections["score"]), cast(TeacherConfig, stage.sections["teacher"])
    traces = tables.read(stage.inputs["filter"] / "traces.parquet", Trace)
    identity = rollout.identify(config.engine, teacher.model)
    if identity.vocab_size is None:
        raise DistillError(f"score: engine `{config.engine.name}` does not say how large the vocabulary is")
    ours = [t for t in traces if t.completion_ids and t.prompt_ids is not None and t.tokenizer == identity.tokenizer]
    if not ours:
        raise DistillError("score: no kept trace has ids of the teacher's tokenizer; there is nothing to score")
    engine: Engine = config.engine.module().build(config.engine.config, teacher.model)
    info = ShardInfo(identity.id, identity.tokenizer, identity.template, identity.vocab_size, config.top_k)
    total = 0
    try:
        with Progress("score", len(ours), "traces") as bar:
            for number, chunk in enumerate(_chunks(ours)):
                rows = _score(engine, chunk, config.top_k, bar)
                ordered = [ShardRows(t.key, t.completion_ids or (), rows[t.key]) for t in chunk]
                total += shards.write(shard_path(stage.out, number), ordered, info)
    finally:
        engine.close()
    skipped = len(traces) - len(ours)
    return Report(
        summary=f"{total:,} token rows of {len(ours):,} traces; {skipped:,} have other tokens than the teacher's",
        data={"rows": total, "traces": len(ours), "skipped": skipped},
    )


def _score(engine: Engine, traces: list[Trace], top_k: int, bar: Progress) -> dict[str, TokenLogprobs]:
    requests = [
        ScoreRequest(t.key, (*(t.prompt_ids or ()), *(t.prefill_ids or ())), t.completion_ids or ()) for t in traces
    ]
    rows = {}
    for key, logprobs in engine.score(requests, top_k):
        rows[key] = logprobs
        bar.advance(1, tokens=len(logprobs.tail_N))
    return rows


def _chunks(traces: list[Trace]) -> list[list[Trace]]:
    chunks: list[list[Trace]] = [[]]
    size = 0
    for trace in traces:
        if size >= SHARD_TOKENS:
            chunks.append([])
            size = 0
        chunks[-1].append(trace)
        size += len(trace.completion_ids or ())
    return chunks
