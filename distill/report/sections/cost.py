"""What it took: wall-clock time of the stages, tokens and money, and what a correct answer costs."""

from __future__ import annotations

from typing import Any

from distill.report import plots
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import duration, estimate, money


def section(data: RunData) -> Section | None:
    """Time by stage; tokens and money by model and task."""
    if not data.stages:
        return None
    spent: dict[str, float] = {}
    for stage in data.stages:
        spent[stage.stage] = spent.get(stage.stage, 0.0) + stage.seconds
    total = sum(spent.values())
    bars = [plots.Bar(stage, seconds, duration(seconds), 1) for stage, seconds in spent.items()]
    rows: list[Row] = [
        {
            "stage": stage,
            "runs": sum(facts.stage == stage for facts in data.stages),
            "time": duration(seconds),
            "share": f"{100 * seconds / total:.0f}%" if total else "-",
        }
        for stage, seconds in spent.items()
    ]
    svg = plots.bars("time", "Time spent in each stage", bars)
    lead = f"{duration(total)} of wall-clock time in all; a stage that several arms share ran once."
    answers = _answers(data)
    if answers:
        lead += " Tokens for each correct answer count those of wrong answers too."
    tables = [Table(answers, "Tokens and money")] if answers else []
    return Section("cost", "Cost and time", lead, [Figure("", svg, Table(rows))], tables)


def _answers(data: RunData) -> list[Row]:
    rows: list[dict[str, Any]] = []
    for task in data.evaluated.tasks:
        for model in task.models:
            cost = model.about.get("cost")
            if not cost:
                continue
            rows.append({
                "model": model.label, "task": task.name, "prompt tokens": cost["prompt_tokens"],
                "completion tokens": cost["completion_tokens"],
                "tokens for each correct answer [95%]": estimate(cost.get("tokens_per_correct") or {}),
                "money": money(cost.get("money")),
                "money for each correct answer": money((cost.get("money_per_correct") or {}).get("value")),
            })  # fmt: skip
    drawn = _sampled(data)
    if drawn:
        rows.insert(0, drawn)
    for column in ("money", "money for each correct answer"):
        if all(row[column] == "-" for row in rows):
            for row in rows:
                del row[column]
    return list(rows)


def _sampled(data: RunData) -> dict[str, Any]:
    """The teacher's answers that traces were made of."""
    sampled = data.taught.sampled
    if sampled is None or "tokens" not in sampled.counts:
        return {}
    correct = data.taught.verdicts.get("correct", 0)
    tokens, paid = sampled.counts["tokens"], sampled.counts.get("cost")
    return {
        "model": "teacher", "task": "sampling of traces", "prompt tokens": sampled.counts.get("prompt_tokens", 0),
        "completion tokens": tokens,
        "tokens for each correct answer [95%]": f"{tokens / correct:,.0f}" if correct else "-",
        "money": money(paid),
        "money for each correct answer": money(paid / correct) if correct and paid is not None else "-",
    }  # fmt: skip
