"""`score`: one pass of the teacher over the kept traces, for what it says of every token.

Where log-probabilities were captured while sampling this stage is not needed. It makes teacher rows for whatever was
sampled without them, and for traces that have no ids of the teacher's tokenizer (imports, another model's): their text
becomes ids here, once, by the teacher's template, and training takes these very ids from tokens.parquet. What is
written depends on the traces and the teacher alone, not on stops in between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, NonNegativeFloat, PositiveInt

from distill import nf4, rollout
from distill.core import shards, tables
from distill.core.config import Settings, Unkeyed
from distill.core.errors import ConfigError, DistillError
from distill.core.models import resolve_text
from distill.core.plugins import Choice, ChoiceOf
from distill.core.progress import Progress
from distill.core.protocols import Engine, Keep, SampledLogprobs, ScoreRequest, TokenLogprobs
from distill.core.records import ModelIdentity, Trace, TraceTokens
from distill.core.shards import ShardInfo, ShardRows
from distill.core.stage import Report, StageRun
from teachers.family import family_of
from teachers.recording import SHARD_TOKENS, Temperatures, shard_path, unable
from teachers.scores import Scores, lent_by
from teachers.settings import Config as TeacherConfig

VERSION = 2

TOKENS = "tokens.parquet"
"""Ids that were made of traces' texts here."""

MOST_DRAWS = (1 << 16) - 1
"""What a shard's counts can hold."""


class Config(Settings):
    """Settings of `score:`."""

    mode: Literal["topk", "sampled"] = "topk"
    """`topk` keeps the most probable tokens and the exact mass of all others, for any loss; `sampled` keeps tokens that
    were drawn from the whole distribution, for forward KL without bias."""
    top_k: PositiveInt = 16
    """Log-probabilities kept per token. Mode `topk` only."""
    draws: Annotated[int, Field(gt=0, le=MOST_DRAWS)] = 50
    """Tokens drawn per token; they fall on far fewer distinct ones. Mode `sampled` only."""
    temperatures: Temperatures = Field(default_factory=list)
    """Values of `train.loss.loss_temperature` other than 1 that shall be possible: `[2.0]`. A few bytes a token each.
    """
    engine: Annotated[Choice, ChoiceOf("distill.engines", "engine")] = Field(
        default="transformers", validate_default=True
    )
    """An engine that can score given ids: `transformers` (also `{engine: transformers, quantization: nf4}`), `vllm`, or
    `openai` for a vLLM server."""
    write_every_s: Annotated[NonNegativeFloat, Unkeyed] = 60.0
    """Seconds between writes of what has been scored; a killed pass goes on from the last one. 0: after every trace."""

    @property
    def keep(self) -> Keep:
        """What is kept of each distribution."""
        if self.mode == "sampled":
            return Keep(draws=self.draws, temperatures=tuple(self.temperatures))
        return Keep(top_k=self.top_k, temperatures=tuple(self.temperatures))


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """Refuse an engine that cannot score, or cannot see what is to be kept: (key, what is wrong), or None."""
    if "score" not in sections:
        return None
    config = cast(Config, sections["score"])
    engine, module = config.engine.name, config.engine.module()
    if not getattr(module, "SCORES", True):
        text = f"engine `{engine}` cannot score given tokens; take `transformers`, `vllm`, or `openai` (a vLLM server)"
        return ("score", "engine"), text
    if config.mode == "sampled" and getattr(module, "LARGEST_ONLY", False):
        text = f"engine `{engine}` sees only the largest log-probabilities of a token, and draws need them all"
        return ("score", "mode"), f"{text}; take engine `transformers`, or mode `topk`"
    if why := unable(config.engine, config.temperatures):
        return ("score", "temperatures"), why
    if engine == "transformers" and getattr(config.engine.config, "quantization", None) is not None:
        try:
            nf4.require()
        except ConfigError as error:
            return ("score", "engine"), str(error)
    return None


def keyed(sections: Mapping[str, Settings]) -> dict[str, Any]:
    """The settings that count: those of the other mode do not."""
    settings = {name: section.keyed() for name, section in sections.items()}
    del settings["score"]["draws" if cast(Config, sections["score"]).mode == "topk" else "top_k"]
    return settings


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The teacher's identity on the scoring engine."""
    return {"teacher": _identity(sections).id}


def _identity(sections: Mapping[str, Settings]) -> ModelIdentity:
    config, teacher = cast(Config, sections["score"]), cast(TeacherConfig, sections["teacher"])
    return rollout.identify(config.engine, teacher.model, teacher.revision)


