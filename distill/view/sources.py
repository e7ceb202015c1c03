"""Runs and files as entries: the teacher's samples with their verdicts and the filters' decisions, and the answers of
every evaluated model. Reads only the columns that are shown, in batches: ids and log-probabilities stay on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distill import filter_file
from distill.core import files, jsonl, rundir
from distill.core.config import digest
from distill.core.errors import ConfigError, DistillError
from distill.evaluate import guard
from distill.view.entries import KEPT, Entry, Question, Source, notes, question, shortened

BATCH_ROWS = 256

Row = dict[str, Any]

SAMPLE = (
    "key", "problem_id", "index", "model_name", "finish_reason", "reasoning", "answer", "text", "system",
    "rationalised", "completion_tokens", "reasoning_tokens", "reasoning_kind", "cost", "error", "origin",
)  # fmt: skip
TRACE = (
    "key", "problem_id", "messages", "reasoning", "answer", "gold", "domain", "source", "level", "model_name",
    "finish_reason", "reasoning_tokens", "verdict", "verdict_reason", "extracted", "label_source", "label_support",
    "origin",
)  # fmt: skip
PROBLEM = ("id", "messages", "gold", "split", "domain", "source", "level")
VERDICT = ("sample_key", "value", "reason", "extracted", "score", "verifier", "label_source", "label_support")
DECISION = ("sample_key", "kept", "filter", "why")
PLAIN = (
    *filter_file.PLAIN, *filter_file.QUESTIONS, *filter_file.RESPONSES, "messages", "reasoning", "answer", "closed",
    "finish_reason", "verdict", "reason", "extracted",
)  # fmt: skip
"""What is read of a Parquet file that is no table of ours."""


def of(target: Path) -> Source:
    """The source of a run folder or a file of traces or samples (.parquet, .jsonl, also .gz and .zst).

    Raises ConfigError for what is neither.
    """
    if target.is_dir():
        return of_run(target)
    if not target.is_file():
        raise ConfigError(f"{target}: no such run folder or file")
    return of_file(target)


# ---- a run


@dataclass
class _Answers:
    """One table of the teacher's samples, one grading of it, and every filter stage that chose among it."""

    samples: Path
    verdicts: Path | None
    decisions: dict[Path, list[str]] = field(default_factory=dict)
    """Folders of filter stages, with the arms that use them."""


@dataclass(frozen=True)
class _Evaluated:
    """One evaluate stage, and the first arm and seed that use it."""

    folder: Path
    arm: str
    seed: str


def _of_several_identities(stages: Mapping[Path, _Evaluated]) -> set[str]:
    """Names that mean another model in another arm or seed: the student, mostly."""
    identities: dict[str, set[str]] = {}
    for folder in stages:
        results = files.read_json(folder / "results.json")
        for task in results.get("tasks", [results]):
            for model in task["models"]:
                identities.setdefault(model["name"], set()).add(model["identity"])
    return {name for name, found in identities.items() if len(found) > 1}


def of_run(run: Path) -> Source:
    """A run folder. Stages that are not done, and tables that were not published with a pulled run, are left out.

    Raises DistillError where nothing is left to read.
    """
    index = rundir.read_index(run)
    contents: dict[Path, str] = {}
    problems: dict[Path, None] = {}
    answers: dict[tuple[Path, Path | None], _Answers] = {}
    evaluated: dict[Path, _Evaluated] = {}
    for arm, seeds in index["arms"].items():
        for seed, stages in seeds.items():
            done = _done(run, stages, contents)
            if "problems" in done:
                problems[done["problems"]] = None
            drawn = done.get("sample") or done.get("import")
            if drawn is not None:
                table = answers.setdefault((drawn, done.get("verify")), _Answers(drawn, done.get("verify")))
                if "filter" in done and arm not in table.decisions.setdefault(done["filter"], []):
                    table.decisions[done["filter"]].append(arm)
            if "evaluate" in done:
                evaluated.setdefault(done["evaluate"], _Evaluated(done["evaluate"], arm, seed))
    filters = {folder: arms for table in answers.values() for folder, arms in table.decisions.items()}
    facet = {folder: "decision" if number == 1 else f"decision-{number}" for number, folder in enumerate(filters, 1)}
    several = {"arm": len(index["arms"]) > 1, "seed": any(len(seeds) > 1 for seeds in index["arms"].values())}
    told_apart = _of_several_identities(evaluated)

    def questions() -> Iterator[Question]:
        for folder in (*problems, *evaluated):
            for row in _rows_if_there(folder / "problems.parquet", PROBLEM):
                yield _question(row)

    def entries() -> Iterator[Entry | None]:
        for table in answers.values():
            yield from _sampled(table, facet)
        seen: set[tuple[str, str, str]] = set()
        for stage in evaluated.values():
            labels = {"arm": stage.arm, "seed": stage.seed}
            labels = {name: value for name, value in labels.items() if several[name]}
            yield from _measured(stage.folder, dict.fromkeys(told_apart, labels), seen)

    total = sum(_count(path) for table in answers.values() for path in _tables(table))
    total += sum(_count(path) for folder in evaluated for path in _scored(folder))
    if not total:
        raise DistillError(f"{run}: nothing to read: no table of samples, traces or evaluated answers is there")
    labels = {}
    for folder, arms in filters.items() if len(filters) > 1 else ():
        labels[facet[folder]] = f"Filter of {shortened(arms)}"
        labels[_why(facet[folder])] = f"Its reason for {shortened(arms)}"
    made = sorted((folder.name, content) for folder, content in contents.items())
    content = digest([str(index["name"]), made, total, labels])  # the total: a pulled run may get its tables later
    return Source(str(index["name"]), content, total, entries, questions, labels)


