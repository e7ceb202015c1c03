"""What `distill evaluate` measures a model on: one file in `distill/evaluate/tasks/` is one task.

A task is a module with a docstring whose first line is its help, and

    class Config(TaskSettings): ...                      # or Benchmark, for a data set of the Hub or a copy of it
    def build(config: Config) -> Iterable[Problem]       # split "test"; verifier, source and licence on each

The problems of a task do not hold its instruction: a problem's id stays what it is when the prompt changes, and models
that are asked in different ways are still paired by problem. `asked` adds the instruction.

Defaults are those of DeepSeek-R1's evaluation: temperature 0.6, top_p 0.95, at most 32,768 tokens (DeepSeek-AI 2025,
arXiv 2501.12948, section 3). Its 64 answers to every question are kept for AIME; the larger sets have fewer,
since their many items narrow the interval already (docs/tasks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, NonNegativeFloat, PositiveInt

from distill import layouts, tabular
from distill.core import plugins
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.records import Problem
from distill.core.stage import say
from distill.sources import hub

QUESTION = "{question}"
"""Where an instruction names it, the question stands there; else the instruction follows the question."""

BOXED = r"Please reason step by step, and put your final answer within \boxed{}."
"""What DeepSeek-R1's authors recommend for mathematics (README of deepseek-ai/DeepSeek-R1, usage recommendations)."""


@dataclass(frozen=True)
class Draw:
    """How a task's answers are drawn."""

    samples: int = 1
    sample_temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 32768


class TaskSettings(Settings):
    """Settings of every task. None: what `evaluate:` says for all tasks, else the task's own default."""

    USUAL: ClassVar[Draw] = Draw()
    """The task's own defaults."""
    INSTRUCTION: ClassVar[str] = ""
    """The task's own instruction; its file says whose words they are."""
    VERIFIER: ClassVar[str | None] = None
    """What grades its answers; None: the experiment's."""

    rows: PositiveInt | None = None
    """At most so many problems: those that come first by the hash of their text, whatever their order in the data."""
    samples: PositiveInt | None = None
    """Answers to each problem."""
    sample_temperature: NonNegativeFloat | None = None
    """Temperature of the draw; 0 is greedy."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus: the smallest set of tokens with this much probability is drawn from."""
    max_tokens: PositiveInt | None = None
    """Longest completion. A cut answer counts against the model."""
    instruction: str | None = None
    """What is said beside each question: after it, or around `{question}` where the text has that. None: the task's
    own instruction; an empty text: nothing."""

    @property
    def told(self) -> str:
        """The instruction that holds."""
        return self.INSTRUCTION if self.instruction is None else self.instruction

    def draw(self, **of_all: float | None) -> Draw:
        """How answers are drawn: the task's setting, else that of all tasks, else the task's usual one.

        `of_all` are the fields of `Draw` that are given for all tasks; None is not given.
        """
        usual = asdict(self.USUAL)
        given = {name: value for name, value in of_all.items() if value is not None}
        own = {name: value for name in usual if (value := getattr(self, name)) is not None}
        return Draw(**(usual | given | own))

    def keyed(self) -> dict[str, Any]:
        """With the instruction that holds and the usual draw: a change of either in the task's file counts, too."""
        return super().keyed() | {"instruction": self.told, "usual": asdict(self.USUAL)}

    def externals(self) -> dict[str, str]:
        """Contents of what the task reads, by name, for the stage's key."""
        return {}

    def missing(self) -> str | None:
        """What the task needs and is not on this machine; None: it can be tried."""
        return None


class Benchmark(TaskSettings):
    """Settings of a task whose problems are a data set of the Hub, or a copy of it."""

    path: str
    """The data set's id (`owner/name`), a file of it (.jsonl, .csv or .parquet; .gz and .zst too), a pattern
    (`test-*.parquet`), or a folder that is a copy of the whole data set. Of a file or folder the content counts."""
    name: str | None = None
    """Its configuration, where it has several; not for a file."""
    from_split: str = "test"
    """Split of the data set, in its own words; not for a file."""
    revision: str | None = None
    """Commit, tag or branch on the Hub. None: what main is now, which is then said."""

    @property
    def on_hub(self) -> bool:
        """Whether `path` is an id rather than a file or folder."""
        return layouts.is_hub_id(self.path)

    def externals(self) -> dict[str, str]:
        """Content of a file or folder; a data set of the Hub counts by its id and revision, which are settings."""
        if self.on_hub:
            return {}
        folder = Path(self.path).is_dir()
        return hub.externals(hub.Config(path=self.path)) if folder else tabular.externals(self.path)

    def keyed(self) -> dict[str, Any]:
        """Without the place of a file or folder: its content counts."""
        kept = super().keyed()
        if not self.on_hub:
            del kept["path"]
        return kept

    def missing(self) -> str | None:
        """A file that is not there. Whether the Hub can be reached is not tried."""
        if self.on_hub or Path(self.path).is_dir():
            return None
        try:
            tabular.files(self.path)
        except DistillError:
            return f"{self.path}: no such file or folder, and no id of a data set (`owner/name`)"
        return None


