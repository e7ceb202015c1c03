"""`evaluate`: base, student, teacher, or any other model, on the test problems, which are read here and nowhere else.

Writes results.json (rates with intervals, lengths, how answers failed), scores.parquet (one line an answer), and the
answers and verdicts themselves; clock figures go to timing.json alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator

from distill import rollout
from distill.core import files, tables
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.models import ModelConfig, is_embedded, looks_local
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import ModelIdentity, Problem, Sample, Sampling, Split, Verdict
from distill.core.stage import Report, StageRun
from distill.evaluate import metrics, scores
from distill.evaluate.scores import Score
from distill.stages import verify
from distill.text.think import THINK, Dialect

VERSION = 1

EXCLUDED_LIMIT = 0.01
"""Largest share of ungradable and failed answers that a rate may stand on."""

ROLES = ("base", "student", "teacher")
"""Names of `models` that the experiment itself gives a meaning: `student:`, what `train` made of it, `teacher:`."""


class Config(Settings):
    """Settings of `evaluate:`."""

    models: list[str] = Field(default=["base", "student", "teacher"], min_length=1)
    """What is measured: `base`, `student`, `teacher`, a model folder, a .gguf file, or a Hub id."""
    samples: PositiveInt = 1
    """Answers to each problem; the rate is averaged over them."""
    sample_temperature: NonNegativeFloat = 0.6
    """Temperature of the draw; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus: the smallest set of tokens with this much probability is drawn from."""
    top_k: NonNegativeInt = 0
    """Draw among the k most probable tokens only; 0 is no limit."""
    max_tokens: PositiveInt = 32768
    """Longest completion. A cut answer counts against the model."""
    seed: NonNegativeInt = 0
    """Other draws than those of another seed."""
    thinking: bool | None = None
    """Ask the template for thinking or for the no-think form. None: the student in the form it was trained in, every
    other model in its template's default."""
    engine: Annotated[Choice, ChoiceOf("distill.engines", "engine")] = Field(
        default="transformers", validate_default=True
    )
    """Where tokens come from. The teacher has its own section's engine; a .gguf file runs in llamacpp."""
    split: Split = "test"
    """Problems it is measured on; `dev` for choices that must not see the test problems."""

    @field_validator("models")
    @classmethod
    def _known(cls, models: list[str]) -> list[str]:
        if len(set(models)) != len(models):
            raise ValueError("a model is named twice")
        for model in models:
            there = model in ROLES or is_embedded(model) or not looks_local(model) or Path(model).expanduser().exists()
            if not there:
                raise ValueError(f"{model!r} is no such folder or file, and none of {', '.join(ROLES)}")
        return models

    def sampling(self, thinking: bool | None) -> Sampling:
        """The settings of one draw."""
        return Sampling(
            temperature=self.sample_temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            thinking=thinking,
            max_tokens=self.max_tokens,
        )


@dataclass(frozen=True)
class Candidate:
    """A model to be measured: its name in the experiment, what `resolve` takes, its engine, its form."""

    name: str
    model: str
    engine: Choice
    thinking: bool | None
    revision: str | None = None
    dialect: Dialect = THINK
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> ModelIdentity:
        """Content hash or declared name, without loading it."""
        return rollout.identify(self.engine, self.model, self.revision)


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str | int, ...], str] | None:
    """Refuse to measure a teacher that the experiment does not have."""
    config = sections.get("evaluate")
    if isinstance(config, Config) and "teacher" in config.models and "teacher" not in sections:
        return ("evaluate", "models"), "`evaluate.models` names `teacher`, but there is no section `teacher:`"
    return None


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """Identities of the measured models that no earlier stage made."""
    config = cast(Config, sections["evaluate"])
    outside = [candidate(name, config, sections, None) for name in config.models if name != "student"]
    return {model.name: model.identity.id for model in outside}


def run(stage: StageRun) -> Report:
    """Measure each model; write results, scores, answers and verdicts."""
    config = cast(Config, stage.sections["evaluate"])
    problems = [
        p for p in tables.read(stage.inputs["problems"] / "problems.parquet", Problem) if p.split == config.split
    ]
    if not problems:
        raise DistillError(f"evaluate: no problem is in the {config.split} split; check `problems:`")
    by_id = {problem.id: problem for problem in problems}
    verifier = cast(verify.Config, stage.sections["verify"]).verifier
    results: list[dict[str, Any]] = []
    lines: list[Score] = []
    timing: dict[str, dict[str, float]] = {}
    kept: dict[str, tuple[Sample, Verdict]] = {}  # by sample key: two names may mean the same model
    for name in config.models:
        model = candidate(name, config, stage.sections, stage.inputs.get("train"))
        sampling = replace(config.sampling(model.thinking), arguments=model.arguments)
        began_s = time.monotonic()
        drawn = rollout.collect(
            problems, config.samples, sampling,
            engine=model.engine, model=model.model, workspace=stage.workspace, label=f"evaluate {name}",
            revision=model.revision, dialect=model.dialect,
        )  # fmt: skip
        drawn_s = time.monotonic() - began_s
        answers = [replace(sample, latency_s=0.0, created="") for sample in drawn]
        with Ledger(stage.workspace.ledger) as ledger:
            verdicts = verify.grade(by_id, answers, verifier, store=ledger, workspace=stage.workspace)
        mine = [scores.score(name, by_id[s.problem_id], s, v) for s, v in zip(answers, verdicts, strict=True)]
        lines += mine
        kept |= {sample.key: (sample, verdict) for sample, verdict in zip(answers, verdicts, strict=True)}
        results.append({
            "name": name, "model": shown_name(model.model), "identity": model.identity.id, "engine": model.engine.name,
            "thinking": model.thinking, **summarise(mine),
        })  # fmt: skip
        timing[name] = {
            "seconds": round(drawn_s, 3),
            "verify_seconds": round(time.monotonic() - began_s - drawn_s, 3),
            "answer_seconds": round(sum(sample.latency_s for sample in drawn), 3),
        }
    data = {
        "split": config.split, "problems": len(problems), "samples": config.samples,
        "sampling": asdict(config.sampling(config.thinking)), "verifier": verifier.dump(),
        "models": results, "ratios": ratios(lines),
    }  # fmt: skip
    scores.write(stage.out, lines)
    tables.write(stage.out / "samples.parquet", (sample for sample, _ in kept.values()), Sample)
    tables.write(stage.out / "verdicts.parquet", (verdict for _, verdict in kept.values()), Verdict)
    files.write_json(stage.out / "results.json", data)
    files.write_json(stage.out / "timing.json", timing)
    return Report(summary=_summary(data), rows=[_row(entry) for entry in results], data=data, missed=missed(results))


