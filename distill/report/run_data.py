"""What a run folder holds, gathered for tables and pages. Reads run.json, manifests and stage outputs; writes nothing.

A stage that is not there leaves its part None and its name in `missing`, so that a run of any length has a report.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.core import files, rundir, tables
from distill.core.records import Problem, Sample, Verdict
from distill.evaluate import compare, scores
from distill.evaluate.compare import ArmResult
from distill.evaluate.metrics import Mean, Rate, Ratio
from distill.stages.funnel import Lengths as TraceLengths
from distill.stages.funnel import Step

Kind = Literal["base", "student", "teacher", "file", "other"]

SHOWN_CHARACTERS = 1500
"""Of one answer in the report; the rest is in samples.parquet."""


@dataclass(frozen=True)
class StageFacts:
    """One finished stage folder and the arms and seeds that use it."""

    stage: str
    folder: str
    used_by: tuple[str, ...]
    manifest: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return float(self.manifest["seconds"])


@dataclass(frozen=True)
class Entry:
    """One line of the final table: a model or an exported file, and how good it is. Rates are fractions."""

    label: str
    kind: Kind
    accuracy: Mean
    thinking_tokens: Mean
    outcomes: Mapping[str, int]
    bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Breakdown:
    """Rates of each model by one property of the problems (`level`, `domain`)."""

    by: str
    values: tuple[str, ...]
    rates: Mapping[str, Mapping[str, Rate]]
    """By model, then by value."""


@dataclass(frozen=True)
class Curve:
    """One training run: steps and, by name, values: `loss`, `ce`, `kd` in nats per trained token, `dev_accuracy` a
    share. NaN-free.
    """

    arm: str
    seed: str
    points: Mapping[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class Lengths:
    """Distribution of thinking tokens of one model: quantiles at 5, 25, 50, 75, 95%."""

    label: str
    kind: Kind
    n: int
    quantiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Shown:
    """One model's answer to a shown problem."""

    label: str
    reasoning: str | None
    answer: str
    outcome: str
    extracted: str | None
    tokens: int


@dataclass(frozen=True)
class Example:
    """A problem with answers of several models, and why it was chosen."""

    why: str
    problem: str
    gold: str
    answers: tuple[Shown, ...]


@dataclass(frozen=True)
class RunData:
    """Everything a report says. The first arm and seed stand for the run where only one can."""

    name: str
    folder: Path
    experiment: Mapping[str, Any]
    arms: tuple[str, ...]
    seeds: tuple[str, ...]
    stages: tuple[StageFacts, ...]
    entries: tuple[Entry, ...] = ()
    ratio: Ratio | None = None
    problems: int = 0
    split: str = "test"
    identities: tuple[Mapping[str, Any], ...] = ()
    comparison: tuple[ArmResult, ...] = ()
    breakdowns: tuple[Breakdown, ...] = ()
    funnel: tuple[Step, ...] = ()
    held_out: int = 0
    verdicts: Mapping[str, int] = field(default_factory=dict)
    curves: tuple[Curve, ...] = ()
    lengths: tuple[Lengths, ...] = ()
    exports: tuple[Mapping[str, Any], ...] = ()
    """Entries of proof.json."""
    export_rows: tuple[Mapping[str, Any], ...] = ()
    """The same as the export stage shows them."""
    examples: tuple[Example, ...] = ()
    missing: tuple[str, ...] = ()

    def entry(self, kind: Kind) -> Entry | None:
        """The first line of that kind."""
        return next((entry for entry in self.entries if entry.kind == kind), None)


def collect(run: Path) -> RunData:
    """Gather a run folder. Raises DistillError if it is not one."""
    index = rundir.read_index(run)
    stages = _stages(run, index)
    first = _first(index)
    experiment = files.read_json(run / "experiment.json") if (run / "experiment.json").exists() else {}
    parts: dict[str, Any] = {}
    missing = []
    if "evaluate" in first:
        parts |= _evaluation(run, index, first)
    else:
        missing.append("evaluate")
    if "filter" in first:
        told = files.read_json(run / first["filter"] / "funnel.json")
        parts["funnel"], parts["held_out"] = tuple(map(_step, told["steps"])), told["held_out"]
    else:
        missing.append("filter")
    if "verify" in first:
        parts["verdicts"] = _counted(run / first["verify"] / "verdicts.parquet", "value")
    parts["curves"] = tuple(_curves(run, index))
    if not parts["curves"]:
        missing.append("train")
    if "export" in first:
        parts["exports"] = tuple(files.read_json(run / first["export"] / "proof.json")["files"])
        parts["export_rows"] = tuple(files.read_json(run / first["export"] / rundir.MANIFEST)["rows"])
        parts["entries"] = (*parts.get("entries", ()), *_file_entries(parts["exports"]))
    else:
        missing.append("export")
    return RunData(
        name=str(index["name"]),
        folder=run,
        experiment=experiment,
        arms=tuple(index["arms"]),
        seeds=tuple(dict.fromkeys(seed for seeds in index["arms"].values() for seed in seeds)),
        stages=stages,
        missing=tuple(missing),
        **parts,
    )


