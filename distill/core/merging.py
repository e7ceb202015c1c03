"""Ledgers as wholes: what one holds, and taking another's answers in, by key.

WAL is unsafe on network file systems, so each host keeps a ledger of its own; this is how they meet.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError
from distill.core.files import atomic
from distill.core.ledger import SCHEMA_VERSION, Ledger
from distill.core.stage import Report


@dataclass(frozen=True)
class Merged:
    """What was taken in; what was there already is counted, and left as it was."""

    answers: int
    already: int
    verdicts: int
    shards: int


def merge(into: Path, source: Path) -> Merged:
    """Take the answers, verdicts, costs and log-probabilities of the ledger `source` into the ledger `into`.

    An answer that both have stays as it is in `into`; what both paid for it counts. Doing it twice changes nothing.
    Raises DistillError if `source` is no ledger, or a shard that it names is missing; nothing is taken in then.
    """
    _check(source)
    if into.exists() and into.samefile(source):
        raise DistillError(f"{source}: a ledger cannot be merged into itself")
    with Ledger(into) as ledger, closing(sqlite3.connect(into, timeout=60.0)) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("ATTACH DATABASE ? AS other", (str(source),))
        copied = 0
        for (name,) in connection.execute(NEW_SHARDS).fetchall():
            copied += _copy(source.with_name("logits") / name, ledger.logits_folder / name)
        with connection:  # one transaction: all of it or nothing
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT OR IGNORE INTO main.worker SELECT * FROM other.worker")
            answers = connection.execute("INSERT OR IGNORE INTO main.sample SELECT * FROM other.sample").rowcount
            connection.execute("INSERT OR IGNORE INTO main.body SELECT * FROM other.body")
            connection.execute(NEW_ATTEMPTS)
            verdicts = connection.execute("INSERT OR IGNORE INTO main.verdict SELECT * FROM other.verdict").rowcount
            (total,) = connection.execute("SELECT COUNT(*) FROM other.sample").fetchone()
    return Merged(answers, total - answers, verdicts, copied)


NEW_SHARDS = """
SELECT DISTINCT o.shard FROM other.sample o WHERE o.shard IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM main.sample s
    WHERE s.key = o.key AND s.max_tokens = o.max_tokens AND s.top_logprobs = o.top_logprobs
)
"""
NEW_ATTEMPTS = """
INSERT INTO main.attempt (key, worker, state, batch, usage, error, created, updated)
SELECT key, worker, state, batch, usage, error, created, updated FROM other.attempt o
WHERE o.usage IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM main.attempt a
    WHERE a.usage IS NOT NULL AND a.key = o.key AND a.worker = o.worker AND a.created = o.created
)
"""
"""Those that cost something; an attempt is known by its worker and its time."""


def report(path: Path) -> Report:
    """What a ledger holds of each model, and what all its attempts cost (None where no price was known)."""
    rows, attempts = _rows(path, MODELS), _rows(path, ATTEMPTS)
    costs = [row["cost"] for row in attempts if row["cost"] is not None]
    tokens = sum(row["tokens"] for row in attempts)
    states = ", ".join(f"{row['attempts']:,} {row['state']}" for row in attempts) or "none"
    spent = f"{tokens:,} tokens read and written" + (f", cost {sum(costs):,.2f}" if costs else "")
    return Report(
        summary=f"{sum(row['answers'] for row in rows):,} answers; attempts: {states}; {spent}",
        rows=rows,
        data={"models": rows, "attempts": attempts},
    )


MODELS = """
SELECT MIN(json_extract(about, '$.model_name')) AS model, COUNT(*) AS answers,
    COUNT(DISTINCT problem_id) AS problems, SUM(finish_reason = 'length') AS cut, SUM(completion_tokens) AS tokens,
    SUM(shard IS NOT NULL) AS "with log-probabilities"
FROM sample GROUP BY model_id ORDER BY answers DESC
"""
ATTEMPTS = """
SELECT state, COUNT(*) AS attempts, COALESCE(SUM(json_extract(usage, '$.tries')), 0) AS tries,
    COALESCE(SUM(json_extract(usage, '$.prompt_tokens') + json_extract(usage, '$.completion_tokens')), 0) AS tokens,
    SUM(json_extract(usage, '$.cost')) AS cost
FROM attempt GROUP BY state ORDER BY state
"""


def _rows(path: Path, query: str) -> list[dict[str, Any]]:
    _check(path)
    with closing(sqlite3.connect(path, timeout=60.0)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def _check(path: Path) -> None:
    if not path.is_file():
        raise DistillError(f"{path}: no such ledger; `distill sample` makes one")
    try:
        with closing(sqlite3.connect(path, timeout=60.0)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise DistillError(f"{path}: cannot be used as a ledger ({error})") from error
    if version != SCHEMA_VERSION:
        raise DistillError(f"{path}: ledger schema {version}, this version reads {SCHEMA_VERSION}")


def _copy(shard: Path, to: Path) -> bool:
    """Copy one shard, whole or not at all; False if it is there (no two have the same name)."""
    if to.exists():
        return False
    if not shard.exists():
        raise DistillError(f"{shard}: missing, but the ledger names it; restore it, nothing was merged")
    with atomic(to) as partial:
        shutil.copyfile(shard, partial)
    return True
