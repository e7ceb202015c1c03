"""Exported files: size, bits a weight, distance from the student, and how far each was proved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import bare_percent, percent, point, size


def section(data: RunData) -> Section | None:
    """One line a file. Accuracy against bits a weight is drawn where several files answered."""
    if not data.exports:
        return None
    rows: list[Row] = [_row(about) for about in data.exports]
    columns = [column for column in rows[0] if any(row[column] not in ("", "-") for row in rows)]
    numbers = Table([{column: row[column] for column in columns} for row in rows])
    answered = [about for about in data.exports if (about.get("rate") or {}).get("value") is not None]
    missed = [f"{about['name']}: {fault}" for about in data.exports for fault in about.get("missed", [])]
    lead = (
        "Every file was proved after it was written: types and ids read back (tier 1), log-probabilities of an F32 twin"
        " against transformers (tier 2), whole-model divergence and greedy answers beside the student’s own (tier 3)."
    )
    if missed:
        lead += " Not everything held: see below."
    texts = [("What was missed", "\n".join(missed))] if missed else []
    runs = "\n".join(str(about["run"]) for about in data.exports if about.get("run"))
    if runs:
        texts.append(("How to run them", runs))
    details = Table(data.export_rows, "All columns of the export stage", folded=True)
    if len(answered) < 2:
        return Section("files", "Files", lead, tables=[numbers, details], texts=texts)
    marks = [point("student, greedy", answered[0]["student_rate"], 0)]
    for about in answered:
        bits = f", {_bits(about)} bits" if about.get("bits_per_weight") is not None else ""
        marks.append(point(f"{about['name']}{bits}", about["rate"], 3))
    lows = [mark.low for mark in marks if mark.low is not None]
    limits = (max(0.0, min(lows, default=0.0) - 5), 100.0)
    svg = plots.dots("files", "Accuracy of each exported file", marks, "greedy pass@1, %", limits=limits)
    return Section("files", "Files", lead, [Figure("", svg, numbers, wide=True)], [details], texts=texts)


def _row(about: Mapping[str, Any]) -> dict[str, str]:
    """Size, bits, distance, accuracy, proof."""
    return {
        "file": about["name"],
        "size": size(about["bytes"]),
        "bits a weight": _bits(about),
        "log-prob diff": _small(about.get("max_logprob_diff")),
        "KL, nats": _small(about.get("kl")),
        "top-1": bare_percent(about.get("top_1")),
        "same text": bare_percent(about.get("greedy_equal")),
        "accuracy [95%]": percent(about["rate"]) if about.get("rate") else "-",
        "tiers": " ".join(map(str, about.get("tiers", ()))),
        "proved": "no" if about.get("missed") else "yes",
    }


def _bits(about: Mapping[str, Any]) -> str:
    bits = about.get("bits_per_weight")
    return "-" if bits is None else f"{bits:.2f}"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"