def candidate(name: str, config: Config, sections: Mapping[str, Settings], train: Path | None) -> Candidate:
    """What a name in `models` means here. Raises DistillError for `student` where nothing was trained."""
    if name == "student":
        if train is None:
            raise DistillError("evaluate: `student` is what `train` makes, and there is no `train:` stage before this")
        thinking = config.thinking if config.thinking is not None else _trained_form(train)
        return Candidate(name, str(train / "student"), config.engine, thinking)
    if name == "teacher":
        teacher = cast(Any, sections["teacher"])  # teachers.settings.Config, which this package must not import
        return Candidate(
            name, teacher.model, teacher.engine, config.thinking, teacher.revision, teacher.dialect, teacher.asked_with
        )
    student = cast(ModelConfig, sections["student"])
    model, revision = (student.model, student.revision) if name == "base" else (name, None)
    engine = config.engine
    if model.endswith(".gguf") and engine.name == "transformers":
        engine = _llamacpp()
    return Candidate(name, model, engine, config.thinking, revision)


def shown_name(model: str) -> str:
    """What a model is called in results: its declared name, or the last part of a path, which is a machine's own."""
    return Path(model).name if not is_embedded(model) and Path(model).expanduser().exists() else model


def summarise(lines: Sequence[Score]) -> dict[str, Any]:
    """Everything that is said of one model, as plain data, from its scores alone."""
    levels, domains = sorted({line.level for line in lines}), sorted({line.domain for line in lines})
    return {
        "rate": _rate(lines),
        "thinking_tokens": asdict(metrics.mean_of(scores.lengths_by_item(lines, thinking=True))),
        "completion_tokens": asdict(metrics.mean_of(scores.lengths_by_item(lines, thinking=False))),
        "answers": len(lines),
        "tokens": sum(line.completion_tokens for line in lines),
        "outcomes": {name: sum(line.outcome == name for line in lines) for name in scores.OUTCOMES},
        "by_level": {level: _rate([line for line in lines if line.level == level]) for level in levels},
        "by_domain": {domain: _rate([line for line in lines if line.domain == domain]) for domain in domains},
    }


def ratios(lines: Sequence[Score]) -> dict[str, Any]:
    """The student's rate as a share of the teacher's, where both were measured."""
    models = scores.by_model(lines)
    if not {"student", "teacher"} <= set(models):
        return {}
    student, teacher = (scores.verdicts_by_item(models[name]) for name in ("student", "teacher"))
    return {"student/teacher": asdict(metrics.paired_ratio(student, teacher))}


def missed(results: Sequence[Mapping[str, Any]]) -> str | None:
    """The models whose rate stands on too little: over 1% of answers were ungradable or failed. None if all is well."""
    bad = []
    for entry in results:
        rate = metrics.Rate(**entry["rate"])
        if rate.excluded_share > EXCLUDED_LIMIT:
            total = rate.n + rate.excluded
            bad.append(f"{entry['name']}: {rate.ungradable:,} ungradable and {rate.errors:,} failed of {total:,}")
    if not bad:
        return None
    return (
        f"evaluate: over {EXCLUDED_LIMIT:.0%} of answers could not be counted ({'; '.join(bad)}); mend golds or engine"
    )


def _rate(lines: Sequence[Score]) -> dict[str, Any]:
    return asdict(metrics.pass_rate(scores.verdicts_by_item(lines)))


def _trained_form(train: Path) -> bool | None:
    """False for a student trained on answers without reasoning: the template's no-think form is its own."""
    report = train / "report.json"
    answers_alone = report.exists() and files.read_json(report).get("target") == "answer"
    return False if answers_alone else None


def _llamacpp() -> Choice:
    from distill.core.plugins import load

    return Choice("distill.engines", "engine", "llamacpp", load("distill.engines", "llamacpp").Config())


def _summary(data: Mapping[str, Any]) -> str:
    parts = [f"{entry['name']} {metrics.Rate(**entry['rate'])}" for entry in data["models"]]
    if "student/teacher" in data["ratios"]:
        parts.append(f"student/teacher {metrics.Ratio(**data['ratios']['student/teacher'])}")
    return f"{', '.join(parts)} on {data['problems']:,} {data['split']} problems"


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    rate, outcomes = metrics.Rate(**entry["rate"]), entry["outcomes"]
    unparseable = {name: outcomes[name] for name in ("truncated", "unfinished", "no answer")}
    return {
        "model": entry["name"],
        "pass@1 [95%]": str(rate),
        "correct": rate.k,
        "wrong": outcomes["wrong"],
        **unparseable,
        "ungradable": rate.ungradable,
        "error": rate.errors,
        "thinking tokens": str(metrics.Mean(**entry["thinking_tokens"])),
        "all tokens": str(metrics.Mean(**entry["completion_tokens"])),
    }
