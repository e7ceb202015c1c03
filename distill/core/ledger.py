"""The ledger: every paid answer, once, in one SQLite file a workspace.

    sample    one row an answer: key, limits, how it ended, usage; `shard` names the file with its log-probabilities
    body      its text and ids, compressed
    attempt   written before anything is sent: who asks for which key, in which state, until when; at its end, what it
              cost with all its tries, also those that failed
    worker    processes that ask; a lease of a dead one is void
    verdict   what verifiers said, by key

WAL mode, one writer thread, group commit: a kill at any moment loses at most what was in flight. Log-probabilities go
to append-only safetensors shards that are synced before the row that names them is committed. SQLite's WAL is unsafe
on network file systems: another host keeps its own ledger, and ledgers merge by key.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import queue
import socket
import sqlite3
import threading
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from distill.core import shards, tables
from distill.core.errors import DistillError
from distill.core.files import crash_point, remove_partials
from distill.core.protocols import TokenLogprobs
from distill.core.records import Sample, Sampling, Verdict
from distill.core.shards import Shard, ShardInfo, ShardRows

SCHEMA_VERSION = 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS sample (
    key TEXT NOT NULL, max_tokens INTEGER NOT NULL, problem_id TEXT NOT NULL, model_id TEXT NOT NULL,
    sample_index INTEGER NOT NULL, finish_reason TEXT NOT NULL, completion_tokens INTEGER NOT NULL,
    top_logprobs INTEGER NOT NULL, shard TEXT, about TEXT NOT NULL, created TEXT NOT NULL,
    PRIMARY KEY (key, max_tokens, top_logprobs)
) STRICT;
CREATE TABLE IF NOT EXISTS body (
    key TEXT NOT NULL, max_tokens INTEGER NOT NULL, top_logprobs INTEGER NOT NULL, content BLOB NOT NULL,
    PRIMARY KEY (key, max_tokens, top_logprobs)
) STRICT;
CREATE TABLE IF NOT EXISTS attempt (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, worker TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('planned', 'sent', 'submitted', 'done', 'failed')),
    lease_until REAL, batch TEXT, usage TEXT, error TEXT, created REAL NOT NULL, updated REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS attempt_open ON attempt (key) WHERE state IN ('planned', 'sent', 'submitted');
CREATE INDEX IF NOT EXISTS attempt_spent ON attempt (key) WHERE usage IS NOT NULL;
CREATE TABLE IF NOT EXISTS worker (
    id TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS verdict (
    key TEXT PRIMARY KEY, sample_key TEXT NOT NULL, value TEXT NOT NULL, about TEXT NOT NULL, created TEXT NOT NULL
) STRICT;
"""

LATEST_ADDITION = "attempt_spent"
"""A ledger of the same version without it gets what was added since; older versions of distill go on reading it."""

BODY_FIELDS = ("text", "reasoning", "answer", "prompt_ids", "prefill_ids", "completion_ids")
COLUMN_FIELDS = ("key", "max_tokens", "top_logprobs", "created")
COMPRESSION = 3
"""Of bodies: a level of 6 takes half as long again and saves a tenth."""
LOOKUP_CHUNK = 500
LEASE_S = 60.0
GROUP_S = 0.25
GROUP_ROWS = 512
OPEN_SHARDS = 64

IS_OPEN = "a.state IN ('planned', 'sent', 'submitted')"
SERVES = (
    "s.finish_reason <> 'error'"
    " AND CASE s.finish_reason WHEN 'length' THEN s.max_tokens >= ? ELSE s.completion_tokens <= ? END"
    " AND s.top_logprobs >= ?"
)
"""`Sample.serves`, in SQL: limit, limit, log-probabilities."""
SELECT_SAMPLE = (
    "SELECT s.about, b.content, s.key, s.max_tokens, s.top_logprobs, s.shard, s.created"
    " FROM sample s JOIN body b USING (key, max_tokens, top_logprobs)"
)
_SUMS = "{0} IS NOT NULL, SUM({1}), SUM({2}), SUM({3}), SUM({0})".format(
    *(f"json_extract(usage, '$.{name}')" for name in ("cost", "tries", "prompt_tokens", "completion_tokens"))
)
SELECT_USAGE = f"SELECT {_SUMS} FROM attempt WHERE usage IS NOT NULL AND key IN ({{}})"
"""Whether the price was known, tries, prompt tokens, completion tokens, cost."""
SELECT_OLD_USAGE = (
    "SELECT 0, COUNT(*), SUM(json_extract(s.about, '$.prompt_tokens')), SUM(s.completion_tokens), NULL"
    " FROM sample s WHERE s.key IN ({})"
    " AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.key = s.key AND a.usage IS NOT NULL)"
)
"""The same of answers that were bought before usage was kept."""

