"""What traces do while they think: check themselves, turn back, try another way, refine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.report import plots
from distill.report.evaluated import Behaviour
from distill.report.parts import Figure, Row, Section, Table
from distill.report.run_data import RunData
from distill.report.wording import bare_percent

TRAINED_ON = "traces trained on"
WORDS = {
    "checks": "self-verification",
    "turns_back": "backtracking",
    "tries_another_way": "alternatives",
    "refines": "refinement",
}


def section(data: RunData) -> Section | None:
    """Habits of the training traces and of every measured model, side by side."""
    told = data.taught.statistics
    found = [*_trained_on(told), *data.evaluated.behaviours]
    if not found:
        return None
    lead = (
        "Share of answers that show a habit at least once and, in brackets, how often it shows in 1,000 characters of "
        "thinking. Counted by English phrases at the start of a clause: words, not thought. Measured models: first "
        "answers with thinking, of up to 500 problems."
    )
    after = told.get("after_the_answer", {})
    if after.get("mean_share") is not None:
        lead += (
            f" In the traces trained on, {100 * after['mean_share']:.0f}% of the thinking follows the first place "
            f"where the gold answer stands; in {100 * after['over_half']:.1f}% of them it is more than half."
        )
    numbers: list[Row] = [
        {
            "of": about.label, "answers": about.answers,
            **{word: f"{bare_percent(about.shares[name])} ({about.times[name]:.2f})" for name, word in WORDS.items()},
        }
        for about in found
    ]  # fmt: skip
    highest = max(share for about in found for share in about.shares.values())
    if highest == 0:
        return Section("behaviours", "Behaviours", lead + " None of them shows in any answer.", tables=[Table(numbers)])
    rows = [(word, [_point(data, about, name) for about in found]) for name, word in WORDS.items()]
    svg = plots.groups(
        "behaviours", "Share of answers that show each habit", rows, "% of answers", limits=(0, 110 * highest)
    )
    return Section("behaviours", "Behaviours", lead, [Figure("", svg, Table(numbers), wide=True)])


def _trained_on(told: Mapping[str, Any]) -> list[Behaviour]:
    """Of the kept traces, as the filter stage counted them; empty where it kept none."""
    if not told.get("traces"):
        return []
    habits = told["habits"]
    shares = {name: habits[name]["share"] for name in WORDS}
    return [Behaviour(TRAINED_ON, "file", told["traces"], shares, {n: habits[n]["per_1000_characters"] for n in WORDS})]


def _point(data: RunData, about: Behaviour, habit: str) -> plots.Point:
    series = data.series(about.label, about.kind)
    return plots.Point(about.label, 100 * about.shares[habit], None, None, "", series)
