"""`filter`: keeps the traces worth learning from, and says of every other one which filter rejected it and why.

Filters run in the order of the YAML, each on what the one before left (`distill.stages.funnel`). Only answers to
training problems can become traces: those to dev and test problems are set aside first (`split` in the decisions).
Samples are read twice, in chunks: once by all cores to look at them, once to write those that are kept.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import PositiveInt, model_validator

from distill.core import files, tables
from distill.core.config import Settings, Unkeyed, digest
from distill.core.device import usable_cores
from distill.core.errors import DistillError
from distill.core.plugins import Choice, ChoiceOf
from distill.core.progress import Progress
from distill.core.records import Decision, LabelSource, Message, Problem, Sample, Trace, Verdict
from distill.core.stage import Report, StageRun
from distill.stages import funnel
from distill.stages.funnel import Named, Row, Step
from distill.stages.statistics import Statistics

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
CHUNK = 4096
WORTH_A_PROCESS = 20_000
"""Answers below which starting processes costs more than it saves."""


class Config(Settings):
    """Settings of `filter:`, which may be written as the bare list of filters."""

    filters: list[Annotated[Choice, ChoiceOf("distill.filters", "filter")]]
    """Filters in the order they run."""
    control: bool = False
    """Also write `control.parquet`: traces drawn from all answers, unfiltered, with as many training tokens as those
    kept. An arm with `train: {traces: control}` then shows whether filtering helped."""
    workers: Annotated[PositiveInt | None, Unkeyed] = None
    """Processes that look at traces. None: one a core; results are the same for any number."""

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, value: Any) -> Any:
        return {"filters": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _in_a_sensible_order(self) -> Config:
        names = [choice.name for choice in self.filters]
        for place, choice in enumerate(self.filters):
            late = set(getattr(choice.module(), "BEFORE", ())) & set(names[:place])
            if late:
                raise ValueError(f"`{choice.name}` must come before `{min(late)}`, which takes what it counts")
        return self

    def build(self) -> Named:
        """The filters, each with its name."""
        return [(choice.name, choice.module().build(choice.config)) for choice in self.filters]


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """Contents of the files that filters read."""
    found: dict[str, str] = {}
    for choice in cast(Config, sections["filter"]).filters:
        asks = getattr(choice.module(), "externals", None)
        found |= {} if asks is None else {f"{choice.name}.{key}": value for key, value in asks(choice.config).items()}
    return found


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """A file that a filter needs and that is not there is refused before anything runs."""
    if "filter" in sections:
        try:
            externals(sections)
        except DistillError as error:
            return ("filter",), f"`filter`: {error}"
    return None


def trace_of(problem: Problem, sample: Sample, verdict: Verdict | None) -> Trace:
    """What a student would train on, from a problem, an answer and what was said of it."""
    return Trace(
        key=sample.key,
        problem_id=problem.id,
        messages=_as_asked(problem, sample),
        reasoning=sample.reasoning,
        answer=sample.answer,
        gold=problem.gold,
        domain=problem.domain,
        source=problem.source,
        licence=problem.licence,
        level=problem.level,
        model_id=sample.model_id,
        model_name=sample.model_name,
        finish_reason=sample.finish_reason,
        closed=sample.closed,
        prompt_ids=sample.prompt_ids,
        prefill_ids=sample.prefill_ids,
        completion_ids=sample.completion_ids,
        tokenizer=sample.tokenizer,
        reasoning_tokens=sample.reasoning_tokens,
        verdict=None if verdict is None else verdict.value,
        verdict_reason="" if verdict is None else verdict.reason,
        extracted=None if verdict is None else verdict.extracted,
        label_source=_label_source(sample, verdict),
        label_support=None if verdict is None else verdict.label_support,
        origin=sample.origin,
    )


def _label_source(sample: Sample, verdict: Verdict | None) -> LabelSource:
    """What stands behind a trace. A rationalised one is marked as that, though gold judged it: gold was its hint."""
    if sample.rationalised:
        return "rationalised"
    return "none" if verdict is None else verdict.label_source


def _as_asked(problem: Problem, sample: Sample) -> tuple[Message, ...]:
    """The turns that were answered: the system prompt of the sampling counts, unless the problem brought its own."""
    if sample.system is None or any(message.role == "system" for message in problem.messages):
        return problem.messages
    return (Message("system", sample.system), *problem.messages)


@dataclass(frozen=True)
class Chunk:
    """Answers with what belongs to each, as Arrow: cheap to hand to another process."""

    samples: pa.RecordBatch
    problems: pa.Table
    verdicts: list[Verdict | None]


@dataclass(frozen=True)
class HeldOut:
    """An answer to a problem that is not for training."""

    key: str
    split: str


def run(stage: StageRun) -> Report:
    """Join problems, answers and verdicts; write decisions, traces, the funnel, statistics, examples of what went."""
    config = cast(Config, stage.sections["filter"])
    filters = config.build()
    asked = _Asked(stage.inputs["problems"] / "problems.parquet")
    rows: list[Row] = []
    order: list[HeldOut | None] = []  # None: the next row
    for chunk in _looked_at(stage, asked, config):
        rows += [item for item in chunk if isinstance(item, Row)]
        order += [item if isinstance(item, HeldOut) else None for item in chunk]
    decided, steps = funnel.settle(rows, filters)
    kept = {decision.sample_key for decision in decided if decision.kept}
    held_out = len(order) - len(rows)
    tables.write(stage.out / "decisions.parquet", _in_order(order, decided), Decision)
    statistics = Statistics()
    kept_traces = statistics.watch(asked.none_held_out(_traces(stage, asked, kept)))
    tables.write(stage.out / "traces.parquet", kept_traces, Trace)
    files.write_json(stage.out / "statistics.json", statistics.as_dict())
    data: dict[str, Any] = {}
    if config.control:
        drawn, data["tokens"], data["control_tokens"] = _control(rows, kept)
        control = asked.none_held_out(_traces(stage, asked, drawn))
        data["control"] = tables.write(stage.out / "control.parquet", control, Trace)
    files.write_json(stage.out / "rejected.json", examples(steps, lambda keys: _traces(stage, asked, keys)))
    files.write_json(stage.out / "funnel.json", {"held_out": held_out, "steps": [asdict(step) for step in steps]})
    told = report(steps, held_out)
    if config.control:
        remark = f"; control {data['control']:,} with {data['control_tokens']:,} tokens to {data['tokens']:,} kept"
        told = replace(told, summary=told.summary + remark, data=told.data | data)
    return told


class _Asked:
    """The problems, kept as Arrow with an index: a million of them as objects would fill the memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.table = pa.Table.from_batches(tables.batches(path, Problem), tables.arrow_schema(Problem))
        self.place = {name: place for place, name in enumerate(self.table.column("id").to_pylist())}
        splits = self.table.column("split").to_pylist()
        held = [name for name, place in self.place.items() if splits[place] != "train"]
        self.held_out = {tuple(p.messages): p.split for p in tables.records(self.rows(held), Problem)}

    def rows(self, ids: Sequence[str]) -> pa.Table:
        """The problems with these ids, each once."""
        unknown = next((name for name in ids if name not in self.place), None)
        if unknown is not None:
            raise DistillError(f"filter: an answer is to a problem that is not there: {unknown}")
        return _taken(self.table, sorted({self.place[name] for name in ids}))

    def none_held_out(self, kept: Iterable[Trace]) -> Iterator[Trace]:
        """The last lock before training: whatever happened above, no dev or test problem is trained on."""
        for trace in kept:
            split = self.held_out.get(tuple(trace.messages)) or self.table.column("split")[self.place[trace.problem_id]]
            if str(split) != "train":
                said = trace.messages[-1].content[:80]
                raise DistillError(f"filter: a {split} problem would be trained on: {said!r}")
            yield trace


