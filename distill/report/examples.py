"""Problems of the experiment with the answers of each model, chosen by how they ended and never by how they look.

Of no other task: authors of benchmarks ask that their questions are not put online, and a report is easily shared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from distill.core import tables
from distill.core.records import Problem, Sample, Verdict
from distill.evaluate import scores
from distill.report.parts import Example, Shown
from distill.text.visible import shortened

SHOWN_CHARACTERS = 2000
"""Of one text in the report; the rest is in samples.parquet."""
GOLD_CHARACTERS = 200

BATCH_ROWS = 512
"""Answers in memory at a time."""

NO_ANSWER = ("truncated", "unfinished", "no answer")

R = TypeVar("R")
Lines = Mapping[str, Sequence[scores.Score]]


def choose(lines: Lines) -> dict[str, str]:
    """One problem for each of a few telling cases, the first of its kind in the order of the problems: why, by id."""
    first = {name: {line.problem_id: line for line in own if line.index == 0} for name, own in lines.items()}
    main = "student" if "student" in first else next(iter(first), "")
    who = f"the {main}" if main == "student" else main
    own = first.get(main, {})
    right = {name: {p: line.outcome == "correct" for p, line in answers.items()} for name, answers in first.items()}
    base, teacher = (right.get(name, {}) for name in ("base", "teacher"))
    solved = [problem_id for problem_id, line in own.items() if line.outcome == "correct"]
    missed = [problem_id for problem_id, line in own.items() if line.outcome != "correct"]
    cases = (
        (f"{who} is right where its base is not", [p for p in solved if base.get(p) is False]),
        (f"{who} is wrong", [p for p in missed if own[p].outcome == "wrong"]),
        (f"{who} gives no answer", [p for p in missed if own[p].outcome in NO_ANSWER]),
        (f"{who} repeats itself", [p for p, line in own.items() if line.looping]),
        (f"{who} is wrong where its teacher is right", [p for p in missed if teacher.get(p)]),
        (f"{who} is right where its teacher is not", [p for p in solved if teacher.get(p) is False]),
        (f"the longest right answer of {who}", sorted(solved, key=lambda p: -own[p].completion_tokens)),
    )
    chosen: dict[str, str] = {}
    for why, fitting in cases:
        found = next((problem_id for problem_id in fitting if problem_id not in chosen), None)
        if found is not None:
            chosen[found] = why
    return chosen


def collect(evaluated: Path, problems: Path, lines: Lines) -> Iterator[Example]:
    """The chosen problems with all answers; nothing where the texts were not published with a run that was pulled."""
    chosen = choose(lines)
    answered, judged = evaluated / "samples.parquet", evaluated / "verdicts.parquet"
    if not chosen or not all(path.exists() for path in (problems, answered, judged)):
        return
    found = {problem.id: problem for problem in _chosen(problems, Problem, "id", chosen)}
    keys = {line.sample_key for of_model in lines.values() for line in of_model if line.problem_id in chosen}
    samples = {sample.key: sample for sample in _chosen(answered, Sample, "key", keys)}
    verdicts = {verdict.sample_key: verdict for verdict in _chosen(judged, Verdict, "sample_key", keys)}
    order = ("student", "base", "teacher", *lines)
    for problem_id, why in chosen.items():
        answers = [
            _shown(name, line, samples[line.sample_key], verdicts[line.sample_key])
            for name in sorted(lines, key=order.index)
            for line in lines[name]
            if line.problem_id == problem_id and line.index == 0
        ]
        text = "\n\n".join(message.content for message in found[problem_id].messages)
        gold = shortened(found[problem_id].gold or "", GOLD_CHARACTERS)
        yield Example(why, shortened(text, SHOWN_CHARACTERS), gold, answers)


def _chosen(path: Path, kind: type[R], column: str, wanted: Collection[str]) -> Iterator[R]:
    """The records whose `column` is wanted. The others stay Arrow: a long answer's ids are costly as Python numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pa.array(sorted(wanted), pa.string())
    for batch in tables.batches(path, kind, BATCH_ROWS):
        yield from tables.records(batch.filter(pc.is_in(batch.column(column), values)), kind)


def _shown(name: str, line: scores.Score, sample: Sample, verdict: Verdict) -> Shown:
    reasoning = None if sample.reasoning is None else shortened(sample.reasoning.strip(), SHOWN_CHARACTERS)
    remark = f"{line.completion_tokens:,} tokens"
    if verdict.extracted is not None and line.outcome == "wrong":
        remark += f", read as {shortened(verdict.extracted, GOLD_CHARACTERS)}"
    return Shown(name, reasoning, shortened(sample.answer.strip(), SHOWN_CHARACTERS), line.outcome, remark)
