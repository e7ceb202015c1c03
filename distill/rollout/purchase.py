"""Buy what the ledger lacks: requests are leased as they are handed out, answers are kept as they arrive.

The engine pulls requests from a generator, which looks up and leases a short way ahead, so that several processes share
the work and a kill leaves little behind. Where another living process holds a key, all is looked through again at the
end, until its answer is there or its holder is gone.
"""

from __future__ import annotations

import heapq
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain

from distill.core.errors import DistillError
from distill.core.ledger import Ledger, Paid, Usage
from distill.core.protocols import Completion, Engine, Longest, Metered, Request
from distill.core.records import Sample, Sampling
from distill.core.stage import Workspace, say
from distill.rollout.answers import as_sample, shard_info
from distill.rollout.asks import Ask, Plan, Teacher, Wanted, chunks
from distill.rollout.display import Display, State
from distill.rollout.meter import Account, Budget

LOOK_UP = 2_000
"""Keys looked up at a time."""
LOOK_AHEAD = 128
"""Keys leased at a time; one lease is under way while those of another are handed out."""
PAID_GROUP_S = 0.05
"""For how long an answer of an engine with a `window` waits to be committed: until then it holds a place there."""
STOP_S = 0.1
"""How soon a wait for such a place notices that the run has ended."""
POLL_S = 1.0
"""Between two looks at what another process holds."""
HOPELESS = 8
"""So many failures without one answer are a fault of the teacher, also where older answers are there."""
CHECKED_FIRST = 8
"""Prompts that are checked against a server's context before anything is bought."""
TEMPLATE_TOKENS = 256
"""The most that a chat template adds to a prompt, beside its messages."""


@dataclass(frozen=True)
class Filled:
    """What `fill` did. Whatever is neither had nor bought is owed: it failed, or the budget ended."""

    wanted: int
    had: int
    """Answers that were there, or that another process bought meanwhile."""
    bought: int
    failed: Counter[str]
    """Answers that failed for good, by kind."""
    first_error: str | None
    tokens: int
    """Tokens that these answers cost, whenever they were bought, failed tries included."""
    cost: float | None
    """The same in money; None where the price is unknown."""
    spent_out: bool
    """The budget ended before everything was bought."""


def fill(
    asks: Iterable[Ask],
    sampling: Sampling,
    teacher: Teacher,
    workspace: Workspace,
    *,
    label: str,
    budget: Budget | None = None,
    display: Display | None = None,
    on_failure: Callable[[Sample], None] | None = None,
) -> Filled:
    """Buy the answers that are wanted and not in the ledger.

    What the ledger holds is not drawn again; the engine is built only if something is missing. Answers go to the ledger
    as they arrive, so that a stop at any moment costs only those in flight: an engine that has a `window` (how many
    requests it works at) is given no more than so many whose answers are not on disk. An answer that failed is counted
    (and handed to `on_failure`, a sample with `finish_reason="error"`) and is owed: the next call asks for it again.

    Raises DistillError if every answer failed, and for a budget in money without a price.
    """
    account = Account(budget, teacher.prices)
    plan = Plan(asks, sampling, teacher.identity)
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger(workspace.ledger))
        purchase = _Purchase(plan, teacher, ledger, account, label, on_failure)
        stack.callback(purchase.close)
        shown = display or stack.enter_context(Display(label))
        purchase.run(shown)
        ledger.flush()
        return purchase.filled()