def rows(config: Benchmark) -> Iterator[tuple[str, tabular.Row]]:
    """Yield (where, row) of a benchmark. Raises DistillError, in one line, for what cannot be had or read."""
    if not config.on_hub and not Path(config.path).is_dir():
        return tabular.rows(config.path)
    return hub.read(config.path, config.name, config.from_split, config.revision or hub.current(config.path))


def problems(
    found: Iterable[tuple[str, tabular.Row]], convert: Callable[[tabular.Row, str], Problem], **said: Any
) -> Iterator[Problem]:
    """Every row as a test problem by `convert(row, where)`, with the fields of `said`.

    Raises DistillError, starting with `where`, for a row that can be no problem, or one without gold and tests: a
    benchmark has both in every row, so that another layout is being read.
    """
    for where, row in found:
        problem = replace(convert(row, where), split="test", **said)
        if not (problem.gold or problem.tests):
            raise DistillError(f"{where}: no gold answer; every row of a benchmark has one: check the file's columns")
        yield problem


def settings(choice: Choice) -> TaskSettings:
    """The settings of a chosen task. Raises DistillError for a module of the user whose `Config` is something else."""
    if not isinstance(choice.config, TaskSettings):
        raise DistillError(f"evaluate: task `{choice.name}`: its Config is no TaskSettings (distill/evaluate/task.py)")
    return choice.config


def load(choice: Choice) -> list[Problem]:
    """The problems of a task, ordered by hash, at most `rows`. The same whatever their order in the data.

    A question that stands there twice counts once, which is said. Raises DistillError, in one line that names the
    task, where its data cannot be had or read, or is empty.
    """
    found: dict[str, Problem] = {}
    repeated = 0
    try:
        for problem in choice.module().build(choice.config):
            first = found.setdefault(problem.id, problem)
            repeated += first is not problem
            found[problem.id] = min(first, problem, key=_graded_by)
    except DistillError as error:
        raise DistillError(f"evaluate: task `{choice.name}`: {error}") from error
    if not found:
        raise DistillError(f"evaluate: task `{choice.name}` has no problem; check its settings")
    if repeated:
        say(f"evaluate: task `{choice.name}`: {repeated:,} questions that stood there before count once")
    return first_by_hash(found.values(), settings(choice).rows)


def first_by_hash(found: Iterable[Problem], rows: int | None) -> list[Problem]:
    """The problems that come first by the hash of their text, in its order."""
    return sorted(found, key=lambda problem: digest(["task", problem.id]))[:rows]


def fingerprint(found: Sequence[Problem]) -> str:
    """Hash of the problems as they are graded, 64 hex digits: what a result was measured on."""
    return digest(sorted([p.id, *_graded_by(p), p.verifier or "", digest(p.verifier_settings)] for p in found))


def fault(choice: Choice) -> str | None:
    """What a task needs and is not there, before anything runs: a file, a package, a sandbox. None: it can be tried."""
    config = settings(choice)
    missing = config.missing()
    if missing is None and config.VERIFIER is not None:
        verifier = plugins.load("distill.verifiers", config.VERIFIER)
        try:
            verifier.ready(verifier.Config()) if hasattr(verifier, "ready") else None
        except DistillError as error:
            missing = str(error)
    return None if missing is None else f"task `{choice.name}`: {missing}"


def asked(problem: Problem, instruction: str) -> Problem:
    """The problem as a model is asked it: its last turn with the instruction. Its id stays that of the bare problem.

    >>> asked(tabular.problem("2+2?", gold="4"), "Answer in a word.").messages[-1].content
    '2+2?\\n\\nAnswer in a word.'
    >>> asked(tabular.problem("2+2?", gold="4"), "Q: {question}\\nA:").messages[-1].content
    'Q: 2+2?\\nA:'
    """
    if not instruction:
        return problem
    *before, last = problem.messages
    if QUESTION in instruction:
        content = instruction.replace(QUESTION, last.content)
    else:
        content = f"{last.content}\n\n{instruction}"
    return replace(problem, messages=(*before, replace(last, content=content)))


def _graded_by(problem: Problem) -> tuple[str, str]:
    return problem.gold or "", problem.tests or ""