def _done(run: Path, stages: Mapping[str, Any], contents: dict[Path, str]) -> dict[str, Path]:
    """Folders of the finished stages of one arm and seed; their content hashes go into `contents`."""
    done = {}
    for stage, about in stages.items():
        folder = run / about["folder"]
        manifest = rundir.finished(folder, about["key"])
        if manifest is not None:
            done[stage] = folder
            if stage in ("problems", "sample", "import", "verify", "filter", "evaluate"):
                contents[folder] = manifest.content
    return done


def _why(decision: str) -> str:
    return decision.replace("decision", "why")


def _tables(table: _Answers) -> list[Path]:
    """What there is to read of the teacher's answers: the samples, or the traces alone where a run was published."""
    samples = table.samples / "samples.parquet"
    kept = [folder / "traces.parquet" for folder in table.decisions]
    return [samples] if samples.exists() else [path for path in kept if path.exists()]


def _sampled(table: _Answers, facet: Mapping[Path, str]) -> Iterator[Entry]:
    verdicts = {} if table.verdicts is None else _by_sample(table.verdicts / "verdicts.parquet", VERDICT)
    decided = {folder: _by_sample(folder / "decisions.parquet", DECISION) for folder in table.decisions}
    for path in _tables(table):
        if path.parent in facet:
            for row in _rows(path, TRACE):
                trace = _of_trace(row, "")
                yield replace(trace, facets={**trace.facets, "origin": "sampled", facet[path.parent]: KEPT})
            continue
        for row in _rows(path, SAMPLE):
            facets = {"origin": "sampled", "model": row["model_name"]}
            told: list[tuple[str, Any]] = []
            for folder, decisions in decided.items():
                if (decision := decisions.get(row["key"])) is None:
                    continue
                facets[facet[folder]] = KEPT if decision["kept"] else f"rejected: {decision['filter']}"
                facets[_why(facet[folder])] = decision["why"] or ""
                by = f" ({shortened(table.decisions[folder])})" if len(facet) > 1 else ""
                said = KEPT if decision["kept"] else f"rejected by {decision['filter']}"
                told.append((f"filter{by}", said + (f": {decision['why']}" if decision["why"] else "")))
            yield _of_sample(row, verdicts.get(row["key"]), facets, told)


def _scored(folder: Path) -> list[Path]:
    """Tables of the answers of an evaluate stage, if the answers are there: a published run has the scores alone."""
    there = (folder / "samples.parquet").exists()
    return [folder / name for name in ("scores.parquet", guard.FILE) if there and (folder / name).exists()]


def _measured(
    folder: Path, labels: Mapping[str, Mapping[str, str]], seen: set[tuple[str, str, str]]
) -> Iterator[Entry | None]:
    """Answers of the models of one evaluate stage, told apart by `labels`. What several stages measured comes once."""
    scores: dict[str, list[Row]] = {}
    for path in _scored(folder):
        for row in _rows(path, ("model", "task", "sample_key", "outcome")):
            scores.setdefault(row["sample_key"], []).append(row)
    if not scores:
        return
    verdicts = _by_sample(folder / "verdicts.parquet", VERDICT)
    for row in _rows(folder / "samples.parquet", SAMPLE):
        for score in scores.pop(row["key"], []):
            model, task = score["model"], score.get("task") or ""
            if (model, task, row["key"]) in seen:
                yield None
                continue
            seen.add((model, task, row["key"]))
            facets = {"origin": "evaluated", "model": model, "task": task, **labels.get(model, {})}
            yield _of_sample(row, verdicts.get(row["key"]), facets, [("outcome", score["outcome"])])


def _of_sample(row: Row, verdict: Row | None, facets: dict[str, str], told: Sequence[tuple[str, Any]]) -> Entry:
    facets["finish"] = row["finish_reason"]
    about: list[tuple[str, Any]] = [("sample", row["index"]), ("model", row["model_name"])]
    if verdict is not None:
        facets |= {"verdict": verdict["value"], "reason": verdict["reason"]}
        about += _graded(verdict["value"], verdict["reason"], verdict)
    about += [
        *told, ("ended by", row["finish_reason"]), ("completion tokens", row["completion_tokens"]),
        ("thinking tokens", row["reasoning_tokens"]), ("system prompt", row.get("system")),
        ("asked with the answer as a hint", "yes" if row.get("rationalised") else None),
        ("reasoning", row.get("reasoning_kind") if row.get("reasoning_kind") in ("summary", "hidden") else None),
        ("cost", row.get("cost")), ("error", row.get("error")), ("origin", row.get("origin")), ("key", row["key"]),
    ]  # fmt: skip
    return Entry(
        row["key"], row["problem_id"], row["reasoning"], row["answer"], row.get("text") or "",
        row["completion_tokens"] or None, facets, notes(*about),
    )  # fmt: skip


