"""What the student was taught with: the teacher's answers as they were drawn, judged and filtered.

A run that was pulled lacks the files that were not published; what they would tell is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core import files
from distill.report.evaluated import quantiles
from distill.stages.funnel import Lengths, Step


@dataclass(frozen=True)
class Sampled:
    """What the teacher was asked and what came of it. `counts` and `settings` are those of the stage's manifest."""

    settings: Mapping[str, Any]
    counts: Mapping[str, Any]
    summary: str
    finished: Mapping[str, int]
    """Answers by finish reason."""
    errors: Mapping[str, int]
    """Failed answers by what was said of the failure."""
    completion_tokens: tuple[float, float, float, float, float] | None
    """Quantiles of tokens an answer at 5, 25, 50, 75, 95%."""


@dataclass(frozen=True)
class Taught:
    """All that is known of the traces. A stage that has not run leaves its part empty."""

    sampled: Sampled | None = None
    verdicts: Mapping[str, int] = field(default_factory=dict)
    verdict_rows: Sequence[Mapping[str, Any]] = ()
    """Verdicts by kind of problem, as the verify stage shows them."""
    funnel: tuple[Step, ...] = ()
    held_out: int = 0
    rejected: Sequence[Mapping[str, Any]] = ()
    """A few rejected traces for each filter and reason."""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    """Habits and lengths of the kept traces, as the filter stage counted them."""


def collect(run: Path, first: Mapping[str, str]) -> Taught:
    """Gather what sample, verify and filter wrote."""
    parts: dict[str, Any] = {}
    if "sample" in first:
        parts["sampled"] = _sampled(run / first["sample"])
    if "verify" in first:
        parts["verdicts"] = _counted(run / first["verify"] / "verdicts.parquet", "value")
        parts["verdict_rows"] = tuple(files.read_json(run / first["verify"] / "manifest.json")["rows"])
    if "filter" in first:
        folder = run / first["filter"]
        told = files.read_json(folder / "funnel.json")
        parts["funnel"], parts["held_out"] = tuple(map(_step, told["steps"])), told["held_out"]
        parts["rejected"] = _if_there(folder / "rejected.json", ())
        parts["statistics"] = _if_there(folder / "statistics.json", {})
    return Taught(**parts)


def _sampled(folder: Path) -> Sampled:
    import pyarrow.parquet as pq

    manifest = files.read_json(folder / "manifest.json")
    path = folder / "samples.parquet"
    tokens: list[int] = []
    if path.exists():
        tokens = pq.read_table(path, columns=["completion_tokens"]).column(0).to_pylist()
    return Sampled(
        settings=manifest["made_of"].get("settings", {}),
        counts=manifest["counts"],
        summary=manifest["summary"],
        finished=_counted(path, "finish_reason"),
        errors={str(error): count for error, count in _counted(path, "error").items() if error is not None},
        completion_tokens=quantiles([float(count) for count in tokens]),
    )


def _if_there(path: Path, otherwise: Any) -> Any:
    """A file that older versions did not write, or that was not published with a run that was pulled."""
    return files.read_json(path) if path.exists() else otherwise


def _counted(path: Path, column: str) -> dict[Any, int]:
    """How often each value of a column occurs in a Parquet file, the most frequent first. Empty without the file."""
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    counted = pq.read_table(path, columns=[column]).column(column).value_counts().to_pylist()
    return {
        row["values"]: row["counts"] for row in sorted(counted, key=lambda row: (-row["counts"], str(row["values"])))
    }


def _step(about: Mapping[str, Any]) -> Step:
    lengths = {name: about.get(name) and Lengths(**about[name]) for name in ("lengths", "thinking")}
    return Step(**{**about, **lengths})
