"""The report as one self-contained page: no script, no remote asset, and every plot with its numbers in a table.

Model text is hostile: everything goes through the template's escaping, and the page's own policy forbids scripts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.config import canonical
from distill.evaluate import compare
from distill.evaluate.metrics import Difference, Mean
from distill.evaluate.scores import OUTCOMES
from distill.report import plots, summary, table
from distill.report.run_data import Breakdown, Curve, Example, Kind, RunData

Row = Mapping[str, Any]

SERIES: dict[Kind, int] = {"student": 0, "base": 1, "teacher": 2, "file": 3, "other": 4}
"""One colour and shape a kind of model, the same in every plot."""

CURVE_POINTS = 300
CURVE_ROWS = 12


@dataclass(frozen=True)
class Table:
    """Numbers under or beside a plot, or on their own. `folded`: behind a line to click on."""

    rows: Sequence[Row]
    title: str = ""
    folded: bool = False

    @property
    def columns(self) -> list[str]:
        """Column names."""
        return list(self.rows[0])

    def numeric(self, column: str) -> bool:
        """Whether a column stands right; the first names its row and never does."""
        return column != self.columns[0] and table.is_numeric(self.rows, column)

    def text(self, row: Row, column: str) -> str:
        """One cell."""
        return table.text_of(row[column])


@dataclass(frozen=True)
class Figure:
    """A plot (SVG text) with its numbers."""

    title: str
    svg: str
    numbers: Table
    wide: bool = False
    """The table needs the page's whole width: it stands below its plot, not beside it."""


@dataclass(frozen=True)
class Section:
    """One chapter of the page: what it shows in one sentence, then figures and tables."""

    id: str
    title: str
    lead: str
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    examples: Sequence[Example] = ()
    texts: Sequence[tuple[str, str]] = ()
    """Preformatted texts with their titles."""


