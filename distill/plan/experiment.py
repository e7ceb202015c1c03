"""`distill plan`: an experiment on given GPUs. What each stage must hold, how long training takes, what it costs.

Nothing is loaded: the settings, the models' config.json, and arithmetic.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distill.core.errors import ConfigError
from distill.core.stage import Report
from distill.experiment import Arm, Experiment
from distill.plan import cost
from distill.plan.gpus import GIB, Gpu
from distill.plan.memory import NF4_BYTES, Sharding
from distill.plan.phases import Change, Phase, Plan, advice, serving_phase, training_phase
from distill.plan.shapes import ModelShape, shape_of


@dataclass(frozen=True)
class Question:
    """What was asked: the GPUs, how training is divided over them, and what the settings do not say."""

    gpu: Gpu
    count: int
    sharding: Sharding = "ddp"
    price: float | None = None
    """Of one GPU for an hour."""
    rows: int | None = None
    """Traces of an epoch."""
    row_tokens: int | None = None
    """Their mean length, prompt included."""


@dataclass(frozen=True)
class Answer:
    """The plan of one arm."""

    arm: str
    phases: tuple[Phase, ...]
    plan: Plan | None
    changes: tuple[Change, ...]


def answer(arm: Arm, question: Question) -> Answer:
    """What the stages of an arm need that run a model here. Raises ConfigError for what cannot be planned."""
    sections, gpu = arm.sections, question.gpu
    phases = _teaching(sections, question)
    plan: Plan | None = None
    changes: tuple[Change, ...] = ()
    if "train" in sections and "student" in sections:
        planner: Any = importlib.import_module("students.plan")  # by name, as stages are
        plan = planner.plan(sections, gpu, question.count, question.sharding, question.rows, question.row_tokens)
        phase = training_phase(plan, gpu)
        phases.append(phase)
        if not phase.fits:
            changes = tuple(advice(plan, gpu, question.count))
    phases += _evaluating(sections, question)
    return Answer(arm.name, tuple(phases), plan, changes)


def run(experiment: Experiment, question: Question) -> tuple[Report, list[dict[str, Any]]]:
    """The report, and the rows of what to change. `missed` says that a stage does not fit."""
    answers: list[Answer] = []
    for arm in experiment.arms:
        found = answer(arm, question)
        if all(_key(found) != _key(other) for other in answers):
            answers.append(found)
    if not any(found.phases for found in answers):
        raise ConfigError(f"{experiment.file}: no stage of it runs a model on these GPUs; there is nothing to plan")
    several = len(answers) > 1
    rows = [row for found in answers for row in _rows(found, several)]
    changes = [row for found in answers for row in _changes(found, several)]
    lines = [line for found in answers for line in _lines(found, question, several)]
    tight = [f"{found.arm}: {phase.stage}" for found in answers for phase in found.phases if not phase.fits]
    missed = None
    if tight:
        missed = f"does not fit {_gpus(question)}: {', '.join(name.removeprefix('main: ') for name in tight)}"
    return Report("\n".join(lines), rows, _data(answers, question), missed), changes


def _teaching(sections: Mapping[str, Any], question: Question) -> list[Phase]:
    """Sampling and scoring, where the teacher runs here."""
    teacher = sections.get("teacher")
    phases: list[Phase] = []
    if teacher is None:
        return phases
    for stage in ("sample", "score"):
        section = sections.get(stage)
        engine = getattr(section, "engine", None) or teacher.engine
        if section is None or getattr(engine.module(), "SERVED", False):
            continue
        shape = _local(teacher.model, teacher.revision)
        if shape is None:
            continue
        longest = shape.max_position_embeddings
        if stage == "sample":
            longest = min(longest, section.manner(teacher).sampling.max_tokens)
        phases.append(_serving(stage, shape, engine, longest, question))
    return phases


def _evaluating(sections: Mapping[str, Any], question: Question) -> list[Phase]:
    """The largest model of `evaluate:` that runs here."""
    section = sections.get("evaluate")
    phases: list[Phase] = []
    if section is None:
        return phases
    teacher, student = sections.get("teacher"), sections.get("student")
    for entry in section.models:
        role = entry.model.partition("@")[0]
        owner = {"base": student, "student": student, "teacher": teacher}.get(role)
        if owner is None and role in ("base", "student", "teacher"):
            continue
        engine = entry.engine or (owner.engine if role == "teacher" and owner is not None else section.engine)
        if getattr(engine.module(), "SERVED", False):
            continue
        model, revision = (entry.model, entry.revision) if owner is None else (owner.model, owner.revision)
        shape = _local(model, revision)
        if shape is not None:
            limits = [section.draw(choice).max_tokens for choice in section.every_task]
            longest = min(max(limits), shape.max_position_embeddings)
            held = NF4_BYTES if role == "student" and getattr(getattr(owner, "adapter", None), "nf4", False) else None
            phases.append(_serving(f"evaluate {entry.name}", shape, engine, longest, question, held))
    return sorted(phases, key=lambda phase: -phase.total)[:1]


def _serving(
    stage: str, shape: ModelShape, engine: Any, longest: int, question: Question, held: float | None = None
) -> Phase:
    """A model on one of the engines that run here; `held` where its base is in other bytes a weight than stored."""
    settings = engine.config
    quantised = {None: None, "fp8": 1.0}.get(getattr(settings, "quantization", None), NF4_BYTES)
    width = held or quantised or (4.0 if _single(settings, question.gpu) else 2.0)
    split = getattr(settings, "tensor_parallel", 1)
    share = getattr(settings, "gpu_memory_share", 1.0)
    phase = serving_phase(stage, shape, question.gpu, longest=longest, width=width, share=share, split=split)
    if split > question.count:
        return replace(phase, room=0.0, remarks=(f"`tensor_parallel` {split} needs as many GPUs",))
    return phase


def _single(settings: Any, gpu: Gpu) -> bool:
    """Whether the engine holds float32."""
    dtype = getattr(settings, "dtype", "auto")
    return dtype in ("fp32", "float32") or (dtype == "auto" and gpu.is_cpu)


def _local(model: str, revision: str | None) -> ModelShape | None:
    """The shape of a model that runs here; None for a .gguf file, which no plan is made for."""
    return None if Path(model).suffix == ".gguf" else shape_of(model, revision)


def _rows(found: Answer, several: bool) -> list[dict[str, Any]]:
    rows = []
    for phase in found.phases:
        first = {"arm": found.arm} if several else {}
        for name, size in phase.parts.items():
            rows.append(first | {"stage": phase.stage, "holds": name, "GiB a GPU": f"{size / GIB:.2f}"})
        verdict = "fits" if phase.fits else "does not fit"
        total = f"{phase.total / GIB:.2f}"
        rows.append(
            first | {"stage": phase.stage, "holds": f"= at {phase.moment}; {verdict} {phase.room / GIB:.1f}",
                     "GiB a GPU": total}
        )  # fmt: skip
    return rows


def _changes(found: Answer, several: bool) -> list[dict[str, Any]]:
    first = {"arm": found.arm} if several else {}
    return [
        first
        | {
            "change, on top of those above": change.setting,
            "saves GiB": f"{change.saves / GIB:.2f}",
            "then GiB": f"{change.total / GIB:.2f}",
            "fits": change.fits,
            "what it costs": change.harm,
        }
        for change in found.changes
    ]


def _lines(found: Answer, question: Question, several: bool) -> list[str]:
    label = f"{found.arm}: " if several else ""
    lines = [f"{label}{phase.stage}: {remark}" for phase in found.phases for remark in phase.remarks]
    if found.plan is not None:
        lines.append(f"{label}train: {_time(found.plan, question)}")
        if found.changes and not found.changes[-1].fits:
            lines.append(f"{label}train: no setting makes it fit; take larger GPUs, more of them, or a smaller student")
    return lines


def _time(plan: Plan, question: Question) -> str:
    """Tokens, hours and money of the training, as far as they are known."""
    work = plan.work
    if not work.rows:
        return "how many rows there are is not in the settings; --rows and --row-tokens give time and cost"
    tokens = f"{'at most ' if work.bound else ''}{work.tokens / 1e6:,.1f}M tokens"
    span = cost.seconds(plan.training, work, question.gpu, question.count)
    if span is None:
        return f"{tokens}; the speed of {question.gpu.name} is not known, so no time"
    low, high = (seconds / 3600 for seconds in span)
    used = " to ".join(f"{share:.0%}" for share in reversed(cost.USED))
    text = f"{tokens}, {low:,.2f} to {high:,.2f} hours on {_gpus(question)} ({used} of its peak, assumed)"
    if question.price is not None:
        each = question.price * question.count
        text += f", {low * each:,.2f} to {high * each:,.2f} at {question.price:g} a GPU and hour"
    return text


def _gpus(question: Question) -> str:
    return question.gpu.name if question.count == 1 else f"{question.count} x {question.gpu.name}"


def _data(answers: list[Answer], question: Question) -> dict[str, Any]:
    """The same as numbers: bytes, seconds and money."""
    arms = {}
    for found in answers:
        plan = found.plan
        span = None if plan is None else cost.seconds(plan.training, plan.work, question.gpu, question.count)
        money = None
        if span is not None and question.price is not None:
            money = [seconds / 3600 * question.price * question.count for seconds in span]
        arms[found.arm] = {
            "stages": [
                {
                    "stage": phase.stage, "moment": phase.moment, "bytes": dict(phase.parts), "total": phase.total,
                    "room": phase.room, "fits": phase.fits, "remarks": list(phase.remarks),
                }
                for phase in found.phases
            ],
            "changes": [asdict(change) for change in found.changes],
            "tokens": None if plan is None or not plan.work.rows else plan.work.tokens,
            "tokens_are_a_bound": None if plan is None else plan.work.bound,
            "seconds": None if plan is None or not plan.work.rows else span,
            "money": None if plan is None or not plan.work.rows else money,
        }  # fmt: skip
    return {"gpus": _gpus(question), "sharding": question.sharding, "arms": arms}


def _key(found: Answer) -> str:
    """Arms whose plans are alike are told once."""
    return json.dumps(
        [[asdict(phase) for phase in found.phases], None if found.plan is None else asdict(found.plan)],
        sort_keys=True, default=dict,
    )  # fmt: skip