SELECT_LENGTHS = """
SELECT AVG(prompt_tokens), AVG(completion_tokens) FROM (
    SELECT problem_id, MIN(json_extract(about, '$.prompt_tokens')) AS prompt_tokens, MIN(
        CASE WHEN finish_reason = 'length' AND max_tokens < ? THEN ? ELSE MIN(completion_tokens, ?) END
    ) AS completion_tokens
    FROM sample
    WHERE model_id = ? AND finish_reason <> 'error' AND json_extract(about, '$.settings') = ?
    GROUP BY key
) GROUP BY problem_id
"""


@dataclass(frozen=True)
class Usage:
    """What tries cost: how many, their tokens, and their price in the currency of the price list (None: unknown)."""

    tries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        known = [cost for cost in (self.cost, other.cost) if cost is not None]
        return Usage(
            self.tries + other.tries,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(known) if known else None,
        )


@dataclass(frozen=True)
class Paid:
    """An answer on its way into the ledger, with its log-probabilities where they were recorded.

    `usage` is what it cost with all its tries, those that failed included.
    """

    sample: Sample
    logprobs: TokenLogprobs | None = None
    shard_info: ShardInfo | None = None
    usage: Usage | None = None


class Ledger:
    """One process's view of a workspace's ledger. Reads from any thread; all writes go through one writer thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logits_folder = path.with_name("logits")
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partials(self.logits_folder)
        self.worker = uuid.uuid4().hex[:12]
        self.group_s = GROUP_S
        """For how long answers wait for others to be committed with them."""
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._shards_written = 0
        self._open_shards: OrderedDict[str, Shard] = OrderedDict()
        self._failure: BaseException | None = None
        self._reading = threading.Lock()
        self._reader = self._connect()
        self._prepare(self._reader)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            raise DistillError(
                f"{self.path}: ledger schema {version}, this version reads {SCHEMA_VERSION}; "
                "use the distill version that wrote it, or another workspace"
            )
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if version == SCHEMA_VERSION and LATEST_ADDITION in there:
            return
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.commit()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=60.0, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            raise DistillError(f"{self.path}: cannot be used as a ledger ({error})") from error
        return connection

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # reading

    def samples(self, keys: Sequence[str]) -> dict[str, list[Sample]]:
        """Stored answers by key (a key has several when a limit was raised), largest limit first."""
        found: dict[str, list[Sample]] = {}
        query = f"{SELECT_SAMPLE} WHERE s.key IN ({{}}) ORDER BY s.key, s.max_tokens DESC, s.top_logprobs DESC"
        for row in self._select(query, keys):
            found.setdefault(row[2], []).append(_sample(row))
        return found

    def serving(self, keys: Sequence[str], max_tokens: int, top_logprobs: int = 0) -> dict[str, Sample]:
        """For each key the stored answer that serves this limit (`Sample.serves`), the one of the smallest limit."""
        query = f"{SELECT_SAMPLE} WHERE s.key IN ({{}}) AND {SERVES} ORDER BY s.max_tokens DESC, s.top_logprobs DESC"
        limits = (max_tokens, max_tokens, top_logprobs)
        return {row[2]: _sample(row) for row in self._select(query, keys, limits)}  # the last one stays

    def served(self, keys: Sequence[str], max_tokens: int, top_logprobs: int = 0) -> set[str]:
        """The keys for which `serving` has an answer, without reading it."""
        query = f"SELECT s.key FROM sample s WHERE s.key IN ({{}}) AND {SERVES}"
        return {key for (key,) in self._select(query, keys, (max_tokens, max_tokens, top_logprobs))}

    def usage(self, keys: Sequence[str], since_s: float = 0.0) -> tuple[Usage, Usage]:
        """What other workers' tries for these keys cost: those of a known price, and those without.

        Counts what ended after `since_s` (seconds since the epoch). Answers of before usage was kept count, if that is
        0, with their own tokens.
        """
        query = f"{SELECT_USAGE} AND worker <> ? AND updated > ? GROUP BY 1"
        rows = list(self._select(query, keys, (self.worker, since_s)))
        if not since_s:
            rows += self._select(f"{SELECT_OLD_USAGE} HAVING COUNT(*)", keys)
        known, unknown = Usage(cost=0.0), Usage()
        for priced, tries, prompt_tokens, completion_tokens, cost in rows:
            if priced:
                known += Usage(tries, prompt_tokens, completion_tokens, cost)
            else:
                unknown += Usage(tries, prompt_tokens, completion_tokens)
        return known, unknown

    def lengths(self, model_id: str, sampling: Sampling) -> list[tuple[float, float]]:
        """Mean prompt and completion tokens of each problem's stored answers, by this model with these settings.

        Of answers that this limit would cut, the limit counts; also of those that a lower one has cut.
        """
        settings = json.dumps(sampling.keyed(), sort_keys=True, ensure_ascii=False)  # as `tables.to_dict` writes them
        with self._reading:
            limits = (sampling.max_tokens, sampling.max_tokens, sampling.max_tokens)
            return self._reader.execute(SELECT_LENGTHS, (*limits, model_id, settings)).fetchall()

    def failed_here(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that this worker asked for in vain."""
        query = "SELECT key FROM attempt WHERE key IN ({}) AND worker = ? AND state = 'failed' AND usage IS NOT NULL"
        return {key for (key,) in self._select(query, keys, (self.worker,))}

    def logprobs(self, sample: Sample) -> TokenLogprobs:
        """Recorded log-probabilities of a stored answer. Raises DistillError if its shard is gone."""
        return self._shard(sample).rows(sample.key, sample.completion_ids or ())

    def shard_info(self, sample: Sample) -> ShardInfo:
        """What the shard that holds a stored answer's log-probabilities says of itself."""
        return self._shard(sample).info

    def _shard(self, sample: Sample) -> Shard:
        name = sample.logits
        if name is None:
            raise ValueError(f"sample {sample.key[:12]} has no recorded log-probabilities")
        if name not in self._open_shards:
            path = self.logits_folder / name
            if not path.exists():
                raise DistillError(f"{path}: missing, but the ledger names it; restore it or use a new workspace")
            self._open_shards[name] = Shard(path)
            if len(self._open_shards) > OPEN_SHARDS:
                self._open_shards.popitem(last=False)
        self._open_shards.move_to_end(name)
        return self._open_shards[name]

    def verdicts(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """Stored verdicts by their key."""
        query = "SELECT about FROM verdict WHERE key IN ({})"
        found = (tables.from_dict(json.loads(about), Verdict) for (about,) in self._select(query, keys))
        return {verdict.key: verdict for verdict in found}

    def attempts(self) -> dict[str, int]:
        """How many attempts are in each state."""
        with self._reading:
            return dict(self._reader.execute("SELECT state, COUNT(*) FROM attempt GROUP BY state").fetchall())

    def _select(self, query: str, keys: Sequence[str], more: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
        for start in range(0, len(keys), LOOKUP_CHUNK):
            chunk = keys[start : start + LOOKUP_CHUNK]
            with self._reading:
                rows = self._reader.execute(query.format(_marks(len(chunk))), (*chunk, *more)).fetchall()
            yield from rows

    # writing

    def lease(self, keys: Sequence[str], max_tokens: int | None = None, top_logprobs: int = 0) -> set[str]:
        """Take the keys that no living worker is asking for, and record the attempts before anything is sent.

        With `max_tokens`, keys whose answer for this limit has meanwhile arrived are left alone too. Returns the keys
        that are now this worker's. Leases of dead processes on this host are void at once, those of other hosts after
        `LEASE_S` seconds without renewal.
        """
        return self.lease_soon(keys, max_tokens, top_logprobs).result()

    def lease_soon(self, keys: Sequence[str], max_tokens: int | None = None, top_logprobs: int = 0) -> Future[set[str]]:
        """`lease`, without waiting for it."""

        def write(connection: sqlite3.Connection) -> set[str]:
            taken: set[str] = set()
            now_s = time.time()
            connection.execute(
                "INSERT OR IGNORE INTO worker VALUES (?, ?, ?, ?)",
                (self.worker, socket.gethostname(), os.getpid(), _process_start(os.getpid()) or 0.0),
            )
            alive = functools.cache(_alive)  # one look at each process
            for start in range(0, len(keys), LOOKUP_CHUNK):
                chunk = keys[start : start + LOOKUP_CHUNK]
                marks = _marks(len(chunk))
                held = connection.execute(
                    "SELECT a.key, a.worker, w.host, w.pid, w.started, a.lease_until FROM attempt a"
                    f" JOIN worker w ON w.id = a.worker WHERE {IS_OPEN} AND a.key IN ({marks})",
                    chunk,
                ).fetchall()
                busy = {
                    key
                    for key, worker, host, pid, started, lease_until in held
                    if worker != self.worker and alive(host, pid, started, (lease_until or 0.0) > now_s)
                }
                connection.executemany(
                    "UPDATE attempt AS a SET state = 'failed', updated = ?, error = 'taken over by ' || ?"
                    f" WHERE key = ? AND {IS_OPEN}",
                    [(now_s, self.worker, key) for key, *_ in held if key not in busy],
                )
                if max_tokens is not None:
                    query = f"SELECT s.key FROM sample s WHERE s.key IN ({marks}) AND {SERVES}"
                    limits = (max_tokens, max_tokens, top_logprobs)
                    busy |= {key for (key,) in connection.execute(query, (*chunk, *limits))}
                free = [key for key in chunk if key not in busy]
                connection.executemany(
                    "INSERT INTO attempt (key, worker, state, lease_until, created, updated)"
                    " VALUES (?, ?, 'sent', ?, ?, ?)",
                    [(key, self.worker, now_s + LEASE_S, now_s, now_s) for key in free],
                )
                taken.update(free)
            return taken

        return self._submit(_Job(write, leases=True))

    def put(self, paid: Paid) -> Future[None]:
        """Queue one answer. The future is done when it is on disk; a fault of the writer is raised on the next call."""
        return self._submit(_Job(paid=paid, urgent=False))

    def fail(self, key: str, error: str, usage: Usage | None = None) -> Future[None]:
        """Record that the open attempt at `key` failed, and what it cost all the same."""

        def write(connection: sqlite3.Connection) -> None:
            self._settle(connection, [(key, "failed", error, usage)])

        return self._submit(_Job(write, urgent=False))

    def put_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Store verdicts and wait until they are on disk."""
        rows = [(v.key, v.sample_key, v.value, json.dumps(tables.to_dict(v)), _now()) for v in verdicts]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?)", rows)

        self._submit(_Job(write)).result()

    def release(self) -> None:
        """Give back every lease that has not ended."""
        if self._thread is not None:
            self._submit(_Job(self._release)).result()

    def flush(self) -> None:
        """Wait until everything queued is on disk."""
        if self._thread is not None:
            self._submit(_Job(_nothing)).result()

    def close(self) -> None:
        """Write what is queued, end this worker's leases and the writer thread. Safe to call twice."""
        if self._thread is not None and self._thread.is_alive():
            if self._failure is None:
                self._submit(_Job(self._release)).result()
            self._queue.put(None)
            self._thread.join()
        with self._reading:
            self._reader.close()

    def _release(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE attempt AS a SET state = 'failed', updated = ?, error = 'stopped before an answer'"
            f" WHERE worker = ? AND {IS_OPEN}",
            (time.time(), self.worker),
        )

    def _submit(self, job: _Job) -> Future[Any]:
        if self._failure is not None:
            raise DistillError(f"{self.path}: the ledger could not be written ({self._failure})") from self._failure
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_loop, name="ledger-writer", daemon=True)
                self._thread.start()
        self._queue.put(job)
        return job.done

    # the writer thread

    def _write_loop(self) -> None:
        group: list[_Job] = []
        try:
            with closing(self._connect()) as connection:
                renewed_s = time.monotonic()
                ending = False
                while not ending:
                    group, ending = self._next_group()
                    if group:
                        for job, result in zip(group, self._commit(connection, group), strict=True):
                            job.done.set_result(result)
                        group = []
                    if time.monotonic() - renewed_s > LEASE_S / 4:
                        self._commit(connection, [_Job(self._renew)])
                        renewed_s = time.monotonic()
        except BaseException as error:  # handed to every caller: the thread has nobody else to tell
            self._failure = error
            for job in group:
                if not job.done.done():
                    job.done.set_exception(error)
            self._fail_waiting(error)

    def _fail_waiting(self, error: BaseException) -> None:
        while True:
            try:
                job = self._queue.get(timeout=0.1)
            except queue.Empty:
                return
            if job is not None:
                job.done.set_exception(error)

    def _next_group(self) -> tuple[list[_Job], bool]:
        """What to commit together: whatever arrives within `group_s`, cut short by a write that somebody waits for.

        Second: whether it was the last one.
        """
        group: list[_Job] = []
        deadline_s = time.monotonic() + LEASE_S / 4
        while len(group) < GROUP_ROWS:
            try:
                job = self._queue.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                return group, False
            if job is None:
                return group, True
            if not group:
                deadline_s = time.monotonic() + self.group_s
            group.append(job)
            if job.urgent:
                return group, False
        return group, False

    def _commit(self, connection: sqlite3.Connection, group: list[_Job]) -> list[Any]:
        """Write a group in one transaction; returns what each job did."""
        paid = [job.paid for job in group if job.paid is not None]
        shard_names = self._write_shards(paid)
        leases = any(job.leases for job in group)
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._insert(connection, paid, shard_names)
            results = [None if job.write is None else job.write(connection) for job in group]
            crash_point("attempt.before-commit" if leases else "ledger.before-commit")
            connection.commit()
            crash_point("attempt.after-commit" if leases else "ledger.after-commit")
        except BaseException:  # whatever happens, the group is whole or absent; raised again below
            connection.rollback()
            raise
        return results

    def _write_shards(self, paid: list[Paid]) -> dict[str, str]:
        """Write the log-probabilities of a group, one shard a kind; returns the shard name of each sample key."""
        by_info: dict[ShardInfo, list[Paid]] = {}
        for item in paid:
            if item.logprobs is not None and item.shard_info is not None:
                by_info.setdefault(item.shard_info, []).append(item)
        shard_of: dict[str, str] = {}
        for info, items in by_info.items():
            name = f"{self.worker}-{self._shards_written:06d}.safetensors"
            rows = [ShardRows(i.sample.key, i.sample.completion_ids or (), i.logprobs) for i in items if i.logprobs]
            shards.write(self.logits_folder / name, rows, info)
            crash_point("ledger.shard-written")
            self._shards_written += 1
            shard_of |= {item.sample.key: name for item in items}
        return shard_of

    def _insert(self, connection: sqlite3.Connection, paid: Sequence[Paid], shard_names: Mapping[str, str]) -> None:
        samples, bodies, ended, now = [], [], [], _now()
        for item in paid:
            sample, shard = item.sample, shard_names.get(item.sample.key)
            values = tables.to_dict(sample)
            content = {name: values.pop(name) for name in BODY_FIELDS}
            about = {name: value for name, value in values.items() if name not in COLUMN_FIELDS}
            top_logprobs = sample.top_logprobs if shard is not None else 0
            samples.append((
                sample.key, sample.max_tokens, sample.problem_id, sample.model_id, sample.index, sample.finish_reason,
                sample.completion_tokens, top_logprobs, shard, json.dumps(about, ensure_ascii=False),
                sample.created or now,
            ))  # fmt: skip
            packed = zlib.compress(json.dumps(content, ensure_ascii=False).encode(), COMPRESSION)
            bodies.append((sample.key, sample.max_tokens, top_logprobs, packed))
            ended.append((sample.key, "done", None, item.usage))
        marks = _marks(11)
        connection.executemany(f"INSERT OR IGNORE INTO sample VALUES ({marks})", samples)
        connection.executemany("INSERT OR IGNORE INTO body VALUES (?, ?, ?, ?)", bodies)
        self._settle(connection, ended)

    def _settle(
        self, connection: sqlite3.Connection, ended: Sequence[tuple[str, str, str | None, Usage | None]]
    ) -> None:
        """End this worker's open attempts: (key, state, error, usage) each."""
        now_s = time.time()
        connection.executemany(
            "UPDATE attempt AS a SET state = ?, updated = ?, error = ?, usage = ?"
            f" WHERE key = ? AND worker = ? AND {IS_OPEN}",
            [
                (state, now_s, error, None if usage is None else json.dumps(vars(usage)), key, self.worker)
                for key, state, error, usage in ended
            ],
        )

    def _renew(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            f"UPDATE attempt AS a SET lease_until = ? WHERE worker = ? AND {IS_OPEN}",
            (time.time() + LEASE_S, self.worker),
        )


@dataclass
class _Job:
    """A write in the queue: an answer, or a function of the connection."""

    write: Callable[[sqlite3.Connection], Any] | None = None
    paid: Paid | None = None
    urgent: bool = True
    """Somebody waits for it."""
    leases: bool = False
    done: Future[Any] = dataclasses.field(default_factory=Future)


def _sample(row: tuple[Any, ...]) -> Sample:
    """The record of one row of `SELECT_SAMPLE`."""
    about, content, key, max_tokens, top_logprobs, shard, created = row
    values = json.loads(about) | json.loads(zlib.decompress(content))
    values |= {"key": key, "max_tokens": max_tokens, "top_logprobs": top_logprobs, "logits": shard, "created": created}
    return tables.from_dict(values, Sample)


def _marks(n: int) -> str:
    return ",".join("?" * n)


def _nothing(connection: sqlite3.Connection) -> None:
    """A write that writes nothing: something to wait for."""


def _alive(host: str, pid: int, started: float, renewed: bool) -> bool:
    if host == socket.gethostname():
        start = _process_start(pid)
        return start is not None and abs(start - started) < 2.0  # the clock that dates both may be set meanwhile
    return renewed


def _process_start(pid: int) -> float | None:
    """When a process began (seconds since the epoch), which tells it from a later one with its number. None: gone."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.NoSuchProcess:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
