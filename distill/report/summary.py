"""The few lines that say how a run went, and the whole report as Markdown and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill.evaluate import guard
from distill.evaluate.metrics import Difference
from distill.evaluate.scores import OUTCOMES
from distill.report import table
from distill.report.parts import Section
from distill.report.run_data import RunData
from distill.report.wording import bare_percent, percent, size

LEFT_OUT_OF_MARKDOWN = ("settings", "samples")
"""Long texts, which the run folder and the page have."""


def headline(data: RunData) -> str:
    """One sentence with the numbers that matter."""
    student, teacher, base = (data.entry(kind) for kind in ("student", "teacher", "base"))
    if student is None or student.accuracy.value is None or data.task is None:
        measured = [e for e in data.entries if e.accuracy.value is not None]
        if measured and data.task is not None:
            rates = ", ".join(f"{entry.label} {percent(entry.accuracy)}" for entry in measured)
            return f"On {data.task.problems:,} problems ({data.task.name}): {rates}."
        done = ", ".join(dict.fromkeys(stage.stage for stage in data.stages)) or "nothing"
        return f"No student was evaluated in this run. Done so far: {done}."
    named = data.evaluated.split if data.task.name == "problems" else data.task.name
    text = f"The student solves {percent(student.accuracy)} of {data.task.problems:,} {named} problems"
    if teacher is not None and teacher.accuracy.value is not None:
        ratio = data.evaluated.ratio
        share = f"{ratio} of its teacher’s" if ratio is not None else "its teacher"
        text += f", {share} {bare_percent(teacher.accuracy.value)}"
    if base is not None and base.accuracy.value is not None:
        text += f"; before training it solved {bare_percent(base.accuracy.value)}"
    text += "."
    measured = [e for e in data.entries if e.kind == "file" and e.bytes and e.accuracy.value is not None]
    if measured:
        smallest = min(measured, key=lambda entry: entry.bytes or 0)
        text += f" Its smallest exported file, {size(smallest.bytes)}, solves {bare_percent(smallest.accuracy.value)}."
    lost = [task for task in (data.evaluated.guard or {"tasks": []})["tasks"] if task["verdict"] == guard.SHOWN]
    if lost:
        losses = ", ".join(f"{task['name']} {Difference(**task['difference'])}" for task in lost)
        text += f" It forgot some of what its base could do: {losses}."
    return text


def final_rows(data: RunData) -> list[dict[str, Any]]:
    """The final table: every model and exported file that was measured on the first task."""
    rows = []
    for entry in data.entries:
        row: dict[str, Any] = {"model": entry.label}
        row["pass@1 [95%]"] = percent(entry.accuracy)
        row["thinking tokens"] = "-" if entry.thinking_tokens.value is None else f"{entry.thinking_tokens.value:.0f}"
        row["no answer"] = no_answer(entry.outcomes)
        if any(other.bytes for other in data.entries):
            row["size"] = size(entry.bytes)
        if any(other.note for other in data.entries):
            row["note"] = entry.note
        rows.append(row)
    return rows


def as_json(data: RunData) -> dict[str, Any]:
    """The numbers of the report as plain data; `docs/report.md` has its keys."""
    found, taught = data.evaluated, data.taught
    return {
        "name": data.name,
        "headline": headline(data),
        "split": found.split,
        "problems": data.task.problems if data.task is not None else 0,
        "entries": [dataclasses.asdict(entry) for entry in data.entries],
        "student/teacher": None if found.ratio is None else dataclasses.asdict(found.ratio),
        "tasks": [
            {
                **{key: value for key, value in task.about.items() if key != "models"},
                "models": [
                    {**model.about, "label": model.label, "kind": model.kind, "mean": dataclasses.asdict(model.rate)}
                    for model in task.models
                ],
                "lengths": [dataclasses.asdict(length) for length in task.lengths],
                "equal_tokens": [dataclasses.asdict(equal) for equal in task.equal],
            }
            for task in found.tasks
        ],
        "guard": found.guard,
        "arms": [{**dataclasses.asdict(arm), "verdict": arm.verdict} for arm in found.comparison],
        "behaviours": {
            "traces": taught.statistics.get("habits"),
            "models": [dataclasses.asdict(behaviour) for behaviour in found.behaviours],
        },
        "sampling": None if taught.sampled is None else dataclasses.asdict(taught.sampled),
        "verdicts": dict(taught.verdicts),
        "funnel": [dataclasses.asdict(step) for step in taught.funnel],
        "held_out": taught.held_out,
        "traces": dict(taught.statistics),
        "exports": [dict(about) for about in data.exports],
        "seconds": {stage.folder: stage.seconds for stage in data.stages},
        "missing": list(data.missing),
    }


def markdown(data: RunData, chapters: Sequence[Section]) -> str:
    """Headline, final table, then each chapter's sentence and tables: the numbers of the page."""
    parts = [f"# {data.name}\n", headline(data) + "\n"]
    if data.entries:
        parts.append(table.markdown(final_rows(data)))
    return "\n".join(parts + chapters_as_markdown(chapters))


def chapters_as_markdown(chapters: Sequence[Section]) -> list[str]:
    """Each chapter but the long ones, figures by their numbers."""
    parts = []
    for chapter in chapters:
        if chapter.id in LEFT_OUT_OF_MARKDOWN:
            continue
        parts.append(f"## {chapter.title}\n\n{chapter.lead}\n")
        titled = [(figure.title, figure.numbers) for figure in chapter.figures]
        for title, numbers in [*titled, *((found.title, found) for found in chapter.tables)]:
            if numbers.rows:
                parts.append((f"### {title}\n\n" if title else "") + table.markdown(numbers.rows))
    return parts


def no_answer(outcomes: Mapping[str, int]) -> str:
    """Share of answers that were cut, never ended their thinking, or held no answer."""
    total = sum(outcomes.get(name, 0) for name in OUTCOMES)
    missing = sum(outcomes.get(name, 0) for name in ("truncated", "unfinished", "no answer"))
    return f"{100 * missing / total:.1f}%" if total else "-"
