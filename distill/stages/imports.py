"""`import`: recorded answers in the place of `sample`, so that other people's traces go through verify and filter.

- Nothing said: what came with the problems, that is, the responses of their trace set (`problems: {source: traces}`),
  or else their worked solutions.
- `layout: reference`: every training problem's own worked solution becomes its trace, with the gold answer in a box.
- Any other layout (`distill.layouts`): a trace set, joined to the problems by their messages, or by the text of the
  question where both have one turn.

Rows are read one after another; those that cannot be read are counted by reason, and too many of them stop the stage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import model_validator

from distill import layouts
from distill.core import tables
from distill.core.config import Settings, digest
from distill.core.errors import DistillError
from distill.core.records import FinishReason, Problem, Sample
from distill.core.stage import Report, StageRun
from distill.layouts import LayoutName, Reader, Recorded, TraceSet
from distill.sources import traces
from distill.text.think import join_think

VERSION = 2


class Config(TraceSet):
    """Settings of `import:`."""

    layout: LayoutName | Literal["reference"] | None = None
    """`reference`: the problems' own worked solutions. Else how the rows of `path` are laid out. None: what came with
    the problems."""
    path: str | None = None
    """The trace set: a file (.jsonl, .csv or .parquet; .gz and .zst too), a pattern, or a data set's id on the Hub
    (`owner/name`). Of a file the content counts, not the place."""

    @model_validator(mode="after")
    def _has_its_file(self) -> Config:
        if self.layout in (None, "reference"):
            if self.path is not None:
                raise ValueError("`path` needs a `layout` that reads it, such as `chat`, `openr1` or `responses`")
        elif self.path is None:
            raise ValueError(f"`layout: {self.layout}` needs `path`")
        return self

    def keyed(self) -> dict[str, Any]:
        """Without the place of a file: its content counts."""
        kept = super().keyed()
        if self.path is None or not layouts.is_hub_id(self.path):
            del kept["path"]
        return kept


@dataclass(frozen=True)
class Set:
    """A trace set to import."""

    path: str
    layout: LayoutName
    settings: TraceSet

    def read(self) -> Reader:
        """Its rows, from the first on."""
        return Reader(self.path, self.layout, self.settings, "import")


def sets_of(sections: Mapping[str, Settings]) -> list[Set]:
    """The trace sets that an experiment imports: its own, or those that its problems come from; none: references."""
    config = cast(Config, sections["import"])
    if config.path is not None:
        return [Set(config.path, cast(LayoutName, config.layout), config)]
    if config.layout is None and "problems" in sections:
        return _came_with(cast(Any, sections["problems"]).source.config)
    return []


def _came_with(source: Any) -> list[Set]:
    """The trace sets among a source and, for a mixture, its parts."""
    if isinstance(source, traces.Config):
        return [Set(source.path, source.layout, source)]
    parts = sorted(getattr(source, "parts", {}).items())
    return [found for _, part in parts for found in _came_with(part.source.config)]


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """A file that is not there is refused before anything runs: (key, what is wrong), or None."""
    own = [cast(Config, sections["import"]).path] if "import" in sections else []
    theirs = _came_with(cast(Any, sections["problems"]).source.config) if "problems" in sections else []
    for key, paths in ((("import", "path"), own), (("problems", "source"), [found.path for found in theirs])):
        for path in paths:
            if path is not None and Path(path).is_dir():
                return key, f"`{'.'.join(key)}`: {path} is a folder; name its files, such as {path}/data/*.parquet"
            if path is not None and not layouts.is_hub_id(path) and "*" not in path and not Path(path).is_file():
                return key, f"`{'.'.join(key)}`: {path}: no such file"
    return None


def keyed(sections: Mapping[str, Settings]) -> dict[str, Any]:
    """The settings that count: its own and, where it reads the problems' trace sets, theirs."""
    config = cast(Config, sections["import"])
    theirs = [] if config.path is not None else [found.settings.keyed() for found in sets_of(sections)]
    return {"import": config.keyed()} | ({"traces": theirs} if theirs else {})


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The files' contents."""
    found = [layouts.externals(each.path) for each in sets_of(sections)]
    return {f"responses {place}": files["source"] for place, files in enumerate(found) if files}


def run(stage: StageRun) -> Report:
    """Turn recorded answers into samples; write samples.parquet."""
    config = cast(Config, stage.sections["import"])
    problems = tables.stream(stage.inputs["problems"] / "problems.parquet", Problem)
    sets = sets_of(stage.sections)
    tally = Tally()
    if sets:
        samples = recorded(problems, sets, tally)
    else:
        samples = references(problems, config.model, tally)
    tables.write(stage.out / "samples.parquet", tally.watch(samples), Sample)
    for name in tally.named:
        stage.say(f"not read: {name}")
    if not tally.samples:
        raise DistillError(f"import: no answer for any problem ({_listed(tally.missed) or 'none given'})")
    remarks = f"; {_listed(tally.missed)}" if tally.missed else ""
    return Report(
        summary=f"{tally.samples:,} answers to {len(tally.answered):,} problems{remarks}",
        rows=tally.rows,
        data={"samples": tally.samples, "problems": len(tally.answered), **tally.missed},
    )