def _first(index: Mapping[str, Any]) -> dict[str, str]:
    """Stage folders of the first arm and seed."""
    for seeds in index["arms"].values():
        for stages in seeds.values():
            return {stage: about["folder"] for stage, about in stages.items()}
    return {}


def _stages(run: Path, index: Mapping[str, Any]) -> tuple[StageFacts, ...]:
    """Every finished stage once, in the order first used."""
    users: dict[tuple[str, str], list[str]] = {}
    several = len(index["arms"]) > 1 or any(len(seeds) > 1 for seeds in index["arms"].values())
    for arm, seeds in index["arms"].items():
        for seed, stages in seeds.items():
            for stage, about in stages.items():
                users.setdefault((stage, about["folder"]), []).append(f"{arm}, seed {seed}" if several else "")
    facts = []
    for (stage, folder), used_by in users.items():
        path = run / folder / rundir.MANIFEST
        if path.exists():
            facts.append(StageFacts(stage, folder, tuple(filter(None, used_by)), files.read_json(path)))
    return tuple(facts)


def _evaluation(run: Path, index: Mapping[str, Any], first: Mapping[str, str]) -> dict[str, Any]:
    folder = run / first["evaluate"]
    results = files.read_json(folder / "results.json")
    several = len(index["arms"]) > 1
    main = next(iter(index["arms"]))
    comparison = compare.compare(run)
    entries, lengths = [], []
    lines = scores.by_model(scores.read(folder))
    for about in results["models"]:
        kind = _kind(about["name"])
        label = f"student ({main})" if kind == "student" and several else about["name"]
        accuracy, note = _mean(Rate(**about["rate"])), ""
        if kind == "student" and comparison and len(comparison[0].seeds) > 1:
            accuracy, note = comparison[0].mean, f"mean of {len(comparison[0].seeds)} seeds"
        entries.append(Entry(label, kind, accuracy, Mean(**about["thinking_tokens"]), about["outcomes"], note=note))
        lengths += _lengths(label, kind, lines[about["name"]])
    for result in comparison:
        if result.arm == main:
            continue
        other = _evaluated(run, index, result.arm, result.seeds[0])
        about = next(about for about in other["models"] if about["name"] == "student")
        label = f"student ({result.arm})"
        note = f"mean of {len(result.seeds)} seeds" if len(result.seeds) > 1 else ""
        entries.append(
            Entry(label, "student", result.mean, Mean(**about["thinking_tokens"]), about["outcomes"], note=note)
        )
        other_folder = run / index["arms"][result.arm][result.seeds[0]]["evaluate"]["folder"]
        lengths += _lengths(label, "student", scores.by_model(scores.read(other_folder))["student"])
    one_seed = len(next(iter(index["arms"].values()))) == 1
    ratio = results["ratios"].get("student/teacher") if one_seed else None  # it is the first seed's, not the mean's
    order = {"base": 0, "student": 1, "teacher": 3, "file": 4, "other": 2}
    return {
        "entries": tuple(sorted(entries, key=lambda entry: order[entry.kind])),
        "lengths": tuple(sorted(lengths, key=lambda entry: order[entry.kind])),
        "ratio": Ratio(**ratio) if ratio else None,
        "problems": results["problems"],
        "split": results["split"],
        "identities": tuple(results["models"]),
        "comparison": tuple(comparison),
        "breakdowns": tuple(_breakdowns(results)),
        "examples": tuple(_examples(run, first, folder, lines)),
    }


def _evaluated(run: Path, index: Mapping[str, Any], arm: str, seed: str) -> Mapping[str, Any]:
    results: Mapping[str, Any] = files.read_json(run / index["arms"][arm][seed]["evaluate"]["folder"] / "results.json")
    return results


def _kind(name: str) -> Kind:
    kinds: dict[str, Kind] = {"base": "base", "student": "student", "teacher": "teacher"}
    return kinds.get(name, "other")


def _mean(rate: Rate) -> Mean:
    return Mean(rate.value, rate.low, rate.high, rate.n, rate.items)


def _lengths(label: str, kind: Kind, lines: Sequence[scores.Score]) -> list[Lengths]:
    counts = [line.thinking_tokens for line in lines if line.finish_reason != "error"]
    known = [float(count) for count in counts if count is not None]
    if len(known) < 2:
        return []
    cuts = statistics.quantiles(known, n=20, method="inclusive")
    return [Lengths(label, kind, len(known), (cuts[0], cuts[4], cuts[9], cuts[14], cuts[18]))]


