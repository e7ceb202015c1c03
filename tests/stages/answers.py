"""Problems and answers that the tests of verify, filter and import share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core import tables
from distill.core.config import Settings, digest
from distill.core.records import Message, Problem, Sample, Verdict, problem_id
from distill.core.stage import StageRun, Workspace


def make_problem(n: int, gold: str | None = None, **about: Any) -> Problem:
    """The problem `n * 7`, in the train split unless told otherwise."""
    messages = (Message("user", f"What is {n}*7?"),)
    settings = {"split": "train", "domain": "product", "level": str(1 + n % 3), **about}
    return Problem(id=problem_id(messages), messages=messages, gold=str(n * 7) if gold is None else gold, **settings)


def make_sample(problem: Problem, answer: str, index: int = 0, **about: Any) -> Sample:
    """A finished answer to the problem."""
    settings: dict[str, Any] = {
        "key": digest([problem.id, index]), "problem_id": problem.id, "index": index, "model_id": "m",
        "model_name": "m", "engine": "test", "max_tokens": 100, "finish_reason": "stop",
        "reasoning": "step by step", "closed": True,
    }  # fmt: skip
    return Sample(**{**settings, "answer": answer, **about})


def make_stage(
    root: Path,
    name: str,
    config: Settings,
    problems: Sequence[Problem],
    samples: Sequence[Sample] | None = None,
    verdicts: Sequence[Verdict] | None = None,
) -> StageRun:
    """A stage with its inputs written to folders under `root`."""
    inputs: Mapping[str, tuple[str, Sequence[Any] | None, type[Any]]] = {
        "problems": ("problems.parquet", problems, Problem),
        "sample": ("samples.parquet", samples, Sample),
        "verify": ("verdicts.parquet", verdicts, Verdict),
    }
    for folder, (file, records, kind) in inputs.items():
        if records is not None:
            tables.write(root / folder / file, records, kind)
    out = root / "out"
    out.mkdir(parents=True, exist_ok=True)
    return StageRun(name, out, {folder: root / folder for folder in inputs}, {name: config}, 0, Workspace(root))
