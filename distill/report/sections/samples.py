"""A few answers, as they are."""

from __future__ import annotations

from distill.report.parts import Section
from distill.report.run_data import RunData


def section(data: RunData) -> Section | None:
    """One problem for each telling case, with every model's first answer."""
    if not data.examples:
        return None
    lead = "The first problem of its kind each, with every model’s first answer: not chosen by how they look. "
    lead += "All answers: “distill view” on the folder of the run."
    return Section("samples", "Samples", lead, examples=data.examples)
