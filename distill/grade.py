"""`distill grade`: verdicts for the answers in a plain file, without an experiment."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, get_args

from pydantic import TypeAdapter, ValidationError

from distill import tabular
from distill.core import jsonl, plugins, yaml
from distill.core.errors import ConfigError
from distill.core.files import atomic
from distill.core.plugins import Choice
from distill.core.progress import Progress
from distill.core.protocols import Answer, Finding, Verifier
from distill.core.records import GRADED, VerdictValue
from distill.core.stage import Report
from distill.layouts import DIALECTS, DialectName, finish_reason
from distill.stages.verify import VerifierChoice, on_all_cores
from distill.text.think import split_think

CHUNK = 512
ADDED = ("verdict", "reason", "extracted")
"""What every row gets."""


@dataclass(frozen=True)
class Fields:
    """Which field is what; dots reach into nested objects.

    Either `response` (a whole model output, thinking and all) or `answer` (an answer already taken out), and `gold`,
    `tests` (hidden tests, as `distill.text.code_tests` has them) or both. A `gold` alone may be tests, too.
    `finish_reason` says how the response ended; what says nothing of a limit has finished. `thinker`: the model
    thinks, so that a response without an end of thinking is unfinished.
    """

    gold: str | None = None
    response: str | None = None
    answer: str | None = None
    tests: str | None = None
    finish_reason: str | None = None
    thinker: bool = False
    dialect: DialectName = "think"

    def __post_init__(self) -> None:
        if (self.response is None) == (self.answer is None):
            raise ConfigError("grade: give one of --response (a whole model output) and --answer (an extracted answer)")
        if self.gold is None and self.tests is None:
            raise ConfigError("grade: give --gold (the gold answer), --tests (hidden tests), or both")


def grade_file(path: Path, fields: Fields, *, verifier: str, out: Path, settings: Sequence[str] = ()) -> Report:
    """Add `verdict`, `reason` and `extracted` to every row of a file, in order, and write `out` whole.

    `settings` are the verifier's, as `key=value`. Files are JSON Lines (.gz and .zst too), read also from Parquet and
    CSV; Parquet is written of Parquet. Raises DistillError with file and line for a missing field or a broken row;
    `out` is then left as it was.
    """
    choice = choose(verifier, settings)
    parquet = out.suffix == ".parquet"
    if parquet and path.suffix != ".parquet":
        raise ConfigError(f"grade: {out}: Parquet is written of Parquet; name an `--out` that ends in .jsonl")
    grader: Verifier = choice.module().build(on_all_cores(choice.config))
    counts: Counter[VerdictValue] = Counter()
    reasons: Counter[tuple[VerdictValue, str]] = Counter()
    try:
        total = _count(path)
        writing = _parquet_rows(path) if parquet else _json_lines(out)
        with atomic(out) as partial, writing(partial) as write, Progress("grade", total, "rows") as bar:
            for chunk in _chunks(path):
                findings = grader.grade([_answer(row, where, fields) for where, row in chunk])
                counts.update(finding.value for finding in findings)
                reasons.update((finding.value, finding.reason) for finding in findings)
                write([row | _verdict(finding) for (_, row), finding in zip(chunk, findings, strict=True)])
                bar.advance(len(chunk))
    finally:
        grader.close()
    return _report(out, counts, reasons)


def choose(verifier: str, settings: Sequence[str] = ()) -> Choice:
    """A verifier by name, with settings as `key=value`. Raises ConfigError for a name or setting that there is not."""
    plugins.load("distill.verifiers", verifier)
    document = yaml.Document({}, {})
    for text in settings:
        document = document.merged(yaml.assignment(text))
    adapter: TypeAdapter[Choice] = TypeAdapter(VerifierChoice)
    try:
        return adapter.validate_python({"verifier": verifier, **document.data})
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"]) or verifier
        said = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise ConfigError(f"grade: --setting {key}: {said}; got {fault['input']!r}") from None


def _count(path: Path) -> int:
    if path.suffix == ".parquet" and path.is_file():
        import pyarrow.parquet as pq

        return int(pq.ParquetFile(path).metadata.num_rows)
    return sum(1 for _ in tabular.rows(str(path)))


def _chunks(path: Path) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    chunk: list[tuple[str, dict[str, Any]]] = []
    for item in tabular.rows(str(path)):
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _answer(row: dict[str, Any], where: str, fields: Fields) -> Answer:
    gold = None if fields.gold is None else _expected(row, fields.gold, where)
    tests = gold if fields.tests is None else _expected(row, fields.tests, where)
    if fields.answer is not None:
        return Answer(jsonl.text(row, fields.answer, where) or "", gold, tests=tests, extracted=True)
    text = jsonl.text(row, fields.response or "", where) or ""
    dialect = DIALECTS[fields.dialect]
    thinks = fields.thinker or bool(dialect.open and dialect.open in text)
    split = split_think(text, thinker=thinks, dialect=dialect)
    ended = None if fields.finish_reason is None else jsonl.text(row, fields.finish_reason, where)
    return Answer(split.answer, gold, tests, finish_reason(ended), split.closed, reasoning=split.reasoning)


def _expected(row: dict[str, Any], name: str, where: str) -> str | None:
    """The gold answer, or hidden tests (`distill.text.code_tests`) as text or as the object they are."""
    value = jsonl.field(row, name, where)
    if isinstance(value, dict) and "style" in value:
        return json.dumps(value)
    return jsonl.text(row, name, where)


def _verdict(finding: Finding) -> dict[str, Any]:
    return dict(zip(ADDED, (finding.value, finding.reason, finding.extracted), strict=True))


Write = Callable[[list[dict[str, Any]]], None]


def _json_lines(out: Path) -> Callable[[Path], Any]:
    @contextmanager
    def writing(partial: Path) -> Iterator[Write]:
        with _text(partial, out.suffix) as file:
            yield lambda rows: file.writelines(
                json.dumps(row, ensure_ascii=False, default=str) + "\n"  # Parquet has dates, JSON has none
                for row in rows
            )

    return writing


@contextmanager
def _text(partial: Path, suffix: str) -> Iterator[IO[str]]:
    if suffix == ".gz":
        with (
            partial.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,  # no name, no clock: same rows, same bytes
            io.TextIOWrapper(packed, encoding="utf-8") as file,
        ):
            yield file
    elif suffix == ".zst":
        import pyarrow as pa

        with (
            pa.output_stream(str(partial), compression="zstd") as packed,
            io.TextIOWrapper(packed, encoding="utf-8") as file,
        ):
            yield file
    else:
        with partial.open("w", encoding="utf-8") as file:
            yield file


def _parquet_rows(source: Path) -> Callable[[Path], Any]:
    @contextmanager
    def writing(partial: Path) -> Iterator[Write]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        there = [field for field in pq.read_schema(source) if field.name not in ADDED]
        schema = pa.schema([*there, *(pa.field(name, pa.string()) for name in ADDED)])
        with pq.ParquetWriter(partial, schema, compression="zstd") as file:
            yield lambda rows: file.write_table(pa.Table.from_pylist(rows, schema=schema))

    return writing


def _report(out: Path, counts: Counter[VerdictValue], reasons: Counter[tuple[VerdictValue, str]]) -> Report:
    values: tuple[VerdictValue, ...] = get_args(VerdictValue)
    graded = sum(counts[value] for value in GRADED)
    rate = f"; {100 * counts['correct'] / graded:.1f}% of {graded:,} graded correct" if graded else ""
    return Report(
        summary="   ".join(f"{value} {counts[value]:,}" for value in values if counts[value]) + rate,
        rows=[{"verdict": value, "reason": reason, "rows": n} for (value, reason), n in reasons.most_common()],
        data={
            "out": str(out),
            "verdicts": {value: counts[value] for value in values},
            "reasons": {f"{value}: {reason}": n for (value, reason), n in reasons.most_common()},
        },
    )