def _graded(value: Any, reason: Any, row: Row) -> list[tuple[str, Any]]:
    labelled = row.get("label_source") if row.get("label_source") not in ("gold", "none", None) else None
    return [
        ("verdict", f"{value}: {reason}" if reason else value), ("answer read", row.get("extracted")),
        ("verifier", row.get("verifier")), ("score", row.get("score")), ("label", labelled),
        ("votes for the label", row.get("label_support")),
    ]  # fmt: skip


def _question(row: Row) -> Question:
    facts = {name: row.get(name) or "" for name in ("domain", "level", "source", "split")}
    return question(row["id"], row["messages"], row["gold"], **facts)


def _by_sample(path: Path, columns: Sequence[str]) -> dict[str, Row]:
    """Rows of a table by the sample they are about; none where it is not there. Equal values are held once."""
    held: dict[Any, Any] = {}
    rows = {}
    for row in _rows_if_there(path, columns):
        key = row.pop("sample_key")
        rows[key] = {name: held.setdefault(value, value) for name, value in row.items()}
    return rows


# ---- a file


def of_file(path: Path) -> Source:
    """A Parquet file of traces or samples, or rows as `distill filter --traces` reads them."""
    if path.suffix == ".parquet":
        columns = _columns(path)
        if set(TRACE[:5]) <= columns:
            entries = _each(path, TRACE, _of_trace)
        elif {"key", "problem_id", "answer", "finish_reason", "text"} <= columns:
            entries = _each(path, SAMPLE, lambda row, _: _of_sample(row, None, {}, []))
        else:
            entries = _each(path, PLAIN, _of_row)
        return Source(path.name, _hash(path), _count(path), entries)
    with jsonl.open_text(path) as file:
        total = sum(1 for line in file if line.strip())

    def rows() -> Iterator[Entry]:
        for number, row in jsonl.read(path):
            yield _of_row(row, f"{path}:{number}")

    return Source(path.name, _hash(path), total, rows)


def _hash(path: Path) -> str:
    return digest([path.suffix, files.sha256_file(path)])


def _each(path: Path, columns: Sequence[str], make: Callable[[Row, str], Entry]) -> Callable[[], Iterator[Entry]]:
    def entries() -> Iterator[Entry]:
        for number, row in enumerate(_rows(path, columns), 1):
            yield make(row, f"{path}:{number}")

    return entries


def _of_trace(row: Row, _: str) -> Entry:
    facts = {name: row.get(name) or "" for name in ("domain", "level", "source")}
    facets = {"model": row.get("model_name") or "", "finish": row.get("finish_reason") or ""}
    about: list[tuple[str, Any]] = [("model", row.get("model_name"))]
    if row.get("verdict") is not None:
        facets |= {"verdict": row["verdict"], "reason": row.get("verdict_reason") or ""}
        about += _graded(row["verdict"], row.get("verdict_reason"), row)
    about += [
        ("ended by", row.get("finish_reason")), ("thinking tokens", row.get("reasoning_tokens")),
        ("origin", row.get("origin")), ("key", row["key"]),
    ]  # fmt: skip
    asked = question(row["problem_id"], row["messages"], row.get("gold"), **facts)
    return Entry(row["key"], row["problem_id"], row["reasoning"], row["answer"], "", None, facets, notes(*about), asked)


def _of_row(row: Row, where: str) -> Entry:
    """A row of anybody's file. Raises DistillError with `where` if it has no question or no answer."""
    trace = filter_file.as_trace({name: value for name, value in row.items() if value is not None}, where)
    made = vars(trace) | {"messages": [vars(message) for message in trace.messages], "origin": {}}
    made["verdict_reason"] = trace.verdict_reason or _said(row.get("reason"))
    made["extracted"] = _said(row.get("extracted"))
    raw = next((row[name] for name in filter_file.RESPONSES if isinstance(row.get(name), str)), "")
    return replace(_of_trace(made, where), raw=raw)


def _said(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


# ---- Parquet


def _columns(path: Path) -> set[str]:
    return set(_open(path).schema_arrow.names)


def _count(path: Path) -> int:
    return int(_open(path).metadata.num_rows)


def _rows_if_there(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    return _rows(path, columns) if path.exists() else iter(())


def _rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows with those of the columns that are there, with memory bounded by a batch and a row group's pages."""
    file = _open(path)
    there = [name for name in columns if name in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=there, use_threads=False):
        yield from batch.to_pylist()


def _open(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise DistillError(f"{path}: cannot be read as Parquet ({str(error).partition(chr(10))[0]})") from error