def _chunks(stage: StageRun, asked: _Asked) -> Iterator[Chunk]:
    """Answers with their problems and verdicts. Verdicts come in the order of the answers; some may lack one."""
    verdicts = tables.stream(stage.inputs["verify"] / "verdicts.parquet", Verdict)
    head = next(verdicts, None)
    for samples in tables.batches(stage.inputs["sample"] / "samples.parquet", Sample, CHUNK):
        own: list[Verdict | None] = []
        for key in samples.column("key").to_pylist():
            mine = head is not None and head.sample_key == key
            own.append(head if mine else None)
            head = next(verdicts, None) if mine else head
        yield Chunk(samples, asked.rows(samples.column("problem_id").to_pylist()), own)
    if head is not None:
        raise DistillError(
            f"{stage.inputs['verify'] / 'verdicts.parquet'}: its order is not that of the answers (verdict of "
            f"{head.sample_key[:12]}); run `distill verify` again"
        )


def _joined(chunk: Chunk, keys: set[str] | None = None) -> list[tuple[Problem, Sample, Verdict | None]]:
    """The records of a chunk, or of the answers with these keys."""
    problems = {problem.id: problem for problem in tables.records(chunk.problems, Problem)}
    samples, verdicts = chunk.samples, chunk.verdicts
    if keys is not None:
        chosen = [place for place, key in enumerate(samples.column("key").to_pylist()) if key in keys]
        samples, verdicts = _taken(samples, chosen), [verdicts[place] for place in chosen]
    found = tables.records(samples, Sample)
    return [(problems[s.problem_id], s, v) for s, v in zip(found, verdicts, strict=True)]