@dataclass
class Tally:
    """What was imported and what was left out."""

    missed: Counter[str] = field(default_factory=Counter)
    named: list[str] = field(default_factory=list)
    """The first rows that could not be read."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: int = 0
    answered: set[str] = field(default_factory=set)

    def watch(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples, counted as they pass."""
        for sample in samples:
            self.samples += 1
            self.answered.add(sample.problem_id)
            yield sample


def references(problems: Iterable[Problem], model: str = "", tally: Tally | None = None) -> Iterator[Sample]:
    """Worked solutions of the training problems as samples."""
    tally = tally or Tally()
    for problem in problems:
        if problem.split != "train":
            continue
        if not problem.reference_reasoning or not problem.gold:
            tally.missed["training problems without a worked solution or gold"] += 1
            continue
        answer = f"Answer: \\boxed{{{problem.gold}}}"
        yield _sample(
            problem.id, 0, problem.reference_reasoning, answer, True, "stop",
            model or f"{problem.source or 'source'} reference",
            text=join_think(problem.reference_reasoning, answer),
        )  # fmt: skip


def recorded(problems: Iterable[Problem], sets: Sequence[Set], tally: Tally | None = None) -> Iterator[Sample]:
    """Recorded responses as samples, in the order of the sets and their rows.

    A response that comes twice for a problem is kept twice, with different indexes: filters see to duplicates.
    Raises DistillError where too many rows of a set cannot be read.
    """
    tally = tally or Tally()
    asked = _Asked(problems)
    counted: Counter[str] = Counter()
    for each in sets:
        reader = each.read()
        seen = elsewhere = responses = 0
        for row in reader:
            seen += 1
            found = asked.find(row)
            if found is None:
                elsewhere += 1
                continue
            problem_id, same_turns = found
            for response in row.responses:
                split, responses = response.split, responses + 1
                yield _sample(
                    problem_id, counted[problem_id], split.reasoning, split.answer, split.closed,
                    response.finish_reason, row.model, text=response.text, origin=response.origin,
                    system=None if same_turns else row.system,
                )  # fmt: skip
                counted[problem_id] += 1
        tally.missed.update({"rows whose question is no problem here": elsewhere} if elsewhere else {})
        tally.missed.update({f"not read ({reason})": count for reason, count in reader.unread.items()})
        tally.named += reader.named
        tally.rows.append({
            "set": Path(each.path).name, "layout": each.layout, "rows": reader.rows,
            "not read": reader.unread.total(), "no problem here": elsewhere, "responses": responses,
        })  # fmt: skip


class _Asked:
    """The problems by what they ask: their messages, or the one question, white space apart."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self._ids: set[str] = set()
        self._questions: dict[str, str] = {}
        for problem in problems:
            self._ids.add(problem.id)
            if _only_question(problem) is not None:
                self._questions[_folded(_only_question(problem) or "")] = problem.id

    def find(self, row: Recorded) -> tuple[str, bool] | None:
        """The problem that a row answers, and whether it has the very same turns; None: it is no problem here."""
        if row.problem.id in self._ids:
            return row.problem.id, True
        question = _only_question(row.problem)
        found = None if question is None else self._questions.get(_folded(question))
        return None if found is None else (found, False)


def _only_question(problem: Problem) -> str | None:
    """The question of a problem of one turn, system prompt apart."""
    turns = [message for message in problem.messages if message.role != "system"]
    return turns[0].content if len(turns) == 1 else None


def _sample(
    problem_id: str, index: int, reasoning: str | None, answer: str, closed: bool, finish: FinishReason, model: str,
    *, text: str, origin: dict[str, Any] | None = None, system: str | None = None,
) -> Sample:  # fmt: skip
    """A recorded answer as a sample. Its key is made of what it says: a changed response is another sample."""
    return Sample(
        key=digest(["import", problem_id, model, index, reasoning, answer, closed, finish]),
        problem_id=problem_id,
        index=index,
        model_id=f"import/{model}",
        model_name=model,
        engine="import",
        max_tokens=0,
        finish_reason=finish,
        reasoning=reasoning,
        answer=answer,
        closed=closed,
        reasoning_kind="none" if reasoning is None else "full",
        text=text,
        system=system,
        origin=origin or {},
    )


def _folded(question: str) -> str:
    return digest(" ".join(question.split()))[:32]


def _listed(missed: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in missed.items())
