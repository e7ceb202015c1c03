"""From requests to answers: many tries at once, retried, limited, metered, and stopped when everything fails.

An event loop in one background thread sends; a second thread pulls requests, because the iterable may wait for a disk.
A single semaphore bounds what is pulled and not yet taken by the consumer, so look-ahead, tries in flight and results
that wait are one small window, and a stop loses no more than that.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from distill.core.errors import DistillError
from distill.core.protocols import Completion, Meter, Request
from distill.core.stage import say
from distill.served.endpoints import Endpoint, Endpoints
from distill.served.faults import Fault
from distill.served.limiter import Limiter, Ticket
from distill.served.retry import Backoff

FIRST_REFUSED = 8
"""So many tries that were all refused as wrong (400, 422), with no success before, end the run."""

ALL_FAILED = 32
"""So many answers in a row that failed for good end the run."""

LONGEST_ASKED_S = 3600.0
"""A server that asks to wait longer than this ends the run: it is a daily limit, not a busy minute."""

DRAIN_S = 60.0
"""How long tries in flight, which are paid for, may still take when the run has to end."""

NAP_S = 0.5
"""How often a try that waits for its turn looks again: limits ease when others settle."""


PULL_S = 5.0
"""How long the end of a run waits for an iterable that is busy; its thread ends with the next request at the latest."""


class Sender(Protocol):
    """How one try is sent. All its methods run in the scheduler's event loop."""

    async def open(self) -> None:
        """Get ready. Raises DistillError or Fault if nothing can be sent."""

    async def close(self) -> None:
        """Free what `open` took."""

    async def check(self, request: Request) -> None:
        """Raise DistillError if the request cannot be answered whatever is tried (it does not fit the context)."""

    def worst(self, request: Request) -> tuple[int, int]:
        """(prompt, completion) tokens that one try takes at most."""

    async def send(self, request: Request, endpoint: Endpoint) -> Completion:
        """One try. Raises Fault if it failed."""


@dataclass(frozen=True)
class Rules:
    """How patient the scheduler is."""

    concurrency: int = 32
    retries: int = 8
    backoff: Backoff = field(default_factory=Backoff)


@dataclass
class _State:
    """What the tries of one run know of each other."""

    successes: int = 0
    refused_first: int = 0
    failed_in_a_row: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reserved: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class _Stopped(Exception):
    """The run is ending; this answer is given up without a word."""


