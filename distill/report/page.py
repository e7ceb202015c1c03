"""The report as one self-contained page: no script, no remote asset, and every plot with its numbers in a table.

Model text is hostile: everything goes through the template's escaping, what cannot be seen is made visible, and the
page's own policy forbids scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.report import summary
from distill.report.parts import Section
from distill.report.run_data import RunData
from distill.report.sections import (
    accuracy,
    arms,
    at_k,
    behaviours,
    breakdown,
    compute,
    cost,
    differences,
    files,
    forcing,
    funnel,
    guard,
    lengths,
    provenance,
    samples,
    sampling,
    settings,
    thinking,
    training,
)  # fmt: skip
from distill.report.wording import bare_percent
from distill.text.visible import visible

CHAPTERS = (
    accuracy, differences, arms, breakdown, at_k, compute, forcing, thinking, behaviours, guard, sampling, funnel,
    lengths, training, files, cost, samples, settings, provenance,
)  # fmt: skip
"""In the order of the page: what was found, what it was made of, what it cost, where it comes from."""

FOLDER = Path(__file__).parent


def sections(data: RunData) -> list[Section]:
    """The chapters that this run has something for."""
    return [found for chapter in CHAPTERS if (found := chapter.section(data)) is not None]


def render(data: RunData, chapters: Sequence[Section] | None = None) -> str:
    """The page of one run. The same run gives the same text."""
    return filled(
        title=data.name,
        kicker="distill",
        headline=summary.headline(data),
        figures=_key_figures(data),
        sections=sections(data) if chapters is None else chapters,
        note=" ".join(_notes(data)),
    )


def _notes(data: RunData) -> Iterator[str]:
    if data.missing:
        yield f"Left out, because these stages have not run: {', '.join(data.missing)}."
    if len(data.seeds) > 1:
        yield "pass@1 of students and differences between arms are over all seeds; all else is of the first seed."


def filled(**parts: Any) -> str:
    """The template with its parts: `title`, `kicker`, `headline`, `figures` (number, what it is, its interval), `note`
    and `sections`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def seen(value: Any) -> Any:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, finalize=seen,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["drawing"] = Markup  # only plots.py's own output goes through it
    return environment.get_template("page.html.jinja").render(**parts)


def _key_figures(data: RunData) -> list[tuple[str, str, str]]:
    """Number, what it is, and its interval or context."""
    found = []
    base = "base, before training" if data.entry("student") is not None else "base"
    for kind, what in (("student", "student"), ("base", base), ("teacher", "teacher")):
        entry = next((entry for entry in data.entries if entry.kind == kind), None)
        if entry is not None and entry.accuracy.value is not None:
            found.append((bare_percent(entry.accuracy.value), what, _between(entry.accuracy, 1)))
    ratio = data.evaluated.ratio
    if ratio is not None and ratio.value is not None:
        found.append((bare_percent(ratio.value, 0), "of the teacher’s accuracy", _between(ratio, 0)))
    return found


def _between(measured: Any, digits: int) -> str:
    if measured.low is None or measured.high is None:
        return ""
    return f"{100 * measured.low:.{digits}f} to {100 * measured.high:.{digits}f}%"
