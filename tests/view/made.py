"""A small run for the page's tests: teacher's samples with verdicts and two filter stages, and evaluated models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from distill.core import files, rundir, tables
from distill.core.config import digest
from distill.core.records import Decision, Message, Problem, Sample, Trace, Verdict, problem_id
from distill.evaluate import scores
from distill.evaluate.scores import Score
from distill.view import index
from distill.view.catalog import Catalog
from distill.view.entries import Entry, Question, Source
from distill.view.server import Server, listen

QUESTIONS = (
    "What is $6 \\times 7$?",
    "Name the roots of $x^2 - 3x + 2$.",
    "三角形の面積は?",
    "How far does the train go?",
)


def problem(number: int, split: str = "train") -> Problem:
    """One of the questions, in this split."""
    messages = (Message("user", QUESTIONS[number] if split == "train" else f"{QUESTIONS[number]} (test)"),)
    return Problem(
        problem_id(messages), messages, str(number), split, domain=("algebra", "geometry")[number % 2],  # type: ignore[arg-type]
        level=str(1 + number % 3), source="made",
    )  # fmt: skip


def sample(asked: Problem, index: int, model: str, thinking: str | None, answer: str, **more: Any) -> Sample:
    """An answer; its key is made of everything that is said."""
    return Sample(
        key=digest([asked.id, index, model, answer]), problem_id=asked.id, index=index, model_id=digest(model)[:32],
        model_name=model, engine="transformers", max_tokens=99, finish_reason="stop", reasoning=thinking, answer=answer,
        closed=True, text=f"{thinking}\n</think>\n\n{answer}<|im_end|>" if thinking else answer,
        completion_tokens=len((thinking or "").split()) + len(answer.split()), **more,
    )  # fmt: skip


def verdict(of: Sample, value: str, reason: str) -> Verdict:
    """What a verifier said of it."""
    return Verdict(digest([of.key, value]), of.key, value, reason, extracted=of.answer[-3:], verifier="math")  # type: ignore[arg-type]


def make_run(folder: Path, *, arms: Sequence[str] = ("strict", "loose"), thinking: str = "Six times seven.") -> Path:
    """A finished run. The arms share the samples, filter them differently, and train students of their own."""
    train, test = [problem(n) for n in range(4)], [problem(n, "test") for n in range(4)]
    drawn = [
        sample(p, i, "big", f"{thinking} Step {i}.", f"So \\boxed{{{n + i}}}")
        for n, p in enumerate(train)
        for i in (0, 1)
    ]
    graded = [
        verdict(s, "wrong" if s.index else "correct", "another number" if s.index else "same text") for s in drawn
    ]
    shared = {
        "problems": _stage(folder, "problems", {"problems.parquet": (Problem, [*train, *test])}),
        "sample": _stage(folder, "sample", {"samples.parquet": (Sample, drawn)}),
        "verify": _stage(folder, "verify", {"verdicts.parquet": (Verdict, graded)}),
    }
    index: dict[str, Any] = {"name": folder.name, "experiment": "made.yaml", "arms": {}}
    for place, arm in enumerate(arms):
        decided = [
            Decision(s.key, False, "verdict", "wrong: another number")
            if s.index and place == 0
            else Decision(s.key, True)
            for s in drawn
        ]
        used = {**shared, "filter": _stage(folder, "filter", {"decisions.parquet": (Decision, decided)}, arm)}
        used["evaluate"] = _evaluate(folder, arm, test)
        index["arms"][arm] = {"0": used}
    files.write_json(folder / rundir.INDEX, index)
    return folder


def _evaluate(folder: Path, arm: str, test: Sequence[Problem]) -> dict[str, Any]:
    answers: list[tuple[str, Sample]] = []
    for name, model in (("base", "small"), ("student", f"small-{arm}"), ("teacher", "big")):
        answers += [
            (name, sample(p, 0, model, None if name == "base" else f"As {name}.", f"It is {n}."))
            for n, p in enumerate(test)
        ]
    verdicts = [verdict(s, "correct" if name == "teacher" else "wrong", "told") for name, s in answers]
    lines = [
        Score(name, s.problem_id, 0, s.key, v.value, v.value, "stop", 2, s.completion_tokens, "1", "algebra")
        for (name, s), v in zip(answers, verdicts, strict=True)
    ]
    models = [{"name": name, "identity": s.model_id} for name, s in answers]
    made = _stage(
        folder, "evaluate",
        {"samples.parquet": (Sample, [s for _, s in answers]), "verdicts.parquet": (Verdict, verdicts),
         scores.FILE: (Score, lines), "problems.parquet": (Problem, test)},
        arm, {"results.json": {"tasks": [{"name": "problems", "models": models}]}},
    )  # fmt: skip
    return made


def _stage(
    folder: Path, name: str, outputs: Mapping[str, tuple[type, Iterable[Any]]], arm: str = "",
    documents: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    key = digest([name, arm])
    out = folder / rundir.folder_name(name, key)
    if rundir.finished(out, key) is None:
        out.mkdir(parents=True)
        for file, (kind, records) in outputs.items():
            tables.write(out / file, records, kind)
        for file, value in (documents or {}).items():
            files.write_json(out / file, value)
        rundir.finish(out, {"key": key})
    return {"key": key, "folder": out.name, "seconds": 1.0}


def trace(number: int, *, thinking: str = "hm", answer: str = "", **more: Any) -> Trace:
    """A kept trace."""
    asked = problem(number % 4)
    about: dict[str, Any] = {"verdict": "correct", "verdict_reason": "same text", "model_name": "big", **more}
    return Trace(f"{number:064x}", asked.id, asked.messages, thinking, answer or f"So {number}", gold="1", **about)


def source(entries: Sequence[Entry], content: str = "made") -> Source:
    """Entries as a source."""
    return Source("made", content, len(entries), lambda: iter(entries))


def entry(number: int, **given: Any) -> Entry:
    """An entry with a question of its own."""
    about: dict[str, Any] = {
        "thinking": "hm",
        "answer": f"So {number}",
        "question": Question(f"p{number}", f"Question {number}?"),
    }
    about |= given
    return Entry(key=f"k{number}", problem_id=about["question"].id, **about)


@contextmanager
def opened(of: Source, folder: Path) -> Iterator[Catalog]:
    """The catalog of a source."""
    catalog = Catalog(index.ensure(of, folder, "made"))
    try:
        yield catalog
    finally:
        catalog.close()


@contextmanager
def serving(catalog: Catalog) -> Iterator[Server]:
    """A running server."""
    with listen(catalog, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