def _taken(rows: pa.Table | pa.RecordBatch, places: Sequence[int]) -> pa.Table | pa.RecordBatch:
    import pyarrow as pa

    return rows.take(pa.array(places, pa.int64()))  # the type is said: an empty list has none


def look(chunk: Chunk, filters: Named) -> list[Row | HeldOut]:
    """What the funnel keeps of each answer of a chunk, in order."""
    seen: list[Row | HeldOut] = []
    for problem, sample, verdict in _joined(chunk):
        if _is_held_out(problem):
            seen.append(HeldOut(sample.key, problem.split))
        else:
            seen += funnel.assess([trace_of(problem, sample, verdict)], filters)
    return seen


_FILTERS: Named = []
"""The filters of a worker process, built once."""


def _start_worker(config: Config) -> None:
    global _FILTERS
    _FILTERS = config.build()


def _look_in_worker(chunk: Chunk) -> list[Row | HeldOut]:
    return look(chunk, _FILTERS)


def _looked_at(stage: StageRun, asked: _Asked, config: Config) -> Iterator[list[Row | HeldOut]]:
    """Chunks in order, looked at here or, where there are many, by all cores."""
    import pyarrow.parquet as pq

    total = pq.ParquetFile(stage.inputs["sample"] / "samples.parquet").metadata.num_rows
    workers = config.workers or (usable_cores() if total >= WORTH_A_PROCESS else 1)
    with Progress("filter", total, "answers") as bar:
        for seen in _here(stage, asked, config) if workers == 1 else _by_workers(stage, asked, config, workers):
            bar.advance(len(seen))
            yield seen


def _here(stage: StageRun, asked: _Asked, config: Config) -> Iterator[list[Row | HeldOut]]:
    filters = config.build()
    for chunk in _chunks(stage, asked):
        yield look(chunk, filters)


