"""Never above the allowed rate in any minute, whatever is asked for and whatever it turns out to cost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.served.endpoints import Endpoints
from distill.served.limiter import Limiter


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def sent_at(limiter: Limiter, clock: Clock, tokens: int) -> float:
    """Wait as long as the limiter says, then send."""
    for _ in range(1000):
        clock.now_s += limiter.wait_s(tokens)
        if limiter.take(tokens) is not None:
            return clock.now_s
    raise AssertionError("it never lets this one through")


@given(
    limit=st.sampled_from([1, 2, 7, 40, 3000]),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.3, 5.0, 61.0]), min_size=1, max_size=150),
    window_s=st.floats(0.5, 120.0),
)
def test_requests_stay_below_the_limit_in_any_window(limit, pauses, window_s):
    clock = Clock()
    limiter = Limiter(requests_per_minute=limit, clock=clock)
    times = []
    for pause in pauses:
        clock.now_s += pause
        times.append(sent_at(limiter, clock, 1))

    for start in times:
        assert sum(start <= at < start + 60.0 for at in times) <= limit
        within = sum(start <= at < start + window_s for at in times)
        assert within <= limit * window_s / 60.0 + max(1.0, limit / 1000.0), "they are spread"


@given(
    limit=st.integers(100, 5000),
    tries=st.lists(
        st.tuples(st.integers(1, 100), st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0, 30.0])), min_size=1, max_size=80
    ),
)
def test_tokens_that_were_used_stay_below_the_limit_in_any_minute(limit, tries):
    clock = Clock()
    limiter = Limiter(tokens_per_minute=limit, clock=clock)
    sent: list[tuple[float, int]] = []
    for worst, share, pause in tries:
        clock.now_s += pause
        while (ticket := limiter.take(worst)) is None:
            clock.now_s += max(limiter.wait_s(worst), 0.001)
        used = int(worst * share)
        limiter.settle(ticket, used)
        sent.append((clock.now_s, used))

    for start, _ in sent:
        assert sum(used for at, used in sent if start <= at < start + 60.0) <= limit


def test_the_limit_is_reached_as_well_as_kept():
    clock = Clock()
    limiter = Limiter(requests_per_minute=600, clock=clock)

    times = [sent_at(limiter, clock, 1) for _ in range(1800)]

    assert 600 * 1799 / (times[-1] - times[0]) / 10 == pytest.approx(600, rel=0.03)


def test_the_wait_is_exactly_until_enough_has_left_the_minute():
    clock = Clock()
    limiter = Limiter(tokens_per_minute=100, clock=clock)
    for _ in range(3):
        assert limiter.take(30) is not None
        clock.now_s += 10

    assert limiter.wait_s(10) == 0
    assert limiter.wait_s(35) == pytest.approx(61 - 30)
    assert limiter.wait_s(50) == pytest.approx(61 - 20)
    assert limiter.wait_s(100) == pytest.approx(61 - 10)


def test_tokens_that_were_not_used_are_given_back():
    clock = Clock()
    limiter = Limiter(tokens_per_minute=100, clock=clock)
    first = limiter.take(90)
    assert first is not None
    assert limiter.wait_s(50) == pytest.approx(61.0)

    limiter.settle(first, 10)

    assert limiter.wait_s(50) == 0.0


def test_a_ticket_settled_after_its_minute_changes_nothing():
    clock = Clock()
    limiter = Limiter(tokens_per_minute=100, clock=clock)
    old = limiter.take(90)
    clock.now_s += 100
    assert limiter.take(60) is not None
    assert old is not None

    limiter.settle(old, 0)

    assert limiter.wait_s(50) > 0


def test_one_answer_above_the_limit_is_refused_with_the_numbers():
    with pytest.raises(DistillError, match=r"tokens_per_minute is 1,000, but one answer may take 4,096"):
        Limiter(tokens_per_minute=1000).wait_s(4096)


def test_without_limits_nobody_waits():
    limiter = Limiter()

    assert all(limiter.wait_s(10**9) == 0 and limiter.take(10**9) for _ in range(100))


def test_the_least_loaded_endpoint_is_picked():
    endpoints = Endpoints(["http://a/v1", "http://b/v1", "http://c/v1"], Clock())
    counts = {endpoint.url: 0 for endpoint in endpoints.all}
    for _ in range(9):
        picked = endpoints.pick()
        picked.in_flight += 1
        counts[picked.url] += 1

    assert list(counts.values()) == [3, 3, 3]


@settings(max_examples=50)
@given(st.integers(1, 30))
def test_a_failing_endpoint_rests_longer_and_longer_and_comes_back(failures):
    clock = Clock()
    endpoints = Endpoints(["http://a", "http://b"], clock)
    bad, good = endpoints.all

    for _ in range(failures):
        endpoints.failed(bad)

    rest_s = bad.rests_until_s - clock.now_s
    assert rest_s == min(60.0, 2.0 ** min(failures - 1, 10))
    assert endpoints.wait_s() == 0
    good.in_flight = 100
    assert endpoints.pick() is good
    clock.now_s += rest_s
    assert endpoints.pick() is bad
    endpoints.succeeded(bad)
    assert bad.failures == 0


def test_the_only_endpoint_never_rests_by_itself_but_when_it_asks_to():
    clock = Clock()
    endpoints = Endpoints(["http://a"], clock)
    endpoints.failed(endpoints.all[0])
    assert endpoints.wait_s() == 0

    endpoints.rest(endpoints.all[0], 7.0)
    endpoints.rest(endpoints.all[0], 2.0)

    assert endpoints.wait_s() == pytest.approx(7.0), "a shorter wait does not cut a longer one"
