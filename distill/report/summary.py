"""The few lines that say how a run went: a headline, the final table, and the same as Markdown and JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from distill.evaluate import compare
from distill.evaluate.metrics import Mean
from distill.evaluate.scores import OUTCOMES
from distill.report import table
from distill.report.run_data import Entry, RunData


def headline(data: RunData) -> str:
    """One sentence with the numbers that matter."""
    student, teacher, base = (data.entry(kind) for kind in ("student", "teacher", "base"))
    if student is None or student.accuracy.value is None:
        done = ", ".join(dict.fromkeys(stage.stage for stage in data.stages)) or "nothing"
        return f"No student was evaluated in this run. Done so far: {done}."
    text = f"The student solves {percent(student.accuracy)} of {data.problems:,} {data.split} problems"
    if teacher is not None and teacher.accuracy.value is not None:
        share = f"{data.ratio} of its teacher’s" if data.ratio is not None else "its teacher"
        text += f", {share} {_short(teacher.accuracy)}"
    if base is not None and base.accuracy.value is not None:
        text += f"; before training it solved {_short(base.accuracy)}"
    text += "."
    measured = [e for e in data.entries if e.kind == "file" and e.bytes and e.accuracy.value is not None]
    if measured:
        smallest = min(measured, key=lambda entry: entry.bytes or 0)
        text += f" Its smallest exported file, {size(smallest.bytes)}, solves {_short(smallest.accuracy)}."
    return text


def final_rows(data: RunData) -> list[dict[str, Any]]:
    """The final table: every model and exported file that was measured."""
    rows = []
    for entry in data.entries:
        row: dict[str, Any] = {"model": entry.label}
        row["pass@1 [95%]"] = percent(entry.accuracy)
        row["thinking tokens"] = "-" if entry.thinking_tokens.value is None else f"{entry.thinking_tokens.value:.0f}"
        row["no answer"] = _no_answer(entry)
        if any(other.bytes for other in data.entries):
            row["size"] = size(entry.bytes)
        if any(other.note for other in data.entries):
            row["note"] = entry.note
        rows.append(row)
    return rows


def as_json(data: RunData) -> dict[str, Any]:
    """The numbers of the report as plain data."""
    return {
        "name": data.name,
        "headline": headline(data),
        "problems": data.problems,
        "split": data.split,
        "entries": [dataclasses.asdict(entry) for entry in data.entries],
        "student/teacher": None if data.ratio is None else dataclasses.asdict(data.ratio),
        "arms": [{**dataclasses.asdict(arm), "verdict": arm.verdict} for arm in data.comparison],
        "funnel": [dataclasses.asdict(step) for step in data.funnel],
        "verdicts": dict(data.verdicts),
        "exports": [dict(about) for about in data.exports],
        "seconds": {stage.folder: stage.seconds for stage in data.stages},
        "missing": list(data.missing),
    }


def markdown(data: RunData) -> str:
    """Headline, final table and, where there are arms, their comparison."""
    parts = [f"# {data.name}\n", headline(data) + "\n"]
    if data.entries:
        parts.append(table.markdown(final_rows(data)))
    if len(data.comparison) > 1:
        parts += ["## Arms\n", table.markdown(compare.rows(data.comparison))]
    return "\n".join(parts)


def percent(mean: Mean) -> str:
    """A rate with its interval: `83.2% [79.7, 86.2]`."""
    if mean.value is None:
        return "-"
    if mean.low is None or mean.high is None:
        return _short(mean)
    return f"{100 * mean.value:.1f}% [{100 * mean.low:.1f}, {100 * mean.high:.1f}]"


def size(count: int | None) -> str:
    """Bytes for people, in decimal units."""
    if count is None:
        return ""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} bytes"


def _short(mean: Mean) -> str:
    return "-" if mean.value is None else f"{100 * mean.value:.1f}%"


def _no_answer(entry: Entry) -> str:
    total = sum(entry.outcomes.get(name, 0) for name in OUTCOMES)
    missing = sum(entry.outcomes.get(name, 0) for name in ("truncated", "unfinished", "no answer"))
    return f"{100 * missing / total:.1f}%" if total else "-"
