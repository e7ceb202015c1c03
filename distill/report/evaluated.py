"""What the evaluations of a run say: tasks, models, pairs, the regression guard, habits of the answers.

Of several arms the first stands for the run; the students of the others are laid beside its models.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from distill.core import files, tables
from distill.core.errors import DistillError
from distill.core.records import Sample
from distill.evaluate import at_k, compare, curves, scores
from distill.evaluate.compare import ArmResult
from distill.evaluate.metrics import Mean, Rate, Ratio
from distill.text.habits import NAMES, habits

Kind = Literal["base", "student", "teacher", "file", "other"]

BEHAVIOUR_ANSWERS = 500
"""Answers of one model whose habits are counted: they are read at about 5 MB a second."""
BATCH_ROWS = 512
"""Answers in memory at a time."""


@dataclass(frozen=True)
class Lengths:
    """Distribution of tokens: quantiles at 5, 25, 50, 75, 95%."""

    label: str
    kind: Kind
    n: int
    quantiles: tuple[float, float, float, float, float]


@dataclass(frozen=True, eq=False)  # a key of dicts, by identity
class Model:
    """One model on one task. `about` is its entry of results.json; `rate` is the mean over seeds where there are
    several. Rates are fractions.
    """

    label: str
    kind: Kind
    about: Mapping[str, Any]
    rate: Mean
    note: str = ""

    @property
    def thinking_tokens(self) -> Mean:
        """Mean over all answers."""
        return Mean(**self.about["thinking_tokens"])

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many answers ended in which way (`scores.OUTCOMES`)."""
        outcomes: Mapping[str, int] = self.about["outcomes"]
        return outcomes

    def by(self, prop: str) -> dict[str, Rate]:
        """Rates by a property of the problems: `level` or `domain`."""
        return {value: Rate(**rate) for value, rate in self.about[f"by_{prop}"].items()}


@dataclass(frozen=True)
class Equal:
    """Two models where both spend the same tokens a problem, raised along `maj` (votes) or `budget` (of one answer)."""

    a: str
    b: str
    along: curves.Along
    points: tuple[curves.EqualTokens, ...]


@dataclass(frozen=True)
class Task:
    """One task with the models that were measured on it. `about` is its entry of results.json."""

    name: str
    about: Mapping[str, Any]
    models: tuple[Model, ...]
    lengths: tuple[Lengths, ...]
    equal: tuple[Equal, ...] = ()

    @property
    def problems(self) -> int:
        """How many problems it has."""
        return int(self.about["problems"])

    @property
    def samples(self) -> int:
        """Answers to each problem."""
        return int(self.about["samples"])

    def drawn(self, most: int) -> list[Model]:
        """At most so many models, for plots that would be too full: the first of each kind, then others, in order."""
        first = {model.kind: model for model in reversed(self.models)}.values()
        chosen = [*first, *(model for model in self.models if model not in first)][:most]
        return [model for model in self.models if model in chosen]

    @property
    def pairs(self) -> Sequence[Mapping[str, Any]]:
        """Differences between models of the first arm, paired over problems."""
        pairs: Sequence[Mapping[str, Any]] = self.about.get("pairs", ())
        return pairs


@dataclass(frozen=True)
class Behaviour:
    """How one model thinks, by its first answer to each of up to 500 problems of the first task: how often each habit
    shows.
    """

    label: str
    kind: Kind
    answers: int
    shares: Mapping[str, float]
    """Share of answers that show a habit at least once."""
    times: Mapping[str, float]
    """How often it shows in 1,000 characters of thinking."""


@dataclass(frozen=True)
class Evaluated:
    """All that is known from evaluations."""

    split: str
    tasks: tuple[Task, ...] = ()
    ratio: Ratio | None = None
    """Student's share of the teacher's rate on the first task; None with several seeds: it is the first one's."""
    comparison: tuple[ArmResult, ...] = ()
    guard: Mapping[str, Any] | None = None
    behaviours: tuple[Behaviour, ...] = ()
    lines: Mapping[str, Sequence[scores.Score]] = field(default_factory=dict)
    """Scores of the first task in the first arm, by model."""


def collect(run: Path, index: Mapping[str, Any], first: Mapping[str, str]) -> Evaluated:
    """Gather what the evaluate stages wrote. Raises DistillError for results of another version of the stage."""
    main, *others = _arms(run, index)
    tasks = [_task(about, main, others, compare.compare(run, task=about["name"])) for about in main.results["tasks"]]
    lines = scores.by_model(main.lines[tasks[0].name])
    ratio = main.results["tasks"][0]["ratios"].get("student/teacher") if main.seeds == 1 else None
    return Evaluated(
        split=main.results["split"],
        tasks=tuple(tasks),
        ratio=Ratio(**ratio) if ratio else None,
        comparison=tuple(compare.compare(run, task=tasks[0].name)),
        guard=main.results.get("guard"),
        behaviours=tuple(_behaviours(run / first["evaluate"], lines, main)),
        lines=lines,
    )


@dataclass(frozen=True)
class _Arm:
    """The evaluation of an arm, by its first seed."""

    name: str
    several: bool
    """Whether the run has other arms too."""
    seeds: int
    results: Mapping[str, Any]
    lines: Mapping[str, Sequence[scores.Score]]
    """Scores by task."""

    def label(self, model: str) -> str:
        """A student is called by its arm too, where there are several."""
        return f"{model} ({self.name})" if self.several and kind_of(model) == "student" else model