def run(stage: StageRun) -> Report:
    """Score the kept traces that were not scored before; write all rows in order of the traces."""
    config = cast(Config, stage.sections["score"])
    identity = _identity(stage.sections)
    if identity.vocab_size is None or identity.tokenizer is None:
        raise DistillError(
            f"score: engine `{config.engine.name}` does not say whose tokenizer the model has; set its `tokenizer`"
        )
    info = ShardInfo(
        identity.id, identity.tokenizer, identity.template, identity.vocab_size, config.keep.top_k, config.mode,
        temperatures=(1.0, *config.temperatures), draws=config.keep.draws,
        value_dtype="float16" if config.mode == "topk" else "float32",  # a draw's weight would carry the rounding
    )  # fmt: skip
    traces = _Traces(stage.inputs["filter"] / "traces.parquet", _Speaker(stage.sections, identity.tokenizer))
    lent = lent_by(stage.workspace.root, stage.name, but=stage.out)
    scores = Scores(stage.work / "scored", info, lent, config.write_every_s)
    fresh = _score(stage, traces, scores)
    written = _write(stage.out, traces, scores)
    if not written.traces:
        raise DistillError(f"score: none of {traces.seen:,} kept traces can be scored ({_listed(traces.skipped)})")
    told = _report(config, traces, written, fresh)
    whose = family_of(cast(TeacherConfig, stage.sections["teacher"])).record
    return replace(told, data={**told.data, "family": whose})


@dataclass(frozen=True)
class _Speaker:
    """Whose ids the traces shall have. Its text side is read when the first trace has none of them."""

    sections: Mapping[str, Settings]
    tokenizer: str
    """The fingerprint of the teacher's tokenizer."""
    _known: dict[str, Any] = field(default_factory=dict)

    def own(self, trace: Trace) -> TraceTokens | None:
        """The trace's ids, where they are the teacher's."""
        if not trace.completion_ids or trace.prompt_ids is None or trace.tokenizer != self.tokenizer:
            return None
        return TraceTokens(trace.key, trace.prompt_ids, trace.prefill_ids or (), trace.completion_ids, self.tokenizer)

    def made(self, trace: Trace) -> TraceTokens | str:
        """Ids of the trace's text, or why there are none."""
        if "text" not in self._known:
            self._known["text"] = self._read()
        text = self._known["text"]
        if isinstance(text, str):
            return text
        from distill.text.chat import render_prompt
        from distill.text.turn import render_completion

        thinks = trace.reasoning is not None
        prompt = render_prompt(text.tokenizer, trace.messages, thinking=thinks)
        completion = tuple(render_completion(trace, prompt, text, thinks=thinks))
        if not completion:
            return "nothing to score"
        if text.context is not None and len(prompt.ids) + len(completion) >= text.context:
            return f"over the teacher's context of {text.context:,} tokens"
        return TraceTokens(trace.key, prompt.prompt_ids, prompt.prefill_ids, completion, self.tokenizer)

    def _read(self) -> Any:
        """The teacher's text side, or why there is none. Raises DistillError if it is not that of the identity."""
        from distill.text.turn import read_student

        config, teacher = cast(Config, self.sections["score"]), cast(TeacherConfig, self.sections["teacher"])
        if getattr(config.engine.module(), "SERVED", False):
            named: str | None = getattr(config.engine.config, "tokenizer", None)
            folder = None if named is None else resolve_text(named)
        else:
            folder = resolve_text(teacher.model, teacher.revision)
        if folder is None or not folder.is_dir():
            return "no ids, and the teacher's tokenizer is not known here"
        text = read_student(folder)
        if text.fingerprint != self.tokenizer:
            raise DistillError(f"{text.folder}: its tokenizer ({text.fingerprint}) is not the teacher's")
        return text


class _Traces:
    """The kept traces with their ids, as often as they are read."""

    def __init__(self, path: Path, speaker: _Speaker) -> None:
        self.path, self.speaker = path, speaker
        self.seen = self.made = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[TraceTokens]:
        """Each trace's ids. Counts anew each time."""
        self.seen = self.made = 0
        self.skipped = Counter()
        for trace in tables.stream(self.path, Trace):
            self.seen += 1
            if (own := self.speaker.own(trace)) is not None:
                yield own
            elif isinstance(made := self.speaker.made(trace), TraceTokens):
                self.made += 1
                yield made
            else:
                self.skipped[made] += 1

    def all_made(self) -> Iterator[TraceTokens]:
        """The ids that are made of texts, alone."""
        for trace in tables.stream(self.path, Trace):
            if self.speaker.own(trace) is None and isinstance(made := self.speaker.made(trace), TraceTokens):
                yield made


