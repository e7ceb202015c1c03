"""From answers to traces: what each filter took and why, with a rejected example or two."""

from __future__ import annotations

from collections import Counter

from distill.report import plots
from distill.report.parts import Example, Figure, Row, Section, Shown, Table
from distill.report.run_data import RunData
from distill.report.wording import counted

SHOWN_EXAMPLES = 2
"""For each filter and reason."""
SHOWN_REASONS = 12
"""Of one filter, the most frequent; a reason can hold a number, so that there are many."""


def section(data: RunData) -> Section | None:
    """The funnel, its reasons, what is left by level and domain, and rejected examples."""
    steps = data.taught.funnel
    if not steps:
        return None
    first, last = steps[0], steps[-1]
    bars: list[plots.Bar] = []
    rows: list[Row] = []
    mixes: list[Row] = []
    reasons: list[Row] = []
    for step in steps:
        name = f"after {step.filter}" if step.filter else "all answers"
        bars.append(plots.Bar(name, step.kept, f"{step.kept:,}", 0 if step is last else 1))
        rows.append({
            "filter": step.filter or "all answers", "rejected": step.rejected, "left": step.kept,
            "problems": step.problems, "mean characters": round(step.lengths.mean) if step.lengths else None,
            "remarks": counted(step.remarks or {}),
        })  # fmt: skip
        mix = {f"level {value}": count for value, count in step.by_level.items() if value} | dict(step.by_domain)
        mixes.append({"after": step.filter or "all answers", **mix})
        shown = list(step.reasons.items())
        reasons += [{"filter": step.filter, "reason": why, "rejected": n} for why, n in shown[:SHOWN_REASONS]]
        if len(shown) > SHOWN_REASONS:
            rest = sum(count for _, count in shown[SHOWN_REASONS:])
            reasons.append({"filter": step.filter, "reason": "other reasons", "rejected": rest})
    if not any(row["remarks"] for row in rows):
        rows = [{column: value for column, value in row.items() if column != "remarks"} for row in rows]
    columns = dict.fromkeys(column for mix in mixes for column in mix)
    mixes = [{column: mix.get(column, 0) for column in columns} for mix in mixes]
    lead = f"{last.kept:,} of {first.kept:,} answers became traces to train on"
    lead += f", for {last.problems:,} of {first.problems:,} problems."
    if data.taught.held_out:
        lead += f" {data.taught.held_out:,} answers to dev or test problems were set aside first."
    svg = plots.bars("funnel", "Answers left after each filter", bars)
    tables = [Table(reasons, "Why answers were rejected")] if reasons else []
    if len(columns) > 1:
        tables.append(Table(mixes, "What is left, by level and domain", folded=True))
    return Section(
        "funnel", "Filtering", lead, [Figure("", svg, Table(rows), wide="remarks" in rows[0])], tables,
        examples=_rejected(data), examples_title="Rejected examples",
    )  # fmt: skip


def _rejected(data: RunData) -> list[Example]:
    """In the order of the filters, the first few of each reason."""
    order = [step.filter for step in data.taught.funnel]
    seen: Counter[tuple[str, str]] = Counter()
    examples = []
    for about in sorted(data.taught.rejected, key=lambda a: (order.index(a["filter"]), a["why"], a["key"])):
        place = (about["filter"], about["why"])
        seen[place] += 1
        if seen[place] <= SHOWN_EXAMPLES and sum(name == place[0] for name, _ in seen) <= SHOWN_REASONS:
            why = f"rejected by {about['filter']}: {about['why']}"
            answer = Shown("teacher", about["reasoning"] or None, about["answer"].strip(), "rejected")
            examples.append(Example(why, about["question"], about["gold"] or "", [answer]))
    return examples