class _Purchase:
    """One call of `fill`."""

    def __init__(
        self,
        plan: Plan,
        teacher: Teacher,
        ledger: Ledger,
        account: Account,
        label: str,
        on_failure: Callable[[Sample], None] | None,
    ) -> None:
        self.plan, self.teacher, self.ledger, self.account, self.label = plan, teacher, ledger, account, label
        self.on_failure = on_failure
        self.engine: Engine | None = None
        self.metered = False
        self.stored = self.bought = self.held = 0
        self.failed: Counter[str] = Counter()
        self.first_error: str | None = None
        self.spent_out = False
        self.passes = 0
        self.scanned_s = 0.0  # seconds since the epoch
        self.asked: dict[str, Wanted] = {}  # handed out and not ended
        self.room: threading.Semaphore | None = None  # for what is handed out and not on disk
        self.stopped = False
        self.left = array("l", (len(ask.indices) for ask in plan.asks))  # answers that each ask still lacks

    def run(self, display: Display) -> None:
        """Pass over all that is wanted until nothing is missing that could be had."""
        while True:
            began_s = time.monotonic()
            self._scan()
            display.follow(self.state)
            if self.passes == 1 and self.stored > 0:
                say(f"{self.label:<9} {self.stored:,} of {self.plan.total:,} answers are in the ledger already")
            if self.stored + self.bought == self.plan.total:
                break
            pause_s = max(POLL_S, 3 * (time.monotonic() - began_s))
            self.held, before, self.spent_out = 0, self.bought, False
            self._buy()
            if not self.held or (self.spent_out and self.bought == before):
                break
            self.ledger.release()  # what was leased ahead, and is not handed out
            time.sleep(pause_s)
        if self.failed and not self.bought and (not self.stored or self.failed.total() >= HOPELESS):
            raise DistillError(f"{self.label}: every answer failed; the first says: {self.first_error}")

    def close(self) -> None:
        """Free the engine, and keep what was spent on answers that did not come."""
        if self.engine is not None:
            self.teacher.release(self.engine)
        for key in self.asked:
            usage = self.account.ended(key)
            if usage.tries:
                self.ledger.fail(key, "stopped before an answer", usage)

    def filled(self) -> Filled:
        """What was done."""
        spent = self.account.spent
        return Filled(
            wanted=self.plan.total,
            had=self.stored,
            bought=self.bought,
            failed=self.failed,
            first_error=self.first_error,
            tokens=spent.tokens,
            cost=None if self.account.prices is None else spent.cost,
            spent_out=self.spent_out,
        )

    def state(self) -> State:
        """Where things stand, for the display."""
        return State(
            done=self.stored + self.bought,
            wanted=self.plan.total,
            problems_done=self.left.count(0),
            problems=len(self.left),
            bought=self.bought,
            bought_tokens=self.account.bought.completion_tokens,
            spent=self.account.spent,
            budget=self.account.budget,
            errors=self.account.failures,
            in_flight=self.account.in_flight,
        )

    # what is missing

    def _scan(self) -> None:
        """Count what is there, and what it cost."""
        self.ledger.flush()
        self.passes += 1
        self.scanned_s = time.time()
        self.stored = -self.bought
        for place, ask in enumerate(self.plan.asks):
            self.left[place] = len(ask.indices)
        for number, chunk in enumerate(chunks(self.plan.in_order(), LOOK_UP)):
            for wanted in self._stored(chunk):
                self.stored += 1
                self.left[wanted.place] -= 1
            self.account.count_before(*self.ledger.usage([wanted.key for wanted in chunk]), more=number > 0)

    def _stored(self, chunk: list[Wanted]) -> list[Wanted]:
        found = []
        for top_logprobs, part in self.plan.by_logprobs(chunk):
            keys = [wanted.key for wanted in part]
            there = self.ledger.served(keys, self.plan.sampling.max_tokens, top_logprobs)
            found += [wanted for wanted in part if wanted.key in there]
        return found

    def _missing(self) -> Iterator[tuple[int, list[Wanted]]]:
        """What is not there, to be leased together: how many log-probabilities a token, and which answers."""
        for chunk in chunks(self.plan.breadth_first(), LOOK_UP):
            keys = [wanted.key for wanted in chunk]
            if self.account.limited:
                self.account.count_before(*self.ledger.usage(keys, since_s=self.scanned_s), more=True)
            gone = {wanted.key for wanted in self._stored(chunk)}
            if self.passes > 1:
                gone |= self.ledger.failed_here(keys)
            absent = [wanted for wanted in chunk if wanted.key not in gone]
            missing = {wanted.key: wanted for wanted in absent}
            self.held += len(absent) - len(missing)  # the same question twice: its answer is there the next time
            for top_logprobs, part in self.plan.by_logprobs(list(missing.values())):
                for few in chunks(part, LOOK_AHEAD):
                    yield top_logprobs, few

    def _requests(self) -> Iterator[Request]:
        """Requests for what is missing and free, leased before they are handed out. Counts what others hold.

        Pulled by the engine, perhaps in a thread of its own.
        """
        leases: deque[tuple[list[Wanted], Future[set[str]]]] = deque()
        for top_logprobs, few in self._missing():
            if self.spent_out:
                return
            keys = [wanted.key for wanted in few if wanted.key not in self.asked]
            leases.append((few, self.ledger.lease_soon(keys, self.plan.sampling.max_tokens, top_logprobs)))
            if len(leases) > 1:
                yield from self._leased(*leases.popleft())
        while leases:
            yield from self._leased(*leases.popleft())

    def _leased(self, few: list[Wanted], lease: Future[set[str]]) -> Iterator[Request]:
        taken = lease.result()
        self.held += len(few) - len(taken)
        for wanted in few:
            if wanted.key not in taken and self.account.limited:  # as if it cost the most: known at the next pass
                request = self._request(wanted)
                worst = Usage(0, longest_prompt(request), request.sampling.max_tokens)
                self.account.count_before(Usage(cost=0.0), worst, more=True)
            if wanted.key in taken and not self.spent_out:
                if not self._has_room():
                    return
                self.asked[wanted.key] = wanted
                yield self._request(wanted)

    def _request(self, wanted: Wanted) -> Request:
        ask = self.plan.asks[wanted.place]
        prefix_ids = () if ask.prefix is None else ask.prefix.ids
        return Request(wanted.key, ask.problem.messages, self.plan.sampling_of(ask), prefix_ids)

    def _has_room(self) -> bool:
        """Wait until what is handed out and not on disk is less than the engine's window; False: the run has ended.

        A kill loses what is not on disk, so that it loses no more than the engine works at.
        """
        while self.room is not None and not self.room.acquire(timeout=STOP_S):
            if self.stopped:
                return False
        return True

    def _on_disk(self, _: Future[None]) -> None:
        if self.room is not None:
            self.room.release()

    # buying it

    def _buy(self) -> None:
        requests = self._requests()
        first = next(requests, None)
        if first is None:  # all of it is held by others
            return
        engine = self.engine = self.engine or self.teacher.build()
        requests = chain([first], requests)
        self.metered = isinstance(engine, Metered)
        places: int | None = getattr(engine, "window", None)
        if places is not None and self.room is None:
            self.room = threading.Semaphore(places - 1)  # the first has its place
            self.ledger.group_s = PAID_GROUP_S
        if isinstance(engine, Longest):
            engine.longest = self._longest()
        if isinstance(engine, Metered):
            engine.meter = self.account
            self._draw(engine, requests)
        elif self.account.limited:
            for window in self._windows(requests):
                self._draw(engine, window, {request.key for request in window})
        else:
            self._draw(engine, requests)

    def _longest(self) -> list[Request]:
        """The longest prompts of all that is wanted, by their bytes: if these fit the context, all do, very nearly."""
        asks = heapq.nlargest(CHECKED_FIRST, range(len(self.plan.asks)), key=lambda at: _bytes(self.plan.asks[at]))
        return [
            self._request(Wanted(self.plan.key(at, self.plan.asks[at].indices[0]), at, self.plan.asks[at].indices[0]))
            for at in asks
            if self.plan.asks[at].indices
        ]

    def _windows(self, requests: Iterator[Request]) -> Iterator[list[Request]]:
        """Requests in lists whose worst case fits the budget: for engines that ask no meter."""
        carried: list[Request] = []
        while True:
            window: list[Request] = []
            pending, carried = chain(carried, requests), []
            for request in pending:
                if not self.account.reserve(request.key, longest_prompt(request), request.sampling.max_tokens):
                    carried = [request]
                    break
                window.append(request)
            if not window:
                self.spent_out = bool(carried)
                return
            yield window

    def _draw(self, engine: Engine, requests: Iterable[Request], window: Collection[str] | None = None) -> None:
        """Let the engine answer; `window` names the keys it is given, None for all that is handed out."""
        completions = engine.generate(requests)
        try:
            for completion in completions:
                wanted = self.asked.pop(completion.key, None)
                if wanted is None:
                    raise ValueError(f"engine {engine.name} answered {completion.key[:12]} twice, or unasked")
                self._take(engine, wanted, completion)
        except BaseException:  # whatever it was, nothing more is handed out; raised again
            self.stopped = True
            raise
        finally:
            if isinstance(completions, Generator):  # stopped, perhaps: what is under way is ended, and settled
                completions.close()
        for key in [key for key in self.asked if window is None or key in window]:
            unanswered = Completion(key, "", "error", None, None, None, 0, 0, False)
            why = "the engine ended without an answer"
            self._take(engine, self.asked.pop(key), replace(unanswered, error=why, failure="no answer"))

    def _take(self, engine: Engine, wanted: Wanted, completion: Completion) -> None:
        """Keep an answer, or count a failure."""
        account, ask = self.account, self.plan.asks[wanted.place]
        sampling, identity = self.plan.sampling_of(ask), self.teacher.identity
        if not self.metered:
            account.settle(wanted.key, completion.prompt_tokens, completion.completion_tokens)
        usage = account.ended(wanted.key)
        sample = as_sample(
            completion, ask, wanted.number, sampling, identity, engine.name,
            dialect=self.teacher.dialect, prices=self.teacher.prices,
        )  # fmt: skip
        if completion.finish_reason == "error":
            self._fail(sample, completion.failure, usage)
            return
        info = shard_info(completion, identity) if sampling.top_logprobs else None
        if info is not None:
            sample = replace(sample, top_logprobs=sampling.top_logprobs)
        kept = self.ledger.put(Paid(sample, completion.logprobs if info else None, info, usage))
        kept.add_done_callback(self._on_disk)
        self.bought += 1
        self.left[wanted.place] -= 1
        if info is None and sampling.top_logprobs:  # it would never serve, and be bought again every time
            raise DistillError(
                f"{self.label}: engine `{engine.name}` gave no log-probabilities that can be kept (the first answer is "
                f"stored); set `top_logprobs: 0`, or sample where ids, vocabulary size and log-probabilities are known"
            )

    def _fail(self, sample: Sample, kind: str, usage: Usage) -> None:
        error = sample.error or "unknown"
        if kind == "budget":
            self.spent_out = True
            self.ledger.fail(sample.key, error, usage if usage.tries else None).add_done_callback(self._on_disk)
            return
        self.ledger.fail(sample.key, error, usage).add_done_callback(self._on_disk)
        self.failed[kind or "error"] += 1
        if not self.metered:
            self.account.failed(kind or "error")
        self.first_error = self.first_error or error
        if self.on_failure is not None:
            self.on_failure(sample)


def _bytes(ask: Ask) -> int:
    return sum(len(message.content.encode("utf-8", "replace")) for message in ask.problem.messages)


def longest_prompt(request: Request) -> int:
    """More tokens than a prompt can have: one a byte (no tokenizer makes more), and what templates add."""
    text = sum(len(message.content.encode("utf-8", "replace")) + 16 for message in request.messages)
    return text + TEMPLATE_TOKENS + len(request.prefix_ids)
