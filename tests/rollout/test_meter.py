"""Spending never passes a budget, whatever is tried and lost."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.core.errors import DistillError
from distill.core.ledger import Usage
from distill.rollout.meter import Account, Budget, Prices

PRICES = Prices(input=2.0, output=8.0)
TRIES = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(0, 40), st.integers(0, 60), st.floats(0, 1), st.sampled_from(["now", "later"])
    ),
    max_size=25,
)


@given(TRIES, st.integers(0, 500), st.integers(0, 300))
def test_what_is_spent_and_what_may_still_come_never_pass_the_budget(
    tries: list[tuple[int, int, int, float, str]], limit: int, before: int
) -> None:
    budget = Budget(tokens=limit, cost=PRICES.of(limit // 2, limit // 2))
    account = Account(budget, PRICES)
    account.count_before(Usage(cost=0.0), Usage(1, before, 0))
    had = account.spent
    open_: list[tuple[str, int, int]] = []
    total = [0, 0]
    for number, prompt, completion, share, when in tries:
        key = f"k{number}"
        if account.reserve(key, prompt, completion):
            open_.append((key, prompt, completion))
        else:
            worst = [sum(worst) for worst in zip(*(item[1:] for item in open_), strict=True)] or [0, 0]
            tokens = had.tokens + sum(total) + sum(worst) + prompt + completion
            cost = (had.cost or 0) + PRICES.of(total[0] + worst[0] + prompt, total[1] + worst[1] + completion)
            assert tokens > limit or cost > (budget.cost or 0) - 1e-12  # refused only for a reason
        if when == "now" and open_:
            key, prompt, completion = open_.pop()
            got = (prompt, round(completion * share))
            account.settle(key, *got)
            total = [total[0] + got[0], total[1] + got[1]]
        if account.bought.tries or open_:
            assert account.spent.tokens <= limit
            assert (account.spent.cost or 0) <= (budget.cost or 0) + 1e-12
        assert [account.bought.prompt_tokens, account.bought.completion_tokens] == total
        assert account.bought.cost == pytest.approx(PRICES.of(*total))
        assert account.in_flight == len(open_)


def test_all_tries_for_an_answer_are_counted_with_it() -> None:
    account = Account(None, PRICES)
    for got in ((100, 10), (100, 0), (100, 50)):
        assert account.reserve("a", 100, 60)
        account.settle("a", *got)
    account.failed("429")
    account.failed("429")
    usage = account.ended("a")
    assert replace(usage, cost=None) == Usage(3, 300, 60)
    assert usage.cost == pytest.approx(PRICES.of(300, 60))
    assert account.ended("a") == Usage(0, 0, 0, 0.0)
    assert account.failures == {"429": 2}
    assert account.spent.tokens == 360


def test_money_without_a_price_is_refused_in_one_line() -> None:
    with pytest.raises(DistillError, match="needs the teacher's price.*teacher.price") as caught:
        Account(Budget(cost=1.0), None)
    assert "\n" not in str(caught.value)
    Account(Budget(cost=1.0), Prices(0, 0))


def test_what_was_bought_at_other_prices_counts_at_its_own() -> None:
    account = Account(Budget(cost=1.0), Prices(1.0, 1.0))
    account.count_before(Usage(1, 0, 500_000, 0.75), Usage(1, 200_000, 0))
    assert account.spent.cost == pytest.approx(0.95)
    assert not account.reserve("a", 0, 60_000)
    assert account.reserve("a", 0, 40_000)


def test_many_threads_at_once_do_not_pass_it_either() -> None:
    account = Account(Budget(tokens=10_000), None)
    most = 0

    def work(name: str) -> None:
        nonlocal most
        for _ in range(300):
            if account.reserve(name, 5, 45):
                most = max(most, account.in_flight)
                account.settle(name, 5, 20)

    threads = [threading.Thread(target=work, args=(f"k{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.spent.tokens <= 10_000
    assert account.spent.tokens > 10_000 - 50 * 8
    assert account.in_flight == 0