def _by_workers(stage: StageRun, asked: _Asked, config: Config, workers: int) -> Iterator[list[Row | HeldOut]]:
    # Not forked: a forked child would inherit threads of Arrow in the middle of their work.
    context = multiprocessing.get_context("spawn")
    waiting: deque[Future[list[Row | HeldOut]]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(config,)) as pool:
        for chunk in _chunks(stage, asked):
            waiting.append(pool.submit(_look_in_worker, chunk))
            if len(waiting) > 2 * workers:  # so many chunks are in memory, whatever the file's size
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _in_order(order: Sequence[HeldOut | None], decided: Sequence[Decision]) -> Iterator[Decision]:
    following = iter(decided)
    for item in order:
        yield next(following) if item is None else Decision(item.key, False, "split", f"answers a {item.split} problem")


def _traces(stage: StageRun, asked: _Asked, keys: set[str]) -> Iterator[Trace]:
    """The traces with these keys, in the order of the answers."""
    for chunk in _chunks(stage, asked):
        yield from (trace_of(problem, sample, verdict) for problem, sample, verdict in _joined(chunk, keys))


def _control(rows: Sequence[Row], kept: set[str]) -> tuple[set[str], int, int]:
    """Traces drawn from all answers until they have as many tokens as those kept; and both sums."""
    target = sum(row.tokens for row in rows if row.key in kept)
    drawn: set[str] = set()
    total = 0
    for row in sorted(rows, key=lambda row: digest(["control", row.key])):
        if row.tokens and total + row.tokens <= target:
            drawn.add(row.key)
            total += row.tokens
    return drawn, target, total


def examples(steps: Sequence[Step], again: Callable[[set[str]], Iterable[Trace]]) -> list[dict[str, Any]]:
    """A few rejected traces for each reason, their texts cut to what a person reads. `again` gives traces by key."""
    wanted = {key: (step.filter, why) for step in steps for why, keys in (step.examples or {}).items() for key in keys}
    return [
        {
            "filter": wanted[trace.key][0], "why": wanted[trace.key][1], "key": trace.key,
            "question": _cut(trace.messages[-1].content), "reasoning": _cut(trace.reasoning or ""),
            "answer": _cut(trace.answer), "gold": trace.gold,
        }
        for trace in again(set(wanted))
    ]  # fmt: skip


def _cut(text: str, keep: int = 400) -> str:
    return (
        text
        if len(text) <= 2 * keep
        else f"{text[:keep]}\n[... {len(text) - 2 * keep:,} characters ...]\n{text[-keep:]}"
    )


def report(steps: Sequence[Step], held_out: int) -> Report:
    """The funnel as a table: what each filter took, its reasons, and what the rest look like."""
    start, end = steps[0], steps[-1]
    rows: list[dict[str, Any]] = [
        {
            "filter": step.filter or "all answers",
            "rejected": step.rejected,
            "left": step.kept,
            "problems": step.problems,
            "mean length": round(step.lengths.mean) if step.lengths else "-",
            "levels": _shown(step.by_level),
            "domains": _shown(step.by_domain),
            "sources": _shown(step.by_source or {}) if len(start.by_source or {}) > 1 else "",
            "reasons": _shown(dict(Counter(step.reasons).most_common(3))),
            "remarks": _shown(step.remarks or {}),
        }
        for step in steps
    ]
    for column in ("levels", "domains", "sources", "remarks"):
        if all(not row[column] for row in rows):
            for row in rows:
                del row[column]
    aside = f"; {held_out:,} answer dev or test problems" if held_out else ""
    return Report(
        summary=f"{end.kept:,} of {start.kept:,} traces kept, {end.problems:,} of {start.problems:,} problems{aside}",
        rows=rows,
        data={"seen": start.kept, "kept": end.kept, "held_out": held_out, "steps": [asdict(step) for step in steps]},
    )


def _shown(counts: Mapping[str, int]) -> str:
    shown = [f"{name or '-'} {count:,}" for name, count in counts.items()]
    return ", ".join(shown[:6]) + (f", {len(shown) - 6} more" if len(shown) > 6 else "")


def _is_held_out(problem: Problem) -> bool:
    return problem.split != "train"
