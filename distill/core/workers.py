"""A pool of killable worker processes: whatever an item does, it ends within its limits and the next one is answered.

A worker is a fresh interpreter that imports one function, then forks a child that answers JSON lines with JSON lines;
when an item kills the child, the next one is forked, in milliseconds, from what is already imported. A child has a
limit on CPU seconds an item (by a timer whose default action kills the process, so that a long C call ends too), on
address space, on file size (none may be written) and on the length of its answer; its stdout leads nowhere, and of the
environment it sees only where programs are: no API keys. A worker that dies itself is replaced; nothing here touches
the caller's signals or timers. Workers start with the first item, never before. POSIX only.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MAX_ANSWER_BYTES = 1 << 20
"""A longer answer of a worker is not read."""
INHERITED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
"""What a worker sees of the environment: no keys, no proxies, no home."""
START_S = 120.0
"""A worker that has not imported its function after this long will not."""


@dataclass(frozen=True)
class Limits:
    """What one item may use. `wall_s` is the backstop for one that sleeps; CPU time does not depend on the load."""

    cpu_s: float = 5.0
    wall_s: float = 120.0
    memory_mib: int = 1024


@dataclass(frozen=True)
class Outcome:
    """What the function returned, or why it did not."""

    value: Any = None
    failure: str | None = None


class Workers:
    """`count` processes that apply `function` ("module:name", JSON in, JSON out) to items, each within `limits`."""

    def __init__(self, function: str, *, count: int = 2, limits: Limits | None = None) -> None:
        self.function, self.count, self.limits = function, count, limits or Limits()
        self._workers: list[_Worker] = []
        atexit.register(self.close)

    @property
    def alive(self) -> int:
        """How many workers are running now."""
        return sum(worker.process.poll() is None for worker in self._workers)

    def map(self, items: Sequence[Any], done: Callable[[], None] | None = None) -> list[Outcome]:
        """One outcome per item, in order. `done` is called after each, for a progress bar.

        An item whose worker dies for no reason of ours (killed from outside, a crash) is tried once more.
        Raises RuntimeError if a worker cannot start at all: a fault of the installation, not of an item.
        """
        outcomes: list[Outcome | None] = [None] * len(items)
        todo = deque(range(len(items)))
        retried: set[int] = set()
        try:
            self._fill(min(self.count, len(items)))
            while todo or any(worker.item is not None for worker in self._workers):
                for worker in self._workers:
                    if worker.item is None and todo:
                        worker.send(todo[0], items[todo.popleft()])
                for worker in self._wait():
                    index, outcome = worker.item, worker.result(self.limits)
                    if outcome is None or index is None:
                        continue
                    worker.item = None
                    if worker.dead:
                        worker.kill()
                        self._workers.remove(worker)
                        self._fill(min(self.count, len(items)))
                    if worker.crashed and index not in retried:
                        retried.add(index)
                        todo.appendleft(index)
                        continue
                    outcomes[index] = outcome
                    if done is not None:
                        done()
        except BaseException:  # Ctrl-C too: no worker outlives its caller; raised again below
            self.close()  # what is in flight belongs to items that nobody waits for any more
            raise
        return [outcome or Outcome(failure="was not answered") for outcome in outcomes]

    def close(self) -> None:
        """End all workers. Safe to call twice; the pool starts again with the next item."""
        while self._workers:
            self._workers.pop().kill()

    def _fill(self, count: int) -> None:
        self._workers += [_Worker(self.function, self.limits) for _ in range(count - len(self._workers))]

    def _wait(self) -> list[_Worker]:
        """The workers that have something to say or have run out of wall time."""
        busy = [worker for worker in self._workers if worker.item is not None]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.output, selectors.EVENT_READ, worker)
            soonest = min(worker.deadline for worker in busy)
            ready = [key.data for key, _ in selector.select(max(0.0, soonest - time.monotonic()))]
        late = [worker for worker in busy if worker not in ready and time.monotonic() >= worker.deadline]
        for worker in late:
            worker.late = True
            worker.kill()
        return [*ready, *late]


def _environment(paths: list[str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class _Worker:
    """One process and the item it works on."""

    def __init__(self, function: str, limits: Limits) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.process = subprocess.Popen(
            [sys.executable, "-B", "-P", "-c", "from distill.core.workers import serve; serve()", function,
             str(limits.cpu_s), str(limits.memory_mib)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=_environment(paths), start_new_session=True,
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.input: IO[bytes] = self.process.stdin
        self.output: IO[bytes] = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self.wall_s = limits.wall_s
        self.item: int | None = None
        self.ready = self.dead = self.crashed = self.late = False
        self.deadline = 0.0
        self._heard = b""

    def send(self, index: int, item: Any) -> None:
        self.item, self.crashed = index, False
        self.deadline = time.monotonic() + (self.wall_s if self.ready else START_S)
        with contextlib.suppress(BrokenPipeError):  # it died while idle: its output ends, which `result` sees
            self.input.write(json.dumps(item).encode() + b"\n")
            self.input.flush()

    def result(self, limits: Limits) -> Outcome | None:
        """What became of the item; None while the worker has not finished its line."""
        chunk: bytes | None = b"" if self.late else self.output.read()  # None: nothing there yet
        if chunk:
            self._heard += chunk
            if len(self._heard) > MAX_ANSWER_BYTES:
                self.dead = True
                return Outcome(failure=f"answered with over {MAX_ANSWER_BYTES:,} bytes")
            while b"\n" in self._heard:
                line, _, self._heard = self._heard.partition(b"\n")
                message = json.loads(line)
                if "ready" in message:
                    self.ready, self.deadline = True, time.monotonic() + limits.wall_s
                    continue
                if "cannot" in message:
                    raise RuntimeError(f"a worker cannot run {message['function']}: {message['cannot']}")
                if "died" in message:
                    return self._died(message["died"], limits)
                return Outcome(message.get("value"), message.get("failure"))
            return None
        if chunk is None:
            return None
        self.dead = True
        code = self.process.wait()
        if not self.ready and not self.late:
            raise RuntimeError(f"a worker ended before it was ready (exit status {code})")
        if self.late:
            return Outcome(failure=f"gave no answer within {limits.wall_s:g} s")
        return self._died(code, limits)

    def _died(self, code: int, limits: Limits) -> Outcome:
        if code == -signal.SIGPROF:
            return Outcome(failure=f"took over {limits.cpu_s:g} s of CPU time")
        self.crashed = True
        return Outcome(failure=f"killed its worker (exit status {code})")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # the whole session: the worker and its child
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.input, self.output):
            with contextlib.suppress(BrokenPipeError):  # bytes that it never read
                pipe.close()


def serve() -> None:
    """The worker's side: import the function, then answer one JSON line per JSON line until stdin ends."""
    function, cpu_s, memory_mib = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)

    def say(**message: Any) -> None:
        output.write(json.dumps(message).encode() + b"\n")

    module, _, name = function.partition(":")
    try:
        call = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever keeps it from importing is the caller's to show
        say(cannot=f"{type(error).__name__}: {error}", function=function)
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    say(ready=True)
    while True:
        child = os.fork()
        if child == 0:
            _answer_items(call, say, cpu_s, memory_mib)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:  # stdin has ended
            return
        if code != _EXHAUSTED:
            say(died=code)


_EXHAUSTED = 99
"""Exit status of a child that ran out of memory, and has said so: it may not be sound any more."""


def _answer_items(call: Callable[[Any], Any], say: Callable[..., None], cpu_s: float, memory_mib: int) -> None:
    """The child's side: one answer per line, within the limits."""
    with contextlib.suppress(ValueError):  # macOS knows this limit and refuses it; CPU and wall limits remain
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)  # SIGPROF is not handled: the kernel ends the process
        try:
            value = call(json.loads(line))
        except MemoryError:
            say(failure=f"needed over {memory_mib} MiB of memory")
            os._exit(_EXHAUSTED)
        except Exception as error:  # the item's own fault is its outcome; the worker goes on
            message: dict[str, Any] = {"failure": f"raised {type(error).__name__}"}
        else:
            message = {"value": value}
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        say(**message)