def _by_tokens(traces: Iterable[TraceTokens]) -> Iterator[list[TraceTokens]]:
    """As many traces at a time as a shard holds tokens of."""
    chunk: list[TraceTokens] = []
    size = 0
    for tokens in traces:
        chunk.append(tokens)
        size += len(tokens.completion_ids)
        if size >= SHARD_TOKENS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _score(stage: StageRun, traces: _Traces, scores: Scores) -> int:
    """Score what is missing; how many traces that were. The model is loaded if there are any."""
    config, teacher = cast(Config, stage.sections["score"]), cast(TeacherConfig, stage.sections["teacher"])
    engine: Engine | None = None
    fresh = 0
    try:
        with Progress("score", len(tables.column(traces.path, "key")), "traces") as bar:
            for window in _by_tokens(_missing(traces, scores, bar)):  # engines sort a window by length
                engine = engine or config.engine.module().build(config.engine.config, teacher.model, teacher.revision)
                asked = {tokens.key: tokens for tokens in window}
                requests = [ScoreRequest(t.key, (*t.prompt_ids, *t.prefill_ids), t.completion_ids) for t in window]
                for key, rows in engine.score(requests, config.keep):
                    scores.put(ShardRows(key, asked[key].completion_ids, rows))
                    bar.advance(1, tokens=len(asked[key].completion_ids))
                    fresh += 1
    finally:
        scores.flush()  # also what was scored before a fault: it was paid for
        if engine is not None:
            engine.close()
    return fresh


def _missing(traces: _Traces, scores: Scores, bar: Progress) -> Iterator[TraceTokens]:
    """What is still to be scored."""
    for tokens in traces:
        if scores.has(tokens.key, tokens.completion_ids):
            bar.skip(1)
        else:
            yield tokens
    bar.skip(sum(traces.skipped.values()))


@dataclass
class _Written:
    """What the stage's files hold. `figure` sums over the present rows: the mass of the entries, or the entropy."""

    traces: int = 0
    rows: int = 0
    present: int = 0
    figure: float = 0.0
    bytes: int = 0

    def add(self, rows: TokenLogprobs | SampledLogprobs) -> None:
        """Count one trace."""
        import numpy as np

        figure_N = -np.expm1(rows.tail_N) if isinstance(rows, TokenLogprobs) else rows.entropy_N
        self.traces += 1
        self.rows += len(rows.present_N)
        self.present += int(rows.present_N.sum())
        self.figure += float(figure_N[rows.present_N].sum(dtype=np.float64))


def _write(out: Path, traces: _Traces, scores: Scores) -> _Written:
    """Write the stage's shards, and the ids that were made, in order of the traces."""
    written = _Written()

    def rows(chunk: list[TraceTokens]) -> Iterator[ShardRows]:
        for tokens in chunk:
            got = scores.get(tokens.key, tokens.completion_ids)
            written.add(got)
            yield ShardRows(tokens.key, tokens.completion_ids, got)

    for number, chunk in enumerate(_by_tokens(traces)):
        path = shard_path(out, number)
        shards.write(path, rows(chunk), scores.info)
        written.bytes += path.stat().st_size
    if traces.made:
        tables.write(out / TOKENS, traces.all_made(), TraceTokens)
    return written


def _report(config: Config, traces: _Traces, written: _Written, fresh: int) -> Report:
    mean, each = written.figure / max(written.present, 1), written.bytes / written.rows
    said = f"{mean:.1%} of the mass kept" if config.mode == "topk" else f"entropy {mean:.2f} nats"
    parts = [
        f"{written.rows:,} token rows of {written.traces:,} traces, {each:.1f} bytes each, {said}",
        *([f"{written.traces - fresh:,} scored before"] if fresh < written.traces else []),
        *([f"{traces.made:,} made into the teacher's tokens from their text"] if traces.made else []),
        *([f"skipped: {_listed(traces.skipped)}"] if traces.skipped else []),
    ]
    data = {
        "rows": written.rows, "traces": written.traces, "present": written.present, "mode": config.mode,
        "tokenised": traces.made, "skipped": dict(traces.skipped), "bytes_per_row": each,
        "covered_mass" if config.mode == "topk" else "entropy": mean,
    }  # fmt: skip
    return Report(summary="; ".join(parts), data=data)


def _listed(reasons: Counter[str]) -> str:
    return ", ".join(f"{n:,} {why}" for why, n in reasons.most_common()) or "there are none"
