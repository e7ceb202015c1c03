"""A workspace with problems and scripted models, and the evaluate stage run in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from distill.core import files, tables
from distill.core.config import Settings
from distill.core.models import ModelConfig
from distill.core.plugins import Choice
from distill.core.records import Message, Problem, problem_id
from distill.core.stage import Report, StageRun, Workspace
from distill.evaluate import stage as evaluate
from distill.rollout.price import PriceSetting
from distill.stages import verify
from distill.text.think import THINK, Dialect

ENGINE = {"engine": "tests.evaluate.scripted"}
RIGHT, WRONG = "one two </think> \\boxed{7}", "one two three </think> \\boxed{8}"


class Teacher(ModelConfig):
    """What `teachers.settings.Config` is to the stage."""

    engine: Choice
    dialect: Dialect = THINK
    asked_with: dict[str, Any] = Field(default_factory=dict)
    price: PriceSetting = None

    def words(self, thinking: bool | None) -> tuple[str | None, str | None]:
        """A family that asks for nothing."""
        del thinking
        return None, None


def problem(number: int, gold: str = "7", split: Any = "test") -> Problem:
    messages = (Message("user", f"question {number}"),)
    return Problem(problem_id(messages), messages, gold, split, domain="d", level=str(number % 2))


class Bench:
    """A workspace with problems and scripted models."""

    def __init__(self, folder: Path, problems: list[Problem]) -> None:
        self.folder, self.problems, self.dialect = folder, problems, THINK
        (folder / "problems").mkdir()
        (folder / "train").mkdir()
        tables.write(folder / "problems" / "problems.parquet", problems, Problem)

    def script(self, name: str, answers: dict[int, tuple[Any, str]], default: Any = RIGHT) -> str:
        """Write a model that answers `default` except where `answers` (by question number) says otherwise."""
        numbers = {p.messages[0].content: int(p.messages[0].content.split()[1]) for p in self.problems}
        texts = {question: answers.get(number, (default, "stop")) for question, number in numbers.items()}
        path = self.folder / "train" / "student" if name == "student" else self.folder / f"{name}.script"
        path.write_text(json.dumps({"name": name, **texts}), encoding="utf-8")
        return str(path)

    def run(self, out: str = "out", **settings: Any) -> tuple[Report, Path]:
        """Evaluate with these settings, into the folder `out`."""
        planned = self.planned(out, **settings)
        return evaluate.run(planned), planned.out

    def planned(self, out: str = "out", **settings: Any) -> StageRun:
        """What the stage is given."""
        config = evaluate.Config.model_validate({"engine": ENGINE, "max_tokens": 50, **settings})
        folder = self.folder / out
        folder.mkdir()
        for name in ("base", "teacher"):
            if not (self.folder / f"{name}.script").exists():
                self.script(name, {})
        sections: dict[str, Settings] = {
            "evaluate": config,
            "verify": verify.Config(),
            "student": ModelConfig(model=str(self.folder / "base.script")),
            "teacher": Teacher(model=str(self.folder / "teacher.script"), engine=config.engine, dialect=self.dialect),
        }
        inputs = {"problems": self.folder / "problems", "train": self.folder / "train"}
        return StageRun("evaluate", folder, inputs, sections, seed=0, workspace=Workspace(self.folder / "runs"))


def measured(folder: Path, task: str = "problems") -> dict[str, Any]:
    """What results.json says of one task."""
    tasks = files.read_json(folder / "results.json")["tasks"]
    return next(entry for entry in tasks if entry["name"] == task)


def outcomes(folder: Path, model: str) -> dict[str, int]:
    found: dict[str, int] = next(entry for entry in measured(folder)["models"] if entry["name"] == model)["outcomes"]
    return {name: count for name, count in found.items() if count}