def _breakdowns(results: Mapping[str, Any]) -> Iterator[Breakdown]:
    for by in ("level", "domain"):
        rates = {
            about["name"]: {value: Rate(**rate) for value, rate in about[f"by_{by}"].items()}
            for about in results["models"]
        }
        values = tuple(sorted({value for of_model in rates.values() for value in of_model if value}))
        if len(values) > 1:
            yield Breakdown(by, values, rates)


def _counted(path: Path, column: str) -> dict[str, int]:
    """How often each value of a column occurs in a Parquet file."""
    import pyarrow.parquet as pq

    counted = pq.read_table(path, columns=[column]).column(column).value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in counted}


def _step(about: Mapping[str, Any]) -> Step:
    lengths = {name: about[name] and TraceLengths(**about[name]) for name in ("lengths", "thinking")}
    return Step(**{**about, **lengths})


def _curves(run: Path, index: Mapping[str, Any]) -> Iterator[Curve]:
    for arm, seeds in index["arms"].items():
        for seed, stages in seeds.items():
            path = run / stages["train"]["folder"] / "history.json" if "train" in stages else None
            if path is None or not path.exists():
                continue
            history = files.read_json(path)
            points = {
                name: tuple((float(row["step"]), float(row[name])) for row in history if row.get(name) is not None)
                for name in ("loss", "ce", "kd", "dev_accuracy")
            }
            yield Curve(arm, seed, {name: values for name, values in points.items() if values})


def _file_entries(exports: Sequence[Mapping[str, Any]]) -> Iterator[Entry]:
    """The student's own greedy answers, then each file that answered: greedily too, unlike the models above."""
    answered = [about for about in exports if about.get("rate") is not None]
    unknown = Mean(None, None, None, 0, 0)
    if answered:
        yield Entry(
            "student, greedy", "student", _mean(Rate(**answered[0]["student_rate"])), unknown, {}, note="greedy"
        )
    for about in answered:
        thinking = Mean(**about["thinking_tokens"])
        rate = _mean(Rate(**about["rate"]))
        yield Entry(about["name"], "file", rate, thinking, about["outcomes"], about["bytes"], "greedy")


def _examples(
    run: Path, first: Mapping[str, str], folder: Path, lines: Mapping[str, Sequence[scores.Score]]
) -> Iterator[Example]:
    """One problem for each of a few telling cases, the first of its kind in the order of the problems."""
    if "student" not in lines or "problems" not in first:
        return
    outcomes = {
        name: {line.problem_id: line.outcome for line in of_model if line.index == 0}
        for name, of_model in lines.items()
    }
    student = outcomes["student"]

    def wrong(name: str, problem_id: str) -> bool:
        return outcomes.get(name, {}).get(problem_id, "correct") != "correct"

    right = [problem_id for problem_id, ended in student.items() if ended == "correct"]
    cases = (
        ("the student is right where its base is not", [p for p in right if wrong("base", p)]),
        ("the student is wrong", [p for p, ended in student.items() if ended == "wrong"]),
        (
            "the student gives no answer",
            [p for p, e in student.items() if e in ("truncated", "unfinished", "no answer")],
        ),
        ("the student is right where its teacher is not", [p for p in right if wrong("teacher", p)]),
    )
    chosen: dict[str, str] = {}
    for why, fitting in cases:
        found = next((p for p in fitting if p not in chosen), None)
        if found is not None:
            chosen[found] = why
    problems = {p.id: p for p in tables.stream(run / first["problems"] / "problems.parquet", Problem) if p.id in chosen}
    keys = {line.sample_key for of_model in lines.values() for line in of_model if line.problem_id in chosen}
    samples = {s.key: s for s in tables.stream(folder / "samples.parquet", Sample) if s.key in keys}
    verdicts = {v.sample_key: v for v in tables.stream(folder / "verdicts.parquet", Verdict) if v.sample_key in keys}
    for problem_id, why in chosen.items():
        problem = problems[problem_id]
        answers = [
            _shown(name, line, samples[line.sample_key], verdicts[line.sample_key])
            for name in sorted(lines, key=("student", "base", "teacher", *lines).index)
            for line in lines[name]
            if line.problem_id == problem_id and line.index == 0
        ]
        text = "\n\n".join(message.content for message in problem.messages)
        yield Example(why, _cut(text), problem.gold or "", tuple(answers))


def _shown(name: str, line: scores.Score, sample: Sample, verdict: Verdict) -> Shown:
    reasoning = None if sample.reasoning is None else _cut(sample.reasoning.strip())
    return Shown(name, reasoning, _cut(sample.answer.strip()), line.outcome, verdict.extracted, line.completion_tokens)


def _cut(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}… ({len(text) - SHOWN_CHARACTERS:,} characters more)"