def render(data: RunData) -> str:
    """The page's HTML. The same run gives the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    makers: tuple[Callable[[RunData], Section | None], ...] = (
        _accuracy, _arms, _thinking, _funnel, _training, _exports, _examples, _time, _settings, _provenance,
    )  # fmt: skip
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["drawing"] = Markup  # only plots.py's own output goes through it
    return environment.get_template("page.html.jinja").render(
        title=data.name,
        headline=summary.headline(data),
        figures=_key_figures(data),
        sections=[section for section in (make(data) for make in makers) if section is not None],
        missing=data.missing,
    )


def _key_figures(data: RunData) -> list[tuple[str, str, str]]:
    """Number, what it is, and its interval or context."""
    found = []
    student, teacher, base = (data.entry(kind) for kind in ("student", "teacher", "base"))
    if student is not None and student.accuracy.value is not None:
        found.append((f"{100 * student.accuracy.value:.1f}%", "student", _interval(student.accuracy)))
    if base is not None and base.accuracy.value is not None:
        found.append((f"{100 * base.accuracy.value:.1f}%", "base, before training", _interval(base.accuracy)))
    if teacher is not None and teacher.accuracy.value is not None:
        found.append((f"{100 * teacher.accuracy.value:.1f}%", "teacher", _interval(teacher.accuracy)))
    if data.ratio is not None and data.ratio.value is not None:
        low, high = data.ratio.low, data.ratio.high
        between = "" if low is None or high is None else f"{100 * low:.0f} to {100 * high:.0f}%"
        found.append((f"{100 * data.ratio.value:.0f}%", "of the teacher’s accuracy", between))
    return found


def _accuracy(data: RunData) -> Section | None:
    shown = [entry for entry in data.entries if entry.accuracy.value is not None]
    if not shown:
        return None
    points = [_point(entry.label, entry.accuracy, "{:.1f}%", SERIES[entry.kind]) for entry in shown]
    outcomes: list[Row] = [
        {"model": entry.label, **{name: entry.outcomes.get(name, 0) for name in OUTCOMES}}
        for entry in shown
        if entry.outcomes
    ]
    least, most = min(entry.accuracy.n for entry in shown), max(entry.accuracy.n for entry in shown)
    answers = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    numbers: list[Row] = [
        {column: text for column, text in row.items() if column not in ("no answer", "size", "note")}
        for row in summary.final_rows(data)
    ]
    svg = plots.dots("accuracy", "Accuracy of each model with its 95% interval", points, "pass@1, %", limits=(0, 100))
    lead = (
        f"Share of {data.problems:,} {data.split} problems solved, by {answers} answers a model, with 95% intervals. "
        "Truncated, unfinished and missing answers count as wrong."
        + (" Exported files answer greedily; the student’s own greedy rate stands beside them." if data.exports else "")
    )
    tables = [Table(_breakdown_rows(part), f"By {part.by}") for part in data.breakdowns]
    tables.append(Table(outcomes, "How answers ended", folded=True))
    return Section("accuracy", "Accuracy", lead, [Figure("", svg, Table(numbers))], tables)


def _breakdown_rows(part: Breakdown) -> list[Row]:
    rows: list[Row] = []
    for value in part.values:
        row: dict[str, Any] = {part.by: value, "answers": max(r[value].n for r in part.rates.values() if value in r)}
        for model, rates in part.rates.items():
            row[f"{model} [95%]"] = str(rates[value]) if value in rates else "-"
        rows.append(row)
    return rows


def _arms(data: RunData) -> Section | None:
    if len(data.comparison) < 2:
        return None
    first = data.comparison[0].arm
    points = [
        _point(result.arm, result.difference, "{:+.1f}", SERIES["student"])
        for result in data.comparison
        if result.difference is not None and result.difference.value is not None
    ]
    if not points:
        return None
    seeds = len(data.comparison[0].seeds)
    noise = "training and problems" if seeds > 1 else "problems, not that of training (one seed)"
    lead = f"Difference in pass@1 to “{first}” on the same problems, in points; intervals hold the noise of {noise}."
    ends = [0.0, *(end for point in points for end in (point.value, point.low, point.high) if end is not None)]
    margin = 0.05 * (max(ends) - min(ends) or 1.0)
    svg = plots.dots(
        "arms", f"Difference of each arm to {first}", points, f"points against {first}",
        limits=(min(ends) - margin, max(ends) + margin), reference=0.0,
    )  # fmt: skip
    return Section("arms", "Arms", lead, [Figure("", svg, Table(compare.rows(data.comparison)), wide=True)])


def _thinking(data: RunData) -> Section | None:
    if not data.lengths:
        return None
    boxes = [plots.Box(length.label, length.quantiles, SERIES[length.kind]) for length in data.lengths]
    shares = ("5%", "25%", "median", "75%", "95%")
    rows: list[Row] = [
        {"model": length.label, **dict(zip(shares, map(round, length.quantiles), strict=True))}
        for length in data.lengths
    ]
    means: list[Row] = [
        {"model": e.label, "mean thinking tokens [95%]": str(e.thinking_tokens), "answers": e.thinking_tokens.n}
        for e in data.entries
        if e.thinking_tokens.value is not None
    ]
    svg = plots.boxes("thinking", "Thinking tokens of each model", boxes, "thinking tokens")
    lead = "Tokens spent on thinking before the answer: the median, the middle half (box) and the middle 90% (line)."
    return Section("thinking", "Thinking", lead, [Figure("", svg, Table(rows))], [Table(means, "Means", folded=True)])


def _funnel(data: RunData) -> Section | None:
    if not data.funnel:
        return None
    first, last = data.funnel[0], data.funnel[-1]
    bars: list[plots.Bar] = []
    rows: list[Row] = []
    mixes: list[Row] = []
    for step in data.funnel:
        name = f"after {step.filter}" if step.filter else "all answers"
        series = SERIES["student"] if step is last else SERIES["base"]
        bars.append(plots.Bar(name, step.kept, f"{step.kept:,}", series))
        reason = max(step.reasons, key=lambda why: step.reasons[why], default="")
        rows.append({
            "filter": step.filter or "all answers", "rejected": step.rejected, "left": step.kept,
            "problems": step.problems, "mean characters": round(step.lengths.mean) if step.lengths else None,
            "most frequent reason": reason,
        })  # fmt: skip
        mix = {f"level {value}": count for value, count in step.by_level.items() if value} | dict(step.by_domain)
        mixes.append({"after": step.filter or "all answers", **mix})
    columns = dict.fromkeys(column for mix in mixes for column in mix)
    mixes = [{column: mix.get(column, 0) for column in columns} for mix in mixes]
    lead = f"{last.kept:,} of {first.kept:,} answers became traces to train on"
    lead += f", for {last.problems:,} of {first.problems:,} problems."
    if data.held_out:
        lead += f" {data.held_out:,} answers to dev or test problems were set aside first."
    if data.verdicts:
        counts = sorted(data.verdicts.items(), key=lambda item: (-item[1], item[0]))
        lead += f" Verdicts: {', '.join(f'{count:,} {value}' for value, count in counts)}."
    svg = plots.bars("funnel", "Answers left after each filter", bars)
    tables = [Table(mixes, "What is left, by level and domain", folded=True)] if len(columns) > 1 else []
    return Section("funnel", "Filtering", lead, [Figure("", svg, Table(rows), wide=True)], tables)


def _training(data: RunData) -> Section | None:
    named = {
        "ce": ("Cross-entropy on the traces", "nats per token"),
        "kd": ("Divergence from the teacher", "nats per token"),
        "loss": ("Training loss", "nats per token"),
        "dev_accuracy": ("Accuracy on dev problems", "share of answers correct"),
    }
    figures = []
    for name, (title, unit) in named.items():
        curves = [curve for curve in data.curves if curve.points.get(name)]
        if not curves or (name == "loss" and any(curve.points.get("ce") for curve in data.curves)):
            continue
        arms = list(dict.fromkeys(curve.arm for curve in data.curves))
        drawn = [_line(curve, name, arms.index(curve.arm)) for curve in curves]
        svg = plots.lines(f"curve-{name}", f"{title} by training step", drawn, "step", unit)
        figures.append(Figure(title, svg, Table(_curve_rows(curves, name), "Numbers", folded=True)))
    if not figures:
        return None
    runs = len(data.curves)
    lead = f"{runs} training runs, one line each." if runs > 1 else "Mean over the trained tokens of each logged step."
    return Section("training", "Training", lead, figures)


def _line(curve: Curve, name: str, series: int) -> plots.Line:
    points = _thinned(curve.points[name], CURVE_POINTS)
    return plots.Line(curve.arm, tuple(x for x, _ in points), tuple(y for _, y in points), series % 5)


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points: means over runs of neighbours, so that no spike is picked by chance."""
    width = -(-len(points) // most)
    groups = [points[start : start + width] for start in range(0, len(points), width)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _curve_rows(curves: Sequence[Curve], name: str) -> list[Row]:
    several_seeds = len({curve.seed for curve in curves}) > 1
    columns = {}
    for curve in curves:
        label = f"{curve.arm}, seed {curve.seed}" if several_seeds else curve.arm
        columns[label] = {step: f"{value:.4f}" for step, value in _thinned(curve.points[name], CURVE_ROWS)}
    steps = sorted({step for values in columns.values() for step in values})
    return [
        {"up to step": f"{step:.0f}", **{label: values.get(step, "") for label, values in columns.items()}}
        for step in steps
    ]


def _exports(data: RunData) -> Section | None:
    if not data.exports:
        return None
    missed = [f"{about['name']}: {fault}" for about in data.exports for fault in about.get("missed", [])]
    lead = (
        "Every file was proved after it was written: types and ids read back (tier 1), log-probabilities of an F32 twin"
    )
    lead += " against transformers (tier 2), greedy answers beside the student’s own (tier 3)."
    if missed:
        lead += " Not everything held: see below."
    texts = [("What was missed", "\n".join(missed))] if missed else []
    runs = "\n".join(str(about["run"]) for about in data.exports if about.get("run"))
    if runs:
        texts.append(("How to run them", runs))
    return Section("files", "Files", lead, tables=[Table(data.export_rows)], texts=texts)


def _examples(data: RunData) -> Section | None:
    if not data.examples:
        return None
    lead = f"A few of the {data.split} problems, the first of its kind each: not chosen by how they look."
    return Section("examples", "Samples", lead, examples=data.examples)


def _time(data: RunData) -> Section | None:
    if not data.stages:
        return None
    spent: dict[str, float] = {}
    for stage in data.stages:
        spent[stage.stage] = spent.get(stage.stage, 0.0) + stage.seconds
    total = sum(spent.values())
    bars = [plots.Bar(stage, seconds, _duration(seconds), SERIES["base"]) for stage, seconds in spent.items()]
    rows: list[Row] = [
        {
            "stage": stage,
            "runs": sum(facts.stage == stage for facts in data.stages),
            "time": _duration(seconds),
            "share": f"{100 * seconds / total:.0f}%" if total else "-",
        }
        for stage, seconds in spent.items()
    ]
    svg = plots.bars("time", "Time spent in each stage", bars)
    lead = f"{_duration(total)} of wall-clock time in all; a stage that several arms share ran once."
    return Section("time", "Time", lead, [Figure("", svg, Table(rows))])


def _settings(data: RunData) -> Section | None:
    import yaml

    arms = data.experiment.get("arms", {})
    if not arms:
        return None
    (first, sections), *others = arms.items()
    title = f"Arm “{first}”" if others else "All settings"
    rows: list[Row] = []
    base = _flat(sections)
    for name, other in others:
        here = _flat(other)
        for key in dict.fromkeys([*base, *here]):
            if base.get(key) != here.get(key):
                value, instead = (flat.get(key, "absent") for flat in (here, base))
                rows.append({"arm": name, "setting": key, "value": value, f"in {first}": instead})
    tables = [Table(rows, "Where the other arms differ")] if rows else []
    text = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    return Section(
        "settings", "Settings", "The resolved experiment, defaults included.", tables=tables, texts=[(title, text)]
    )


def _provenance(data: RunData) -> Section | None:
    if not data.stages:
        return None
    everyone = {user for stage in data.stages for user in stage.used_by}
    rows: list[Row] = []
    for stage in data.stages:
        row: dict[str, Any] = {"stage": stage.stage}
        if everyone:
            shared = len(stage.used_by) > 1 and set(stage.used_by) == everyone
            row["arm"] = "all" if shared else "; ".join(stage.used_by)
        row |= {
            "key": str(stage.manifest["key"])[:16],
            "content": str(stage.manifest.get("content", ""))[:16],
            "started": str(stage.manifest.get("started", "")).replace("T", " ").replace("+00:00", " UTC"),
        }
        rows.append(row)
    environment = data.stages[-1].manifest.get("environment", {})
    machine = {name: str(environment[name]) for name in ("python", "system", "machine", "cpus") if name in environment}
    versions = {**machine, **environment.get("packages", {})}
    models: list[Row] = [
        {"name": about["name"], "model": about["model"], "identity": about["identity"], "engine": about["engine"]}
        for about in data.identities
    ]
    tables = [
        Table(rows, "Stages (the first 16 digits of each hash; manifests hold them whole)"),
        Table(models, "Models"),
        Table([{"what": name, "version": version} for name, version in versions.items()], "Versions", folded=True),
    ]
    lead = "A stage’s key hashes its settings and inputs; its content hashes what it wrote. Equal keys are run once."
    return Section("provenance", "Provenance", lead, tables=[table for table in tables if table.rows])


def _point(label: str, measured: Mean | Difference, form: str, series: int) -> plots.Point:
    """A rate or difference in percent or points."""
    value, low, high = (None if x is None else 100 * x for x in (measured.value, measured.low, measured.high))
    assert value is not None  # the callers leave out what was not measured
    return plots.Point(label, value, low, high, form.format(value).replace("-", "−"), series)


def _flat(value: Any, above: str = "") -> dict[str, str]:
    """Nested settings as `section.setting: text`."""
    if not isinstance(value, Mapping) or not value:
        return {above: value if isinstance(value, str) else canonical(value)}
    flat: dict[str, str] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{above}.{name}" if above else str(name))
    return flat


def _interval(mean: Mean) -> str:
    return "" if mean.low is None or mean.high is None else f"{100 * mean.low:.1f} to {100 * mean.high:.1f}%"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