def _arms(run: Path, index: Mapping[str, Any]) -> Iterator[_Arm]:
    """Arms that were evaluated, in the experiment's order."""
    for name, seeds in index["arms"].items():
        done = [run / stages["evaluate"]["folder"] for stages in seeds.values() if "evaluate" in stages]
        if done:
            lines = scores.by_task(scores.read(done[0]))
            yield _Arm(name, len(index["arms"]) > 1, len(done), _results(done[0]), lines)


def _results(folder: Path) -> Mapping[str, Any]:
    results: Mapping[str, Any] = files.read_json(folder / "results.json")
    if "tasks" not in results:
        raise DistillError(
            f"{folder / 'results.json'}: written by an older version of `evaluate`; run the experiment again "
            "(no answer is bought twice)"
        )
    return results


def _task(about: Mapping[str, Any], main: _Arm, others: Sequence[_Arm], comparison: Sequence[ArmResult]) -> Task:
    """The models of the first arm; the students of the others stand after its own."""
    means = {result.arm: result for result in comparison if len(result.seeds) > 1}
    models = list(_models(main, about, means))
    students = [place for place, (model, _) in enumerate(models, start=1) if model.kind == "student"]
    at = students[-1] if students else len(models)
    for arm in others:
        there = next((other for other in arm.results["tasks"] if other["name"] == about["name"]), None)
        if there is not None:
            of_arm = [found for found in _models(arm, there, means) if found[0].kind == "student"]
            models[at:at] = of_arm
            at += len(of_arm)
    own = scores.by_model(main.lines[about["name"]])
    return Task(
        name=about["name"],
        about=about,
        models=tuple(model for model, _ in models),
        lengths=tuple(length for model, lines in models for length in lengths_of(model.label, model.kind, lines)),
        equal=tuple(
            at_equal_tokens(main.label("student"), own["student"], other, own[other], about["samples"])
            for other in ("base", "teacher")
            if other in own and "student" in own
        ),
    )


def _models(
    arm: _Arm, about: Mapping[str, Any], means: Mapping[str, ArmResult]
) -> Iterator[tuple[Model, Sequence[scores.Score]]]:
    """The models of an arm on a task, each with its scores."""
    by_model = scores.by_model(arm.lines[about["name"]])
    for entry in about["models"]:
        name, kind = entry["name"], kind_of(entry["name"])
        model = Model(arm.label(name), kind, entry, as_mean(Rate(**entry["rate"])))
        if name == "student" and arm.name in means:
            over_seeds = means[arm.name]
            model = replace(model, rate=over_seeds.mean, note=f"mean of {len(over_seeds.seeds)} seeds")
        yield model, by_model.get(name, ())


def at_equal_tokens(
    a: str, lines_a: Sequence[scores.Score], b: str, lines_b: Sequence[scores.Score], samples: int
) -> Equal:
    """Both models along votes where there are several answers that can vote, else along the budget of one answer."""
    votes = samples > 1 and at_k.can_vote(lines_a) and at_k.can_vote(lines_b)
    along: curves.Along = "maj" if votes else "budget"
    return Equal(a, b, along, tuple(curves.at_equal_tokens(lines_a, lines_b, along)))


def kind_of(name: str) -> Kind:
    """What a model of `evaluate.models` is to the experiment; `student@300` is a student too."""
    if name in ("base", "teacher"):
        return "base" if name == "base" else "teacher"
    return "student" if name == "student" or name.startswith("student@") else "other"


def as_mean(rate: Rate) -> Mean:
    """A rate as a mean of its answers, its interval kept."""
    return Mean(rate.value, rate.low, rate.high, rate.n, rate.items)


def lengths_of(label: str, kind: Kind, lines: Sequence[scores.Score]) -> list[Lengths]:
    """Of thinking tokens, in a list of one; empty where fewer than two answers tell theirs."""
    counts = [line.thinking_tokens for line in lines if line.finish_reason != "error"]
    known = [float(count) for count in counts if count is not None]
    found = quantiles(known)
    return [] if found is None else [Lengths(label, kind, len(known), found)]


def quantiles(values: Sequence[float]) -> tuple[float, float, float, float, float] | None:
    """At 5, 25, 50, 75 and 95%; None for fewer than two values."""
    if len(values) < 2:
        return None
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return cuts[0], cuts[4], cuts[9], cuts[14], cuts[18]


def _behaviours(folder: Path, lines: Mapping[str, Sequence[scores.Score]], arm: _Arm) -> Iterator[Behaviour]:
    """Of first answers to the first problems only: independent of each other, and no more than can be read soon."""
    first = {
        model: [line.sample_key for line in of_model if line.index == 0][:BEHAVIOUR_ANSWERS]
        for model, of_model in lines.items()
    }
    path = folder / "samples.parquet"
    wanted = {key for keys in first.values() for key in keys}
    found: dict[str, tuple[int, Mapping[str, int]]] = {}
    if not path.exists():  # it was not published with a run that was pulled
        return
    for batch in tables.batches(path, Sample, BATCH_ROWS):
        texts = zip(batch.column("key").to_pylist(), batch.column("reasoning").to_pylist(), strict=True)
        for key, reasoning in texts:
            if key in wanted and reasoning:
                counted = habits(reasoning)
                found[key] = len(reasoning), {name: getattr(counted, name) for name in NAMES}
    for model, keys in first.items():
        own = [found[key] for key in keys if key in found]
        thousands = sum(size for size, _ in own) / 1000
        if thousands:
            yield Behaviour(
                arm.label(model), kind_of(model), len(own),
                {name: sum(times[name] > 0 for _, times in own) / len(own) for name in NAMES},
                {name: sum(times[name] for _, times in own) / thousands for name in NAMES},
            )  # fmt: skip
