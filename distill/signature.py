"""`distill signature`: a benchmark's questions as hashes, for the `contamination` filter."""

from __future__ import annotations

from pathlib import Path

from distill import tabular
from distill.core import jsonl
from distill.core.errors import DistillError
from distill.core.stage import Report
from distill.text import contamination


def sign_file(path: Path, *, field: str, name: str, out: Path) -> Report:
    """Write the signature of the questions in `field` of a file (.jsonl, .csv or .parquet; .gz and .zst too).

    Dots reach into objects. Raises DistillError with file and row for one without the field; nothing is written then.
    """
    questions = []
    for where, row in tabular.rows(str(path)):
        text = jsonl.text(row, field, where)
        if not (text or "").strip():
            raise DistillError(f"{where}: `{field}` is empty; a benchmark's question is wanted in every row")
        questions.append(text or "")
    signature = contamination.build(name, questions)
    contamination.write(out, signature)
    skipped = f", {signature.skipped:,} without a word left out" if signature.skipped else ""
    return Report(
        summary=f"{len(signature.items):,} questions of {name}{skipped}",
        rows=[{"benchmark": name, "questions": len(signature.items), "without a word": signature.skipped}],
        data={"name": name, "questions": len(signature.items), "skipped": signature.skipped, "out": str(out)},
    )
