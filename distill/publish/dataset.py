"""The traces as a dataset for others: Parquet that `datasets.load_dataset` reads, one folder a configuration.

    data/traces/part-00000.parquet      what the student was trained on
    data/rejected/part-00000.parquet    where asked for: answers to training problems that a filter rejected, and why

Token ids, prices, times and addresses stay at home. Answers to dev and test problems are in neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.records import Decision, Message, Problem, Sample, Trace, Verdict
from distill.publish import secrets
from distill.stages.filter import trace_of

if TYPE_CHECKING:
    from distill.publish.release import Release

PART_SIZE = 1_000_000_000
"""Characters of text after which a new file begins."""


@dataclass(frozen=True)
class Row:
    """One trace, as published. `FEATURES` says what the columns are."""

    id: str
    problem_id: str
    messages: tuple[Message, ...]
    reasoning: str | None
    answer: str
    gold: str | None
    verdict: str | None
    extracted: str | None
    label_source: str
    label_support: float | None
    domain: str
    level: str
    source: str
    licence: str
    model: str
    finish_reason: str
    reasoning_tokens: int | None
    origin_dataset: str | None
    origin_revision: str | None
    origin_row: int | None


@dataclass(frozen=True)
class RejectedRow(Row):
    """One rejected answer: the columns of a trace, and what rejected it."""

    filter: str = ""
    why: str = ""


FEATURES = {
    "id": "key of the answer: hash of messages, model, sampling settings and index",
    "problem_id": "hash of the problem's messages; several traces may answer one problem",
    "messages": "the turns that were answered, each with `role` and `content`",
    "reasoning": "the model's thinking, without delimiters; null where it answered without",
    "answer": "what came after the thinking",
    "gold": "the reference answer; null where the problem has tests or none",
    "verdict": "`correct`, `wrong`, `unparseable`, `ungradable`, `error`; null: not graded",
    "extracted": "the answer as the verifier read it",
    "label_source": "what it was graded against: `gold`, `majority` (a vote of the model's own answers), "
    "`rationalised` (the model was shown the gold answer and asked for a way there), `none`",
    "label_support": "share of the votes that a majority label had",
    "domain": "the problem's domain",
    "level": "the problem's difficulty, as its source names it",
    "source": "where the problem is from",
    "licence": "the problem's licence, as its source states it",
    "model": "who answered",
    "finish_reason": "`stop`, or `length` where the answer was cut",
    "reasoning_tokens": "length of the thinking in the answering model's tokens, where it is known",
    "origin_dataset": "of an imported trace: the data set it came from",
    "origin_revision": "of an imported trace: that data set's revision",
    "origin_row": "of an imported trace: its row there",
}
"""Every column of both configurations, and what it holds."""

REJECTED_FEATURES = {"filter": "the filter that rejected it", "why": "the filter's reason"}

R = TypeVar("R", bound=Row)


def write(release: Release, folder: Path, *, rejected: bool = False) -> None:
    """Write the dataset's files below `folder`; the same run gives the same bytes.

    Raises DistillError where the traces, or the answers that were rejected, are not on this machine.
    """
    if release.traces is None:
        raise DistillError(f"{release.run}: the traces are not here, so there is no dataset to publish")
    kept = (row_of(trace) for trace in tables.stream(release.traces.file, Trace))
    write_parts(folder / "data" / "traces", kept, Row)
    if rejected:
        write_parts(folder / "data" / "rejected", rejected_rows(release), RejectedRow)


def row_of(trace: Trace) -> Row:
    """A trace as published."""
    return Row(**_columns(trace))


def _columns(trace: Trace) -> dict[str, Any]:
    origin = trace.origin
    return {
        "id": trace.key,
        "problem_id": trace.problem_id,
        "messages": trace.messages,
        "reasoning": trace.reasoning,
        "answer": trace.answer,
        "gold": trace.gold,
        "verdict": trace.verdict,
        "extracted": trace.extracted,
        "label_source": trace.label_source,
        "label_support": trace.label_support,
        "domain": trace.domain,
        "level": trace.level,
        "source": secrets.model_name(trace.source),
        "licence": trace.licence,
        "model": secrets.model_name(trace.model_name),
        "finish_reason": trace.finish_reason,
        "reasoning_tokens": trace.reasoning_tokens,
        "origin_dataset": None if origin.get("dataset") is None else secrets.model_name(str(origin["dataset"])),
        "origin_revision": None if origin.get("revision") is None else str(origin["revision"]),
        "origin_row": origin.get("row"),
    }


def rejected_rows(release: Release) -> Iterator[RejectedRow]:
    """Answers to training problems that a filter rejected, in the order they were drawn.

    Raises DistillError where the run's answers are not on this machine.
    """
    places = {
        "decisions": ("filter", "decisions.parquet"), "samples": ("sample", "samples.parquet"),
        "problems": ("problems", "problems.parquet"), "verdicts": ("verify", "verdicts.parquet"),
    }  # fmt: skip
    folders = {**release.folders, "sample": release.folders.get("sample", release.folders.get("import", Path()))}
    paths = {name: folders.get(stage, Path()) / file for name, (stage, file) in places.items()}
    if absent := [path.name for path in paths.values() if not path.is_file()]:
        raise DistillError(f"{release.run}: {absent[0]} is not here, so what was rejected cannot be published")
    turned_down = {one.sample_key: one for one in tables.stream(paths["decisions"], Decision) if not one.kept}
    # decisions also turn down the answers to dev and test problems, which must stay at home
    problems = {one.id: one for one in tables.stream(paths["problems"], Problem) if one.split == "train"}
    verdicts = {
        one.sample_key: one for one in tables.stream(paths["verdicts"], Verdict) if one.sample_key in turned_down
    }
    for sample in tables.stream(paths["samples"], Sample):
        decision = turned_down.get(sample.key)
        if decision is not None and sample.problem_id in problems:
            trace = trace_of(problems[sample.problem_id], sample, verdicts.get(sample.key))
            yield RejectedRow(**_columns(trace), filter=decision.filter, why=decision.why)


def write_parts(folder: Path, rows: Iterable[R], kind: type[R]) -> int:
    """Write rows as part-00000.parquet and so on, a new one after `PART_SIZE` characters; returns how many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    following = iter(rows)
    total = part = 0
    while True:
        count = tables.write(folder / f"part-{part:05}.parquet", _some(following), kind)
        if not count and part:
            (folder / f"part-{part:05}.parquet").unlink()
        if not count:
            return total
        total, part = total + count, part + 1


def _some(rows: Iterator[R]) -> Iterator[R]:
    """The next rows, up to the size of a file."""
    size = 0
    for row in rows:
        yield row
        size += len(row.reasoning or "") + len(row.answer) + sum(len(message.content) for message in row.messages)
        if size >= PART_SIZE:
            return
