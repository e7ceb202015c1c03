"""What an evaluation has to do: tasks with their problems, models, and each one's answers to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from distill.core.config import Settings, canonical
from distill.core.plugins import Choice
from distill.core.records import Problem
from distill.core.stage import StageRun
from distill.evaluate import forcing, guard, metrics, power, results, scores
from distill.evaluate import task as tasks
from distill.evaluate.answers import Answers, Task, prepare
from distill.evaluate.grading import Grading, Line, forced_scores, grouped
from distill.evaluate.models import Candidate, Entry, candidate, shown_name, trained_form
from distill.evaluate.scores import Score
from distill.evaluate.settings import Config
from distill.rollout.asks import Loaded
from distill.stages import verify


def verifier_of(sections: Mapping[str, Settings]) -> Choice:
    """What grades problems that name no verifier of their own: that of `verify:`, where there is one."""
    return cast(verify.Config, sections.get("verify") or verify.Config()).verifier


class Work:
    """All of one evaluation. Raises DistillError where a task has no problems or a model is not there."""

    def __init__(self, stage: StageRun) -> None:
        config = self.config = cast(Config, stage.sections["evaluate"])
        self._stage, self._train = stage, stage.inputs.get("train")
        self.verifier = verifier_of(stage.sections)
        self._loaded: dict[str, Loaded] = {}
        self.tasks, self.guard = ([self._prepared(c) for c in choices] for choices in (config.tasks, config.guard))
        models = [self._candidate(entry, config.thinking) for entry in config.models]
        self.measured = [self._answers(task, model) for task in self.tasks for model in models]
        self.guarding: list[Answers] = []
        if self.guard and self._train is not None:
            form = trained_form(self._train) if config.thinking is None else config.thinking
            pair = [self._candidate(Entry(name=name, model=name), form) for name in guard.MODELS]
            self.guarding = [self._answers(task, model) for task in self.guard for model in pair]

    def _prepared(self, choice: Choice) -> Task:
        return prepare(choice, self.config.draw(choice), self._stage.inputs.get("problems"), self.config.split)

    def _candidate(self, entry: Entry, thinking: bool | None) -> Candidate:
        return candidate(entry, self.config.engine, thinking, self._stage.sections, self._train)

    def _answers(self, task: Task, model: Candidate) -> Answers:
        engine = canonical([model.engine.keyed(), model.model, model.revision])
        loaded = self._loaded.setdefault(engine, Loaded())  # two manners of asking one model share it
        sampling = self.config.sampling(task.draw, model.thinking, model.arguments)
        return Answers(task, model, sampling, self._stage.workspace, loaded)

    @property
    def answers(self) -> list[Answers]:
        """Those of the guard too."""
        return [*self.measured, *self.guarding]

    def plans(self) -> dict[str, power.Plan]:
        """How small a difference each task could show with so many problems and answers."""
        named = {task.name: task for task in self.tasks} | {f"guard {task.name}": task for task in self.guard}
        return {name: power.plan(len(task.problems), task.draw.samples) for name, task in named.items()}

    def buy(self) -> None:
        """Buy what the ledger lacks, model by model: each is loaded once, for all of its tasks."""
        for loaded in self._loaded.values():
            try:
                for answers in self.answers:
                    if answers.loaded is loaded:
                        answers.buy()
            finally:
                loaded.close()

    def forced(self, grading: Grading) -> list[forcing.ForcedScore]:
        """The lines of forced answers, model by model; none where none were asked for."""
        settings, found = self.config.forcing, list[forcing.ForcedScore]()
        for loaded in self._loaded.values() if settings is not None else ():
            try:
                for answers in self.measured:
                    if settings is not None and answers.loaded is loaded:
                        found += forced_scores(answers, settings, grading)
            finally:
                loaded.close()
        return found

    def problems(self) -> list[Problem]:
        """Those of all tasks, each once."""
        found: dict[str, Problem] = {}
        for task in (*self.tasks, *self.guard):
            for problem in task.problems:
                found.setdefault(problem.id, problem)
        return list(found.values())

    def results(
        self, lines: Mapping[Answers, Sequence[Line]], forced: Sequence[forcing.ForcedScore]
    ) -> tuple[dict[str, Any], list[Score], list[Score]]:
        """results.json as plain data, and the scores it was computed from: those of tasks, and those of the guard."""
        scored, guarded, found = [], [], []
        for task in self.tasks:
            mine = self._grouped(task, self.measured, lines)
            entry = {**self._about(task), **results.of_task(mine, self._models(task, self.measured))}
            for model in entry["models"]:
                own = [line for line in forced if (line.task, line.model) == (task.name, model["name"])]
                model["forced"] = forcing.summarise(own)
            found.append(entry)
            scored += mine
        kept = []
        for task in self.guard:
            mine = self._grouped(task, self.guarding, lines)
            figures = results.of_task(mine, self._models(task, self.guarding))
            base, student = (scores.verdicts_by_item(scores.by_model(mine)[name]) for name in guard.MODELS)
            difference = metrics.paired_difference([student], [base])
            judged = guard.judged(difference, self.config.guard_points)
            said = {"models": figures["models"], "difference": asdict(difference), **judged}
            kept.append({**self._about(task), **said})
            guarded += mine
        held = {"points": self.config.guard_points, "tasks": kept} if self.guard else None
        return {"split": self.config.split, "tasks": found, "guard": held}, scored, guarded

    def _grouped(self, task: Task, answers: Sequence[Answers], lines: Mapping[Answers, Sequence[Line]]) -> list[Score]:
        found = grouped(task, [line for a in answers if a.task is task for line in lines[a]], self.verifier)
        scores.refuse_fewer(found, task.by_id, task.draw.samples)
        return found

    def _about(self, task: Task) -> dict[str, Any]:
        """A task as results tell of it, beside the figures."""
        graders = {canonical(c.keyed()): c.dump() for c in (verify.choice_of(p, self.verifier) for p in task.problems)}
        return {
            "name": task.name,
            "problems": len(task.problems),
            "content": tasks.fingerprint(task.problems),
            "samples": task.draw.samples,
            "sampling": asdict(self.config.sampling(task.draw, self.config.thinking)),
            "instruction": task.config.told,
            "verifier": next(iter(graders.values())) if len(graders) == 1 else {"several": list(graders.values())},
            "licence": ", ".join(sorted({problem.licence for problem in task.problems} - {""})),
            "power": asdict(power.plan(len(task.problems), task.draw.samples)),
        }

    def _models(self, task: Task, answers: Sequence[Answers]) -> dict[str, dict[str, Any]]:
        """The models of a task as results tell of them, beside the figures, by name."""
        models = [one.model for one in answers if one.task is task]
        return {
            model.name: {
                "name": model.name, "model": shown_name(model.model), "identity": model.identity.id,
                "engine": model.engine.name, "thinking": model.thinking,
                "instruction": model.heard(bool(task.config.told)),
                "system_prompt": model.system,
            }
            for model in models
        }  # fmt: skip

    def timing(self, graded_s: Mapping[str, float]) -> dict[str, dict[str, float]]:
        """Clock figures by model, over all its tasks: they are no part of the stage's content."""
        found: dict[str, dict[str, float]] = {}
        for one in self.answers:
            mine = found.setdefault(one.model.name, {"seconds": 0.0, "answer_seconds": 0.0})
            mine["seconds"] += one.bought_s
            mine["answer_seconds"] += one.answer_s
        return {
            name: {key: round(value, 3) for key, value in (mine | {"verify_seconds": graded_s.get(name, 0.0)}).items()}
            for name, mine in found.items()
        }
