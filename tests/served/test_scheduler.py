"""From requests to answers, with a sender of the test's own instead of a network."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.core.protocols import Completion, Request
from distill.served import scheduler as scheduling
from distill.served.endpoints import Endpoint, Endpoints
from distill.served.faults import Fault
from distill.served.limiter import Limiter
from distill.served.retry import Backoff
from distill.served.scheduler import Rules, Scheduler
from tests.served.stub_server import requests

WORST = (10, 64)


def answered(request: Request, **more: object) -> Completion:
    values = {"key": request.key, "text": "42", "finish_reason": "stop", "prompt_ids": None, "prefill_ids": None,
              "completion_ids": None, "prompt_tokens": 10, "completion_tokens": 5, "opened": False}  # fmt: skip
    return Completion(**(values | more))  # type: ignore[arg-type]  # a mapping of mixed values


@dataclass
class Scripted:
    """Answers as a function of the request, its endpoint and how often it was tried."""

    act: Callable[[Request, Endpoint, int], Completion | Fault]
    delay_s: float = 0.0
    tries: Counter[str] = field(default_factory=Counter)
    endpoints: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    opened: int = 0
    closed: int = 0
    cancelled: int = 0
    check_error: DistillError | None = None

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def check(self, request: Request) -> None:
        if self.check_error is not None:
            raise self.check_error

    def worst(self, request: Request) -> tuple[int, int]:
        return WORST

    async def send(self, request: Request, endpoint: Endpoint) -> Completion:
        self.tries[request.key] += 1
        self.endpoints.append(endpoint.url)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.delay_s)
            did = self.act(request, endpoint, self.tries[request.key])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1
        if isinstance(did, Fault):
            raise did
        return did


@dataclass
class Purse:
    """A meter with a limit in tokens, which checks that every reservation is settled once."""

    limit: int = 10**9
    spent: int = 0
    reserved: dict[str, int] = field(default_factory=dict)
    most: int = 0
    kinds: Counter[str] = field(default_factory=Counter)

    def reserve(self, key: str, prompt_tokens: int, completion_tokens: int) -> bool:
        assert key not in self.reserved, "reserved twice"
        if self.spent + sum(self.reserved.values()) + prompt_tokens + completion_tokens > self.limit:
            return False
        self.reserved[key] = prompt_tokens + completion_tokens
        self.most = max(self.most, self.spent + sum(self.reserved.values()))
        return True

    def settle(self, key: str, prompt_tokens: int, completion_tokens: int) -> None:
        del self.reserved[key]  # a second settling of one reservation is a KeyError
        self.spent += prompt_tokens + completion_tokens

    def failed(self, kind: str) -> None:
        self.kinds[kind] += 1


FAST = Backoff(first_s=0.0005, cap_s=0.002, draw=random.Random(0))


def make(sender: Scripted, *, concurrency: int = 8, retries: int = 4, urls: tuple[str, ...] = ("http://a",),
         limiter: Limiter | None = None) -> Scheduler:  # fmt: skip
    return Scheduler(sender, Endpoints(urls), limiter or Limiter(), Rules(concurrency, retries, FAST))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("served")]
    assert left == []


def fault(kind: str = "500", **more: object) -> Fault:
    return Fault(kind, f"{kind}: the server's own words", **{"bill": "nothing", **more})  # type: ignore[arg-type]


# ---- every request once


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 60), concurrency=st.integers(1, 20), seed=st.integers(0, 2**32), share=st.floats(0, 0.6))
def test_every_request_is_answered_once_whatever_fails_in_between(n, concurrency, seed, share):
    draw = random.Random(seed)
    ends = {r.key: draw.choice(["good", "good", "good", "filtered", "wrong"]) for r in requests(n)}

    def act(request: Request, endpoint: Endpoint, tried: int) -> Completion | Fault:
        if draw.random() < share and tried < 4:
            return fault(draw.choice(["500", "reset"]), bill=draw.choice(["nothing", "worst"]))
        if ends[request.key] == "wrong":
            return fault("400", again=False) if good_before else answered(request)
        good_before.append(1)
        return answered(request) if ends[request.key] == "good" else answered(
            request, finish_reason="error", error="filtered", failure="content_filter")  # fmt: skip

    good_before: list[int] = []
    purse, sender = Purse(), Scripted(act)

    got = list(make(sender, concurrency=concurrency).run(requests(n), purse))

    assert sorted(c.key for c in got) == sorted(r.key for r in requests(n))
    assert sender.most_at_once <= concurrency
    assert purse.reserved == {}
    assert (sender.opened, sender.closed) == (1, 1)


def test_requests_are_pulled_as_they_are_needed_and_results_do_not_pile_up():
    pulled = 0

    def lazily() -> Iterator[Request]:
        nonlocal pulled
        for request in requests(400):
            pulled += 1
            yield request

    sender = Scripted(lambda request, *_: answered(request))
    run = make(sender, concurrency=16).run(lazily())
    taken = 0
    for _ in run:
        taken += 1
        if taken == 5:
            time.sleep(0.2)  # a consumer that is slow: nothing is bought ahead of it
            assert pulled == 4 + 16 + 2
            assert sender.tries.total() == 4 + 16 + 2
    assert (taken, pulled) == (400, 400)


def test_an_iterable_that_waits_for_a_disk_does_not_hold_up_what_is_in_flight():
    def slowly() -> Iterator[Request]:
        for request in requests(6):
            time.sleep(0.05)
            yield request

    sender = Scripted(lambda request, *_: answered(request), delay_s=0.05)
    started_s = time.monotonic()
    ends = [time.monotonic() - started_s for _ in make(sender).run(slowly())]

    assert len(ends) == 6
    assert ends[0] < 0.25, "the first is not held back by those that are still read"


# ---- retries


def test_a_passing_fault_is_tried_again_and_counted():
    purse = Purse()
    sender = Scripted(lambda request, _, tried: fault() if tried < 4 else answered(request))

    got = list(make(sender).run(requests(5), purse))

    assert all(c.error is None for c in got)
    assert set(sender.tries.values()) == {4}
    assert purse.kinds == {"500": 15}
    assert purse.spent == 5 * 15


def test_a_cut_answer_is_never_bought_again():
    sender = Scripted(lambda request, *_: answered(request, finish_reason="length", completion_tokens=64))

    got = list(make(sender).run(requests(20)))

    assert {c.finish_reason for c in got} == {"length"}
    assert set(sender.tries.values()) == {1}


def test_one_answer_that_fails_for_good_keeps_its_siblings():
    bad = requests(8)[3].key
    sender = Scripted(lambda request, *_: fault("503") if request.key == bad else answered(request))

    got = {c.key: c for c in make(sender).run(requests(8))}

    assert [k for k, c in got.items() if c.error] == [bad]
    assert (got[bad].failure, got[bad].error) == ("503", "503: the server's own words")
    assert sender.tries[bad] == 5


def test_lost_replies_settle_at_the_worst_case_refused_ones_at_nothing_and_known_ones_at_their_usage():
    bills = {0: fault(bill="worst"), 1: fault(bill="nothing"), 2: fault(bill="worst", usage=(1, 2))}
    order = {r.key: i for i, r in enumerate(requests(3))}
    purse = Purse()
    sender = Scripted(lambda request, _, tried: bills[order[request.key]] if tried == 1 else answered(request))

    list(make(sender).run(requests(3), purse))

    assert purse.spent == 3 * 15 + sum(WORST) + 0 + 3


def test_a_server_that_asks_to_wait_is_left_alone_by_everybody():
    began_s = time.monotonic()
    times: list[float] = []

    def act(request: Request, endpoint: Endpoint, tried: int) -> Completion | Fault:
        times.append(time.monotonic() - began_s)
        return fault("429", retry_after_s=0.4) if len(times) == 1 else answered(request)

    list(make(Scripted(act), concurrency=1).run(requests(5)))

    assert times[1] >= 0.4


def test_waiting_as_asked_does_not_use_up_the_tries_while_others_are_answered():
    poor = requests(40)[0].key
    sender = Scripted(
        lambda request, _, tried: fault("429", retry_after_s=0.001) if request.key == poor and tried < 8
        else answered(request), delay_s=0.001)  # fmt: skip

    got = list(make(sender, concurrency=2, retries=2).run(requests(200)))

    assert all(c.error is None for c in got)
    assert sender.tries[poor] == 8


# ---- the end of the run


@pytest.mark.parametrize("kind", ["401", "403", "404"])
def test_a_fault_that_all_would_meet_ends_the_run_at_once(kind):
    sender = Scripted(lambda request, *_: fault(kind, again=False, ends_run=True), delay_s=0.01)

    with pytest.raises(DistillError, match=rf"http://a: {kind}: the server's own words"):
        list(make(sender, concurrency=4).run(requests(1000)))

    assert sender.tries.total() <= 8


def test_what_is_refused_from_the_start_ends_the_run_after_a_few():
    sender = Scripted(lambda request, *_: fault("400", again=False), delay_s=0.001)
    got: list[Completion] = []

    with pytest.raises(DistillError, match="the first 8 tries were all refused: 400: the server's own words"):
        got.extend(make(sender, concurrency=2).run(requests(1000)))

    assert sender.tries.total() <= 8 + 2


def test_a_refused_answer_after_a_success_is_only_its_own_failure():
    good = requests(30)[0].key
    sender = Scripted(lambda request, *_: answered(request) if request.key == good else fault("400", again=False))

    got = list(make(sender, concurrency=1).run(requests(30)))

    assert sum(c.failure == "400" for c in got) == 29


def test_when_everything_fails_for_good_the_run_stops_and_says_what_was_bought():
    sender = Scripted(lambda request, *_: fault("500"))
    got: list[Completion] = []

    with pytest.raises(
        DistillError, match=r"32 answers in a row failed for good \(500 32\); the last: 500: the server"
    ):
        got.extend(make(sender, retries=1).run(requests(1000)))

    assert 32 <= len(got) <= 32 + 9
    assert len({c.key for c in got}) == len(got)


def test_answers_that_are_paid_and_useless_stop_the_run_too():
    sender = Scripted(lambda r, *_: answered(r, finish_reason="error", error="two fields", failure="two reasonings"))

    with pytest.raises(DistillError, match="two reasonings 32"):
        list(make(sender).run(requests(1000)))

    assert sender.tries.total() <= 32 + 10


def test_a_success_now_and_then_keeps_the_run_going():
    count = iter(range(10**6))
    sender = Scripted(lambda request, *_: answered(request) if next(count) % 20 == 0 else fault("422", again=False))

    assert len(list(make(sender, concurrency=1).run(requests(200)))) == 200


def test_nobody_there_ends_the_run_with_one_line():
    sender = Scripted(lambda *_: fault("connect", unreachable=True, at_endpoint=True))

    with pytest.raises(DistillError, match="3 tries and no endpoint was there: connect"):
        list(make(sender, retries=2, concurrency=2).run(requests(100)))


def test_a_wait_of_hours_ends_the_run():
    sender = Scripted(lambda *_: fault("429", retry_after_s=86_400.0))

    with pytest.raises(DistillError, match=r"asks to wait 86,400 s, run again then: 429"):
        list(make(sender).run(requests(5)))


def test_what_is_in_flight_when_the_run_has_to_end_is_kept():
    first = requests(4)[0].key

    def act(request: Request, endpoint: Endpoint, tried: int) -> Completion | Fault:
        return fault("401", ends_run=True, again=False) if request.key == first else answered(request)

    class Late(Scripted):
        async def send(self, request: Request, endpoint: Endpoint) -> Completion:
            self.delay_s = 0.01 if request.key == first else 0.2
            return await super().send(request, endpoint)

    got: list[Completion] = []
    with pytest.raises(DistillError, match="401"):
        got.extend(make(Late(act), concurrency=4).run(requests(4)))

    assert len(got) == 3


def test_a_request_that_cannot_fit_is_refused_before_anything_is_sent():
    sender = Scripted(lambda request, *_: answered(request), check_error=DistillError("needs a context of 9"))

    for asked in (requests(3), iter(requests(3))):
        with pytest.raises(DistillError, match="needs a context of 9"):
            list(make(sender).run(asked))

    assert sender.tries.total() == 0


def test_an_iterable_that_fails_hands_on_its_error_after_what_was_begun():
    def failing() -> Iterator[Request]:
        yield from requests(3)
        raise KeyError("the disk is gone")

    sender = Scripted(lambda request, *_: answered(request), delay_s=0.05)
    got: list[Completion] = []

    with pytest.raises(KeyError, match="the disk is gone"):
        got.extend(make(sender).run(failing()))

    assert len(got) == sender.tries.total() == 3


def test_a_bug_in_the_sender_keeps_its_traceback():
    def act(*_: object) -> Completion:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(make(Scripted(act)).run(requests(3)))


# ---- leaving early


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_leaving_early_ends_threads_and_settles_everything(taken):
    purse = Purse()
    sender = Scripted(lambda request, *_: answered(request), delay_s=0.02)
    run = make(sender).run(requests(500), purse)
    for _ in range(taken):
        next(run)

    started_s = time.monotonic()
    run.close()

    assert time.monotonic() - started_s < 2.0
    assert purse.reserved == {}
    assert sender.at_once == 0
    lost = sender.cancelled
    assert purse.spent == (sender.tries.total() - lost) * 15 + lost * sum(WORST), "what was in flight may be billed"
    assert lost > 0 or taken == 0


def test_leaving_while_everything_hangs_or_waits_is_quick():
    first = requests(50)[0].key

    class Hanging(Scripted):
        async def send(self, request: Request, endpoint: Endpoint) -> Completion:
            self.delay_s = 0.0 if request.key == first else 3600.0
            return await super().send(request, endpoint)

    sender = Hanging(lambda request, *_: answered(request))
    run = make(sender, limiter=Limiter(requests_per_minute=600), concurrency=4).run(requests(50))
    next(run)

    started_s = time.monotonic()
    run.close()

    assert time.monotonic() - started_s < 2.0


def test_ctrl_c_in_the_consumer_leaves_no_thread():
    sender = Scripted(lambda request, *_: answered(request), delay_s=0.01)

    def consume() -> None:
        for n, _ in enumerate(make(sender).run(requests(100))):
            if n == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()


# ---- the budget


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(0, 2000), concurrency=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_a_budget_is_never_exceeded_and_is_used(limit, concurrency, seed):
    draw = random.Random(seed)

    def act(request: Request, endpoint: Endpoint, tried: int) -> Completion | Fault:
        if draw.random() < 0.2 and tried < 4:
            return fault("reset", bill=draw.choice(["nothing", "worst"]))
        return answered(request, completion_tokens=draw.randint(0, 64))

    purse, sender = Purse(limit), Scripted(act)

    got = list(make(sender, concurrency=concurrency).run(requests(40), purse))

    assert len(got) == 40
    assert purse.most <= limit
    assert purse.spent <= limit
    denied = [c for c in got if c.failure == "budget"]
    if denied:
        assert limit - purse.spent < sum(WORST), "the budget ended although another answer had room"
        assert all(c.finish_reason == "error" for c in denied)


def test_a_spent_budget_is_no_failure_of_the_server():
    purse = Purse(sum(WORST))
    sender = Scripted(lambda request, *_: answered(request, completion_tokens=64))

    got = list(make(sender).run(requests(200), purse))

    assert Counter(c.failure for c in got) == {"": 1, "budget": 199}
    assert purse.kinds == {}


# ---- several endpoints and limits


def test_load_is_shared_and_a_failing_endpoint_is_left_alone():
    sender = Scripted(
        lambda request, endpoint, _: fault("reset", at_endpoint=True) if endpoint.url == "http://b"
        else answered(request), delay_s=0.002)  # fmt: skip

    got = list(make(sender, urls=("http://a", "http://b", "http://c"), concurrency=6).run(requests(120)))

    asked = Counter(sender.endpoints)
    assert all(c.error is None for c in got)
    assert asked["http://b"] < 12
    assert min(asked["http://a"], asked["http://c"]) > 40


def test_an_endpoint_that_asks_to_wait_does_not_hold_up_the_others():
    sender = Scripted(
        lambda request, endpoint, _: fault("429", retry_after_s=30.0) if endpoint.url == "http://a"
        else answered(request))  # fmt: skip
    started_s = time.monotonic()

    got = list(make(sender, urls=("http://a", "http://b"), concurrency=4).run(requests(40)))

    assert all(c.error is None for c in got)
    assert time.monotonic() - started_s < 10.0
    assert Counter(sender.endpoints)["http://a"] <= 4


def test_the_limiter_counts_every_try():
    times: list[float] = []

    def act(request: Request, endpoint: Endpoint, tried: int) -> Completion | Fault:
        times.append(time.monotonic())
        return fault() if tried == 1 else answered(request)

    per_minute = 3000
    list(make(Scripted(act), limiter=Limiter(requests_per_minute=per_minute), concurrency=16).run(requests(25)))

    assert len(times) == 50
    for start in times:
        assert sum(start <= t < start + 0.2 for t in times) <= per_minute / 60 * 0.2 + 4


def test_tokens_a_minute_below_one_answer_are_refused():
    sender = Scripted(lambda request, *_: answered(request))

    with pytest.raises(DistillError, match="tokens_per_minute is 50, but one answer may take 74"):
        list(make(sender, limiter=Limiter(tokens_per_minute=50)).run(requests(3)))


def test_the_bounds_are_what_the_docs_say():
    assert (scheduling.FIRST_REFUSED, scheduling.ALL_FAILED) == (8, 32)
