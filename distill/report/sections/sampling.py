"""What the teacher was asked, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.core.config import canonical
from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.taught import Sampled
from distill.report.wording import counted, money


def section(data: RunData) -> Section | None:
    """Settings, answers, tokens, money, finish reasons, failures, verdicts."""
    sampled = data.taught.sampled
    if sampled is None:
        return None
    counts = sampled.counts
    lead = f"{sampled.summary[:1].upper()}{sampled.summary[1:]}."
    if data.taught.verdicts:
        lead += f" Verdicts: {counted(data.taught.verdicts)}."
    figures = []
    verdicts = data.taught.verdicts
    if verdicts:
        total = sum(verdicts.values())
        bars = [
            plots.Bar(value, count, f"{count:,}", 0 if value == "correct" else 1) for value, count in verdicts.items()
        ]
        rows: list[Row] = [
            {"verdict": value, "answers": count, "share": f"{100 * count / total:.1f}%"}
            for value, count in verdicts.items()
        ]
        svg = plots.bars("verdicts", "Verdicts on the teacher’s answers", bars)
        figures.append(Figure("Verdicts", svg, Table(rows)))
    tables = [Table(_asked(sampled), "What was asked")]
    tables.append(
        Table([{"what": what, "how much": value} for what, value in _spent(sampled).items()], "What came of it")
    )
    if sampled.errors:
        rows = [{"error": error, "answers": count} for error, count in list(sampled.errors.items())[:20]]
        tables.append(Table(rows, "Failures"))
    if len(data.taught.verdict_rows) > 2:
        tables.append(Table(data.taught.verdict_rows, "Verdicts by kind of problem", folded=True))
    texts = [("Terms of the teacher", str(counts["terms"]))] if counts.get("terms") else []
    return Section("sampling", "Sampling", lead, figures, tables, texts=texts)


def _asked(sampled: Sampled) -> list[Row]:
    """Settings that shape what is drawn; those that were not set are left out."""
    own = sampled.settings.get("sample", {})
    teacher = sampled.settings.get("teacher", {})
    found = {"teacher": teacher.get("model"), "engine": (teacher.get("engine") or {}).get("engine"), **own}
    return [{"setting": name, "value": _said(name, value)} for name, value in found.items() if value is not None]


def _ended(stopped: Mapping[str, int]) -> str:
    """The policy's rule and for how many problems it was the one."""
    return ", ".join(f"{rule} ({count:,} problems)" for rule, count in stopped.items())


def _said(name: str, value: Any) -> str:
    """A setting in words: `fixed, n 2` for a choice that names itself."""
    if isinstance(value, Mapping) and name in value:
        more = [f"{key} {_said(key, own)}" for key, own in value.items() if key != name and own is not None]
        return ", ".join([str(value[name]), *more])
    return value if isinstance(value, str) else canonical(value)


def _spent(sampled: Sampled) -> dict[str, str]:
    counts = sampled.counts
    rows = {
        "answers": f"{counts.get('samples', sum(sampled.finished.values())):,}",
        "problems": f"{counts['problems']:,}" if "problems" in counts else None,
        "finished by": counted({str(name): count for name, count in sampled.finished.items()}),
        "asking ended by": _ended(counts["stopped"]) if counts.get("stopped") else None,
        "completion tokens": f"{counts['tokens']:,}" if "tokens" in counts else None,
        "prompt tokens": f"{counts['prompt_tokens']:,}" if "prompt_tokens" in counts else None,
        "cost": money(counts["cost"]) if counts.get("cost") is not None else "no price known",
        "answers cut at the limit": f"{counts['cut']:,}" if "cut" in counts else None,
        "answers alike": f"{counts['alike']:,}" if counts.get("alike") else None,
        "problems set aside": f"{counts['set_aside']:,}" if counts.get("set_aside") else None,
        "asked with a hint": f"{counts['hinted']:,}" if counts.get("hinted") else None,
        "positions with log-probabilities": f"{counts['logit_rows']:,}" if counts.get("logit_rows") else None,
    }
    if sampled.completion_tokens is not None:
        q05, _, q50, _, q95 = sampled.completion_tokens
        rows["tokens an answer"] = f"median {q50:,.0f}, middle 90% from {q05:,.0f} to {q95:,.0f}"
    return {what: value for what, value in rows.items() if value is not None}