class Scheduler:
    """Answers requests through a sender. One `run` at a time."""

    def __init__(
        self,
        sender: Sender,
        endpoints: Endpoints,
        limiter: Limiter,
        rules: Rules,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sender, self.endpoints, self.limiter, self.rules = sender, endpoints, limiter, rules
        self._clock = clock

    def run(
        self, requests: Iterable[Request], meter: Meter | None = None, longest: Sequence[Request] = ()
    ) -> Iterator[Completion]:
        """Yield one completion per request as it ends. Leaving early ends everything that was begun.

        `longest` are looked at before anything is sent, for requests that are not all known.

        Raises DistillError, after what could still be had, when going on would be of no use.
        """
        run = _Run(self, requests, meter, longest)
        run.start()
        try:
            yield from run.results()
        finally:
            run.end()


class _Run:
    """One run: its two threads and what they share."""

    def __init__(
        self, scheduler: Scheduler, requests: Iterable[Request], meter: Meter | None, longest: Sequence[Request]
    ) -> None:
        self.sender, self.endpoints, self.limiter = scheduler.sender, scheduler.endpoints, scheduler.limiter
        self.rules, self.meter, self._clock = scheduler.rules, meter, scheduler._clock
        self.state = _State()
        self._requests, self._longest = requests, longest
        concurrency = self.rules.concurrency
        self._places = threading.Semaphore(concurrency + max(2, concurrency // 8))
        self._out: queue.SimpleQueue[Completion | BaseException | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._serve, name="served-loop", daemon=True)
        self._puller = threading.Thread(target=self._pull, name="served-requests", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._fatal: BaseException | None = None
        self._stopping = False
        self._pulled_all = False
        self._slow_said = False

    # the consumer's thread

    def start(self) -> None:
        self._thread.start()

    def results(self) -> Iterator[Completion]:
        """Completions as they end; raises what ended the run."""
        while True:
            item = self._out.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
            self._places.release()

    def end(self) -> None:
        """Cancel what is left and wait for both threads."""
        self._ended.set()
        self._places.release()
        self._begun.wait()
        if self._main is not None:
            self._post(self._main.cancel)
        self._thread.join()
        if self._puller.ident is not None:
            self._puller.join(PULL_S)

    def _post(self, call: Callable[..., object], *arguments: object) -> None:
        """Call something in the loop's thread; nothing happens once the loop has closed."""
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop closed meanwhile: what it would have done is done
            self._loop.call_soon_threadsafe(call, *arguments)

    # the thread that pulls requests

    def _pull(self) -> None:
        error: BaseException | None = None
        try:
            requests = iter(self._requests)
            while True:
                self._places.acquire()
                if self._ended.is_set():
                    return
                request = next(requests, None)
                if request is None:
                    break
                self._post(self._begin, request)
        except BaseException as caught:  # handed to the consumer, whose iterable it is
            error = caught
        self._post(self._pulled, error)

    # the event loop's thread

    def _serve(self) -> None:
        try:
            asyncio.run(self._work())
        except asyncio.CancelledError:  # the consumer left
            pass
        except BaseException as error:  # handed to the consumer: the thread has nobody else to tell
            self._out.put(error)
        finally:
            self._begun.set()
            self._ended.set()
            self._out.put(None)

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._done = asyncio.Event()
        self._turn = asyncio.Lock()
        self._slots = asyncio.Semaphore(self.rules.concurrency)
        self._begun.set()
        try:
            try:
                await self.sender.open()
            except Fault as fault:
                raise DistillError(str(fault)) from fault
            # Where all are known all are checked before one is sent, else those that are the first to be too long.
            for request in self._requests if isinstance(self._requests, Sequence) else self._longest:
                await self.sender.check(request)
            self._puller.start()
            await self._done.wait()
            if self._stopping and self._sending:
                await asyncio.wait(set(self._sending), timeout=DRAIN_S)
        finally:
            self._stopping = True
            left = set(self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self.sender.close()
        if self._fatal is not None:
            self._out.put(self._fatal)

    def _pulled(self, error: BaseException | None) -> None:
        """There are no more requests. What failed the iterable is raised once everything begun has ended."""
        self._pulled_all = True
        if error is not None:
            self._fatal = self._fatal or error
        self._finish_if_idle()

    def _begin(self, request: Request) -> None:
        if self._stopping:
            return
        assert self._loop is not None
        task = self._loop.create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)
        self._finish_if_idle()

    def _finish_if_idle(self) -> None:
        if (self._pulled_all or self._stopping) and not self._tasks:
            self._done.set()

    def _stop(self, error: BaseException) -> None:
        """Send nothing more. What is being answered may end; what only waits is given up."""
        if self._stopping:
            return
        self._stopping = True
        self._fatal = error
        for task in self._tasks - self._sending:
            task.cancel()
        self._done.set()

    async def _answer(self, request: Request) -> None:
        try:
            completion = await self._tries(request)
        except _Stopped:
            return
        self._out.put(completion)

    async def _tries(self, request: Request) -> Completion:
        if not isinstance(self._requests, Sequence):
            await self.sender.check(request)
        state = self.state
        failures = counted = 0
        while True:
            seen = state.successes
            try:
                completion = await self._try(request)
            except Fault as fault:
                failures += 1
                # a server that is only busy, and answers others meanwhile, is asked for as long as it says
                counted += fault.retry_after_s is None or state.successes == seen
                if self.meter is not None:
                    self.meter.failed(fault.kind)
                wait_s = self._after(fault, counted, state.successes == seen)
                if wait_s is None:
                    return self._failed(request, fault)
                await asyncio.sleep(wait_s)
                continue
            if completion is None:
                return _error(request, "the budget is spent", "budget")
            if completion.failure:
                if self.meter is not None:
                    self.meter.failed(completion.failure)
                self._count_failure(completion.failure, completion.error or "")
            else:
                state.successes += 1
                state.failed_in_a_row = 0
                state.kinds.clear()
            return completion

    def _after(self, fault: Fault, failures: int, alone: bool) -> float | None:
        """Seconds until the next try, None if there is none. Stops the run where every other try would fail as well.

        `alone`: nothing was answered since this try began.
        """
        if self._stopping:
            raise _Stopped
        if fault.ends_run:
            raise self._end(fault, "")
        if not fault.again:
            self.state.refused_first += 1
            if self.state.successes == 0 and self.state.refused_first >= FIRST_REFUSED:
                raise self._end(fault, f"the first {self.state.refused_first} tries were all refused: ")
            return None
        if fault.retry_after_s is not None and fault.retry_after_s > LONGEST_ASKED_S:
            raise self._end(fault, f"asks to wait {fault.retry_after_s:,.0f} s, run again then: ")
        if failures > self.rules.retries:
            if fault.unreachable and alone:
                raise self._end(fault, f"{failures} tries and no endpoint was there: ")
            return None
        # what the server asked for is how long its endpoint rests; the jitter keeps those that waited apart
        return self.endpoints.wait_s() + self.rules.backoff.wait_s(max(1, failures))

    def _end(self, fault: Fault, what: str) -> _Stopped:
        """Stop the run with the fault's own words."""
        self._stop(DistillError(f"{fault.where}: {what}{fault}"))
        return _Stopped()

    def _failed(self, request: Request, fault: Fault) -> Completion:
        self._count_failure(fault.kind, str(fault))
        return _error(request, str(fault), fault.kind)

    def _count_failure(self, kind: str, text: str) -> None:
        state = self.state
        state.failed_in_a_row += 1
        state.kinds[kind] += 1
        if state.failed_in_a_row >= ALL_FAILED:
            kinds = ", ".join(f"{kind} {count}" for kind, count in state.kinds.most_common(3))
            self._stop(
                DistillError(f"{state.failed_in_a_row} answers in a row failed for good ({kinds}); the last: {text}")
            )

    async def _try(self, request: Request) -> Completion | None:
        """One try with all that surrounds it; None: the budget has no room for it. Raises Fault."""
        prompt, completion = worst = self.sender.worst(request)
        if not await self._reserve(request.key, worst):
            return None
        spent = (0, 0)
        ticket = endpoint = None
        task = asyncio.current_task()
        assert task is not None
        try:
            async with self._slots:
                ticket, endpoint = await self._admit(prompt + completion)
                spent = worst  # from here on nobody knows, until the reply says
                self._sending.add(task)
                endpoint.in_flight += 1
                started_s = self._clock()
                try:
                    got = await self.sender.send(request, endpoint)
                except Fault as fault:
                    fault.where = endpoint.url
                    spent = self._price(fault, worst)
                    self._note(fault, endpoint)
                    raise
                finally:
                    endpoint.in_flight -= 1
                    if not self._stopping:
                        self._sending.discard(task)
                spent = (got.prompt_tokens, got.completion_tokens)
                self.endpoints.succeeded(endpoint)
                return replace(got, latency_s=self._clock() - started_s)
        finally:
            if ticket is not None:
                self.limiter.settle(ticket, sum(spent))
            self._settle(request.key, spent)

    @staticmethod
    def _price(fault: Fault, worst: tuple[int, int]) -> tuple[int, int]:
        if fault.bill == "nothing":
            return (0, 0)
        return fault.usage or worst

    def _note(self, fault: Fault, endpoint: Endpoint) -> None:
        if fault.at_endpoint:
            self.endpoints.failed(endpoint)
        if fault.retry_after_s is not None:
            self.endpoints.rest(endpoint, min(fault.retry_after_s, LONGEST_ASKED_S))
            if fault.retry_after_s >= 60 and not self._slow_said:
                self._slow_said = True
                say(f"{endpoint.url} asks to wait {fault.retry_after_s:,.0f} s")

    async def _admit(self, tokens: int) -> tuple[Ticket, Endpoint]:
        """Wait for an endpoint that may be asked and room in the limits, first come first served."""
        async with self._turn:
            while True:
                wait_s = max(self.endpoints.wait_s(), self.limiter.wait_s(tokens))
                if wait_s <= 0 and (ticket := self.limiter.take(tokens)) is not None:
                    return ticket, self.endpoints.pick()
                await asyncio.sleep(min(max(wait_s, 0.001), NAP_S))

    async def _reserve(self, key: str, worst: tuple[int, int]) -> bool:
        """Set the worst case aside; wait while others may still settle for less than theirs."""
        if self.meter is None:
            return True
        state = self.state
        first = True
        while True:
            mine = not (first and state.waiting and state.reserved)  # nobody overtakes those that wait already
            if mine and self.meter.reserve(key, *worst):
                state.reserved += 1
                self._wake()
                return True
            if state.reserved == 0:
                self._wake()
                return False
            assert self._loop is not None
            turn: asyncio.Future[None] = self._loop.create_future()
            state.waiting.append(turn) if first else state.waiting.appendleft(turn)
            first = False
            try:
                await turn
            except asyncio.CancelledError:
                if turn in state.waiting:
                    state.waiting.remove(turn)
                else:
                    self._wake()
                raise

    def _wake(self) -> None:
        """Let the one that has waited longest for the budget look again."""
        while self.state.waiting:
            turn = self.state.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _settle(self, key: str, spent: tuple[int, int]) -> None:
        if self.meter is not None:
            self.meter.settle(key, *spent)
            self.state.reserved -= 1
            self._wake()


def _error(request: Request, text: str, kind: str) -> Completion:
    return Completion(request.key, "", "error", None, None, None, 0, 0, False, error=text, failure=kind)
