"""`evaluate`: any models on any tasks; test problems are read here, and for the proof of exports, and nowhere else.

Writes results.json (by task: models with rates, curves and cost, and all pairs of them), scores.parquet (one line an
answer), guard.parquet and forced.parquet where they were asked for, and the problems, answers and verdicts themselves;
clock figures go to timing.json alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, cast

from distill.core import files, tables
from distill.core.config import Settings
from distill.core.records import Problem, Sample, Verdict
from distill.core.stage import Report, StageRun
from distill.evaluate import forcing, guard, results, scores
from distill.evaluate import task as tasks
from distill.evaluate.answers import OWN, Answers
from distill.evaluate.grading import Grading, Line
from distill.evaluate.models import Candidate, candidate
from distill.evaluate.results import ratios, summarise
from distill.evaluate.scores import Score
from distill.evaluate.settings import Config
from distill.evaluate.work import Work, verifier_of
from distill.rollout import Estimate
from distill.stages import verify

__all__ = ["VERSION", "Config", "check", "estimate", "externals", "keyed", "ratios", "run", "summarise", "unread"]

VERSION = 2


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """Refuse what cannot be measured before anything is bought: (key, what is wrong), or None."""
    config = sections.get("evaluate")
    if not isinstance(config, Config):
        return None
    for entry in config.models:
        if (lack := entry.lacks(sections)) is not None:
            return ("evaluate", "models"), f"`evaluate.models`: {lack}"
        teachers = getattr(sections.get("teacher"), "engine", None) if entry.model == "teacher" else None
        why = None if config.forcing is None else forcing.refusal(entry.engine or teachers or config.engine)
        if why is not None:
            return ("evaluate", "forcing"), f"model `{entry.name}`: {why}"
    if config.guard and not {"student", "train"} <= set(sections):
        return (
            "evaluate",
            "guard",
        ), "`evaluate.guard` holds the student against its base: give `student:` and `train:`"
    for choice in config.every_task:
        if choice.name == OWN and "problems" not in sections:
            return ("evaluate", "tasks"), "task `problems` is the experiment's own, and there is no section `problems:`"
        if choice.name != OWN and (why := tasks.fault(choice)) is not None:
            return ("evaluate", "tasks"), why
        draw = config.draw(choice)
        if draw.sample_temperature == 0 and draw.samples > 1:
            text = f"{draw.samples} answers at temperature 0 are one answer, paid for as often; set `samples: 1`"
            return ("evaluate", "sample_temperature"), f"task `{choice.name}`: {text}"
    return None


def unread(sections: Mapping[str, Settings]) -> set[str]:
    """`train` where no student is measured, `problems` where no task is the experiment's own."""
    config = cast(Config, sections["evaluate"])
    student = bool(config.guard) or any(entry.trained for entry in config.models)
    own = any(choice.name == OWN for choice in config.every_task)
    return {name for name, read in (("train", student), ("problems", own)) if not read}


def keyed(sections: Mapping[str, Settings]) -> dict[str, Any]:
    """The settings that shape the result: those of `student:` and `teacher:` only as far as they are measured."""
    config = cast(Config, sections["evaluate"])
    return {
        "evaluate": config.keyed(),
        "verifier": verifier_of(sections).keyed(),
        "models": {model.name: model.keyed() for model in _not_made_here(config, sections)},
    }


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """Who the measured models are that no earlier stage made, what tasks read, and the versions of all verifiers."""
    config = cast(Config, sections["evaluate"])
    found = {model.name: model.identity.id for model in _not_made_here(config, sections)}
    for choice in config.every_task:
        contents = tasks.settings(choice).externals()
        found |= {f"task {choice.name}: {name}": content for name, content in contents.items()}
    return found | verify.externals({"verify": verify.Config(verifier=verifier_of(sections))})


def _not_made_here(config: Config, sections: Mapping[str, Settings]) -> list[Candidate]:
    entries = [entry for entry in config.models if not entry.trained]
    return [candidate(entry, config.engine, config.thinking, sections, None) for entry in entries]


def run(stage: StageRun) -> Report:
    """Measure each model on each task; write results, scores, problems, answers and verdicts."""
    work = Work(stage)
    _announce(work, stage)
    work.buy()
    lines: dict[Answers, list[Line]] = {}
    verdicts: dict[str, Verdict] = {}  # by sample key: two names may mean the same model

    def graded() -> Iterator[Sample]:
        for answers in work.answers:
            mine = lines[answers] = []
            for sample, verdict, line in grading.grade(answers.task, answers.model.name, answers):
                mine.append(line)
                if sample.key not in verdicts:
                    verdicts[sample.key] = verdict
                    yield sample

    with Grading(work.verifier, stage.workspace) as grading:
        tables.write(stage.out / "samples.parquet", graded(), Sample)
        forced = work.forced(grading)
    data, scored, guarded = work.results(lines, forced)
    tables.write(stage.out / "verdicts.parquet", verdicts.values(), Verdict)
    tables.write(stage.out / "problems.parquet", work.problems(), Problem)
    scores.write(stage.out, scored)
    if guarded:
        tables.write(stage.out / guard.FILE, guarded, Score)
    if forced:
        forcing.write(stage.out, forced)
    files.write_json(stage.out / "results.json", data)
    files.write_json(stage.out / "timing.json", work.timing(grading.seconds))
    missed = [why for why in (results.missed(data["tasks"]), guard.missed(data["guard"])) if why]
    return Report(
        summary=results.summary(data["tasks"], data["split"]) + guard.summary(data["guard"]),
        rows=results.rows(data["tasks"]),
        data=data,
        missed="; ".join(missed) or None,
    )


def estimate(stage: StageRun) -> Report:
    """What `run` would buy, what that may cost, and how small a difference it could show. Buys and builds nothing."""
    work = Work(stage)
    _announce(work, stage)
    found = [(answers, answers.estimate()) for answers in work.answers]
    missing, worst = sum(each.missing for _, each in found), sum(each.worst_tokens for _, each in found)
    costs = [each.worst_cost for _, each in found if each.missing]
    known = [cost for cost in costs if cost is not None]
    money = f", {sum(known):,.2f}" if known and len(known) == len(costs) else ""
    after = "; what `forcing` buys depends on the answers, and comes on top" if work.config.forcing else ""
    return Report(
        summary=f"dry run: nothing was bought; {missing:,} answers to buy, at most {worst:,} tokens{money}{after}",
        rows=[_estimated(answers, each) for answers, each in found],
        data={
            "power": {name: asdict(plan) for name, plan in work.plans().items()},
            "answers": [{"task": one.task.name, "model": one.model.name, **asdict(each)} for one, each in found],
        },
    )


def _announce(work: Work, stage: StageRun) -> None:
    for name, plan in work.plans().items():
        stage.say(f"{name}: {plan}")


def _estimated(answers: Answers, each: Estimate) -> dict[str, Any]:
    def span(low: float | None, high: float | None) -> str:
        return "" if low is None or high is None else f" [{low:,.0f}, {high:,.0f}]"

    expected = "-" if each.expected_tokens is None else f"{each.expected_tokens:,.0f}"
    return {
        "task": answers.task.name,
        "model": answers.model.name,
        "answers": each.wanted,
        "in the ledger": each.had,
        "to buy": each.missing,
        "tokens at most": each.worst_tokens,
        "expected [95%]": expected + span(each.low_tokens, each.high_tokens),
        "cost at most": "-" if each.worst_cost is None else f"{each.worst_cost:,.2f}",
    }
