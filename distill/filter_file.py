"""`distill filter --traces`: an experiment's filters on a plain file of traces, without a run.

A row of JSON Lines has the question (`messages`, or `question`, `problem` or `prompt`), and either `reasoning` and
`answer` or a whole `response`; it may have any other field of a trace (`gold`, `verdict`, `domain`, `level`,
`finish_reason`, ...). A Parquet file holds trace records, as the filter stage writes them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from distill.core import files, jsonl, tables
from distill.core.config import Settings, digest
from distill.core.errors import ConfigError, DistillError
from distill.core.records import Decision, FinishReason, Message, Trace, VerdictValue, problem_id
from distill.core.stage import Report
from distill.stages import filter as stage
from distill.stages import funnel
from distill.stages.statistics import Statistics
from distill.text.think import OPEN, split_think

QUESTIONS = ("question", "problem", "prompt")
RESPONSES = ("response", "completion", "output")
PLAIN = (
    "key",
    "problem_id",
    "gold",
    "domain",
    "source",
    "licence",
    "level",
    "model_id",
    "model_name",
    "verdict_reason",
)


def filter_file(path: Path, sections: Mapping[str, Settings], out: Path, experiment: str) -> Report:
    """Run the filters on the traces of a file; write traces, decisions, funnel, statistics and examples into `out`.

    For JSON Lines, `kept.jsonl` has the rows that were kept, as they were. Raises DistillError with file and line for
    a row that is no trace, ConfigError if the experiment has no `filter:`.
    """
    if "filter" not in sections:
        raise ConfigError(f"{experiment}: has no section `filter:`")
    config = cast(stage.Config, sections["filter"])
    filters = config.build()
    from_parquet = path.suffix == ".parquet"

    def read() -> Iterator[Trace]:
        return tables.stream(path, Trace) if from_parquet else (trace for trace, _ in read_rows(path))

    rows = funnel.assess(read(), filters)
    if len({row.key for row in rows}) != len(rows):
        raise DistillError(f"{path}: two rows have the same `key`")
    decided, steps = funnel.settle(rows, filters)
    kept = {decision.sample_key for decision in decided if decision.kept}
    out.mkdir(parents=True, exist_ok=True)
    statistics = Statistics()
    tables.write(out / "decisions.parquet", decided, Decision)
    tables.write(out / "traces.parquet", statistics.watch(t for t in read() if t.key in kept), Trace)
    if not from_parquet:
        with files.atomic(out / "kept.jsonl") as partial, partial.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps(row, ensure_ascii=False) + "\n" for trace, row in read_rows(path) if trace.key in kept
            )
    files.write_json(out / "statistics.json", statistics.as_dict())
    files.write_json(out / "rejected.json", stage.examples(steps, lambda keys: (t for t in read() if t.key in keys)))
    files.write_json(out / "funnel.json", {"held_out": 0, "steps": [dataclasses.asdict(step) for step in steps]})
    return stage.report(steps, 0)


def read_rows(path: Path) -> Iterator[tuple[Trace, dict[str, Any]]]:
    """Traces of a JSON Lines file, each with the row it came from. A row without `key` is named by its content."""
    seen: dict[str, int] = {}
    for number, row in jsonl.read(path):
        trace = as_trace(row, f"{path}:{number}")
        times = seen[trace.key] = seen.get(trace.key, 0) + 1
        if times > 1 and "key" not in row:
            trace = dataclasses.replace(trace, key=digest([trace.key, times]))
        yield trace, row


def as_trace(row: dict[str, Any], where: str) -> Trace:
    """One row as a trace. Raises DistillError with `where` if it lacks question or answer, or a value is none."""
    messages = _messages(row, where)
    reasoning, answer, closed = _said(row, where)
    finish = row.get("finish_reason") or "stop"
    verdict = row.get("verdict")
    for name, value, known in (("finish_reason", finish, FinishReason), ("verdict", verdict, VerdictValue)):
        if value is not None and value not in get_args(known):
            raise DistillError(f"{where}: `{name}` is {value!r}; it is one of {', '.join(get_args(known))}")
    about: dict[str, Any] = {
        "key": digest([[m.role, m.content] for m in messages] + [reasoning, answer]),
        "problem_id": problem_id(messages),
        **{name: text for name in PLAIN if name in row and (text := jsonl.text(row, name, where)) is not None},
        "finish_reason": finish,
        "verdict": verdict,
    }
    return Trace(messages=messages, reasoning=reasoning, answer=answer, closed=closed, **about)


def _messages(row: dict[str, Any], where: str) -> tuple[Message, ...]:
    if "messages" in row:
        turns = row["messages"]
        if not isinstance(turns, list) or not all(
            isinstance(turn, dict) and turn.get("role") in ("system", "user", "assistant") for turn in turns
        ):
            raise DistillError(f"{where}: `messages` is a list of objects with `role` and `content`")
        asked = tuple(Message(turn["role"], str(turn.get("content") or "")) for turn in turns)
        if asked:
            return asked[:-1] if asked[-1].role == "assistant" and len(asked) > 1 else asked
    name = next((name for name in QUESTIONS if row.get(name)), None)
    if name is None:
        raise DistillError(f"{where}: no question; a row has `messages` or one of {', '.join(QUESTIONS)}")
    return (Message("user", jsonl.text(row, name, where) or ""),)


def _said(row: dict[str, Any], where: str) -> tuple[str | None, str, bool]:
    """Reasoning, answer, and whether the reasoning ended."""
    if "answer" in row and not any(name in row for name in RESPONSES):
        closed = row.get("closed", True)
        return jsonl.text(row, "reasoning", where) if "reasoning" in row else None, _text(row, "answer", where), closed
    name = next((name for name in RESPONSES if name in row), None)
    turns = row.get("messages") or [{}]
    text = _text(row, name, where) if name else str(turns[-1].get("content") or "")
    if name is None and turns[-1].get("role") != "assistant":
        raise DistillError(
            f"{where}: no answer; a row has `answer`, one of {', '.join(RESPONSES)}, or an assistant turn"
        )
    split = split_think(text, thinker=OPEN in text)
    return split.reasoning, split.answer, split.closed


def _text(row: dict[str, Any], name: str, where: str) -> str:
    return jsonl.text(row, name, where) or ""
