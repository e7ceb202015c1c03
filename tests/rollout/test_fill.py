"""What is missing is bought once: within the budget, shared between processes, with nothing kept in memory."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import rollout
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.protocols import Completion, Request
from distill.core.records import Sample, sample_key
from distill.core.stage import Workspace
from distill.rollout import Ask, Budget, Filled, Prices, purchase
from tests.rollout import world
from tests.rollout.world import SAMPLING, asks, length_of, paid, teacher

PROMPT = 7
PRICES = Prices(input=1000.0, output=3000.0)


def fill(folder: Path, wanted: Iterable[Ask], budget: Budget | None = None, **config: object) -> Filled:
    prices = PRICES if budget is not None and budget.cost is not None else None
    return rollout.fill(
        wanted, SAMPLING, teacher(folder, prices, **config), Workspace(folder), label="sample", budget=budget
    )


def read(folder: Path, wanted: Iterable[Ask]) -> list[Sample]:
    return list(rollout.read(wanted, SAMPLING, teacher(folder), Workspace(folder)))


def test_every_answer_is_bought_once_breadth_first_and_read_in_order(tmp_path: Path) -> None:
    done = fill(tmp_path, asks(5, 3))

    assert (done.wanted, done.had, done.bought, done.failed, done.spent_out) == (15, 0, 15, Counter(), False)
    keys = {ask.problem.id: ask for ask in asks(5, 3)}
    samples = read(tmp_path, asks(5, 3))
    assert [(s.problem_id, s.index) for s in samples] == [(ask.problem.id, i) for ask in asks(5, 3) for i in range(3)]
    assert done.tokens == sum(s.prompt_tokens + s.completion_tokens for s in samples)
    in_turn = sorted(samples, key=lambda s: (s.index, list(keys).index(s.problem_id)))
    assert paid(tmp_path) == [s.key for s in in_turn]  # first answers first: a stop leaves every problem something

    again = fill(tmp_path, asks(5, 3))
    assert (again.had, again.bought, again.tokens) == (15, 0, done.tokens)
    assert len(paid(tmp_path)) == 15


def test_more_problems_and_more_samples_buy_only_what_is_new(tmp_path: Path) -> None:
    fill(tmp_path, asks(3, 2))
    shuffled = [Ask(ask.problem, range(1, 4)) for ask in reversed(asks(5, 1))]
    assert fill(tmp_path, shuffled).bought == 3 * 2 + 2 * 3
    assert len(paid(tmp_path)) == len(set(paid(tmp_path)))


def test_another_system_prompt_revision_or_model_is_another_answer(tmp_path: Path) -> None:
    fill(tmp_path, asks(1, 1))
    ((problem, *_),) = [(ask.problem,) for ask in asks(1, 1)]
    changed = replace(problem, messages=(replace(problem.messages[0], content="Be long."), problem.messages[1]))
    assert fill(tmp_path, [Ask(changed, range(1))]).bought == 1
    other = replace(teacher(tmp_path), revision="v2")
    assert rollout.fill(asks(1, 1), SAMPLING, other, Workspace(tmp_path), label="s").bought == 1
    assert other.identity.id == "m-v2"


def test_a_question_asked_twice_is_paid_once_and_answered_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purchase, "POLL_S", 0.01)
    done = fill(tmp_path, [*asks(2, 2), *asks(1, 2)])
    assert (done.wanted, done.bought, done.had) == (6, 4, 2)
    assert len(paid(tmp_path)) == 4
    assert len(read(tmp_path, [*asks(2, 2), *asks(1, 2)])) == 6


# failures


def test_a_failed_answer_costs_no_sibling_is_counted_by_kind_and_owed(tmp_path: Path) -> None:
    done = fill(tmp_path, asks(4, 8), fail="01")
    failed = [key for key in paid(tmp_path) if key[0] in "01"]
    assert failed
    assert done.failed == {"503": len(failed)}
    assert done.first_error == "overloaded"
    assert done.bought == 32 - len(failed)
    assert len(read(tmp_path, asks(4, 8))) == 32 - len(failed)
    assert done.tokens == 32 * PROMPT + sum(length_of(k) for k in paid(tmp_path) if k not in failed)

    again = fill(tmp_path, asks(4, 8))
    assert (again.had, again.bought) == (32 - len(failed), len(failed))
    assert again.tokens == done.tokens + sum(PROMPT + length_of(key) for key in failed)  # the failed tries still count


def test_one_answer_that_always_fails_does_not_stop_the_others_for_good(tmp_path: Path) -> None:
    keys = [sample_key(ask.problem.messages, "m-any", SAMPLING, i) for ask in asks(2, 3) for i in range(3)]
    fill(tmp_path, asks(2, 3), fail=keys[0][0])
    again = fill(tmp_path, asks(2, 3), fail=keys[0][0])  # nothing bought, one failed: owed, and the rest is there
    assert again.bought == 0
    assert again.failed.total() >= 1


@pytest.mark.parametrize("had", [0, 4])
def test_a_teacher_that_answers_nothing_at_all_is_an_error(tmp_path: Path, had: int) -> None:
    if had:
        fill(tmp_path, asks(2, had // 2))
    with pytest.raises(DistillError, match="every answer failed.*overloaded"):
        fill(tmp_path, asks(5, 6), fail="0123456789abcdef")


def test_an_engine_that_leaves_an_answer_out_owes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.Engine.generate

    def forgetful(self: world.Engine, requests: Iterable[Request]) -> Iterator[Completion]:
        for number, completion in enumerate(whole(self, requests)):
            if number != 2:
                yield completion

    monkeypatch.setattr(world.Engine, "generate", forgetful)
    done = fill(tmp_path, asks(3, 2))
    assert (done.bought, done.failed) == (5, {"no answer": 1})


def test_an_engine_that_answers_twice_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.Engine.generate
    monkeypatch.setattr(
        world.Engine, "generate", lambda self, requests: (c for got in whole(self, requests) for c in (got, got))
    )
    with pytest.raises(ValueError, match="twice, or unasked"):
        fill(tmp_path, asks(3, 2))


def test_log_probabilities_that_never_come_stop_the_run_at_the_first_answer(tmp_path: Path) -> None:
    sampling = replace(SAMPLING, top_logprobs=4)
    with pytest.raises(DistillError, match="no log-probabilities.*top_logprobs: 0"):
        rollout.fill(asks(3, 2), sampling, teacher(tmp_path), Workspace(tmp_path), label="sample")
    assert len(paid(tmp_path)) == 1  # it would be bought again with every run
    assert fill(tmp_path, asks(3, 2)).had == 1


def test_hinted_answers_are_marked_and_need_no_log_probabilities(tmp_path: Path) -> None:
    sampling = replace(SAMPLING, top_logprobs=4)
    where = Workspace(tmp_path)
    wanted = asks(3, 2, rationalised=True)
    for bought in (6, 0):
        assert rollout.fill(wanted, sampling, teacher(tmp_path), where, label="sample").bought == bought
    samples = list(rollout.read(wanted, sampling, teacher(tmp_path), where))
    assert {(s.rationalised, s.prompt_ids, s.logits) for s in samples} == {(True, None, None)}
    assert len(samples) == 6


# budget


def cost_of(folder: Path) -> int:
    return sum(PROMPT + length_of(key) for key in paid(folder))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3000), st.booleans(), st.integers(0, 2))
def test_a_budget_is_never_passed_whoever_counts(tokens: int, metered: bool, retries: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = fill(folder, asks(5, 8), Budget(tokens=tokens), metered=metered, retries=retries)
        assert done.tokens <= tokens
        assert done.spent_out == (done.bought < 40)
        assert done.bought == len(paid(folder)) == len(read(folder, asks(5, 8)))
        lost = 60 * retries * len(paid(folder)) if metered else 0
        assert done.tokens >= cost_of(folder) + lost
        if done.spent_out:  # what was left could not have held one more, at its longest
            worst = 60 if metered else purchase.longest_prompt(_request()) + SAMPLING.max_tokens
            assert done.tokens + worst * (1 + retries * metered) > tokens
        again = fill(folder, asks(5, 8), Budget(tokens=tokens), metered=metered, retries=retries)
        assert again.tokens <= tokens
        more = fill(folder, asks(5, 8), metered=metered)
        assert more.had + more.bought == 40
        assert len(set(paid(folder))) == len(paid(folder)) == 40


def _request() -> Request:
    return Request("k", asks(1, 1)[0].problem.messages, SAMPLING)


def test_money_is_counted_at_its_price_and_kept_with_each_answer(tmp_path: Path) -> None:
    done = fill(tmp_path, asks(5, 8), Budget(cost=1.0), metered=True)
    samples = read(tmp_path, asks(5, 8))
    assert 0 < len(samples) < 40
    assert done.spent_out
    assert done.cost is not None
    assert done.cost == pytest.approx(sum(s.cost or 0.0 for s in samples))
    assert 1.0 - PRICES.of(10, 50) < done.cost <= 1.0
    assert all(s.cost == pytest.approx(PRICES.of(7, s.completion_tokens)) for s in samples)
    again = fill(tmp_path, asks(5, 8), Budget(cost=1.0), metered=True)
    assert again.bought == 0
    assert again.cost == pytest.approx(done.cost)
    assert fill(tmp_path, asks(5, 8), Budget(cost=2.0), metered=True).cost <= 2.0  # type: ignore[operator]  # a price


def test_a_budget_in_money_without_a_price_is_refused_before_anything(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="needs the teacher's price"):
        rollout.fill(asks(1, 1), SAMPLING, teacher(tmp_path), Workspace(tmp_path), label="s", budget=Budget(cost=1.0))
    assert paid(tmp_path) == []


def test_tries_that_failed_count_when_a_stopped_run_goes_on(tmp_path: Path) -> None:
    first = fill(tmp_path, asks(3, 4), metered=True, retries=2)
    assert first.tokens == cost_of(tmp_path) + 12 * 2 * 60  # lost replies at their worst case
    assert fill(tmp_path, asks(3, 4)).tokens == first.tokens
    assert fill(tmp_path, asks(4, 4), Budget(tokens=first.tokens + 100)).spent_out


def test_answers_of_before_usage_was_kept_count_with_their_own_tokens(tmp_path: Path) -> None:
    done = fill(tmp_path, asks(3, 4))
    with sqlite3.connect(Workspace(tmp_path).ledger) as connection:
        connection.execute("UPDATE attempt SET usage = NULL")
    connection.close()
    assert fill(tmp_path, asks(3, 4)).tokens == done.tokens


# stops, and several processes


_RUN = """
import sys
from pathlib import Path
from tests.rollout import test_fill, world
from distill.rollout import Budget
budget = Budget(tokens=int(sys.argv[3])) if sys.argv[3] != "0" else None
done = test_fill.fill(Path(sys.argv[1]), world.asks(30, 20), budget, delay_s=float(sys.argv[2]), metered=True)
print(done.had, done.bought, flush=True)
"""


def start(folder: Path, delay_s: float = 0.002, tokens: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _RUN, str(folder), str(delay_s), str(tokens)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_two_processes_share_the_work_and_pay_for_nothing_twice(tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert len(paid(tmp_path)) == len(set(paid(tmp_path))) == 600
    bought = [tuple(map(int, out.split())) for out, _ in results]
    assert sum(n for _, n in bought) == 600
    assert all(had + n == 600 for had, n in bought)  # each saw all of it done before it ended
    assert all(n > 0 for _, n in bought)
    assert len(read(tmp_path, asks(30, 20))) == 600


def test_two_processes_share_a_budget(tmp_path: Path) -> None:
    both = [start(tmp_path, tokens=9_000), start(tmp_path, tokens=9_000)]
    results = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    assert 0 < cost_of(tmp_path) <= 9_000
    assert len(paid(tmp_path)) == len(set(paid(tmp_path)))
    done = fill(tmp_path, asks(30, 20), Budget(tokens=9_000), metered=True)  # alone, it uses what they left
    assert 9_000 - 60 < done.tokens <= 9_000


def test_a_process_that_is_killed_leaves_the_other_to_finish(tmp_path: Path) -> None:
    doomed = start(tmp_path, 0.02)
    while len(paid(tmp_path)) < 20:
        time.sleep(0.02)
    other = start(tmp_path)
    time.sleep(0.5)
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    _, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert len(read(tmp_path, asks(30, 20))) == 600
    twice = [key for key, n in Counter(paid(tmp_path)).items() if n > 1]
    assert len(twice) <= 40  # answers of the last quarter of a second, which no commit had reached
    assert set(paid(tmp_path)) == {s.key for s in read(tmp_path, asks(30, 20))}


def test_a_stop_keeps_what_was_paid_and_gives_the_rest_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = world.MeteredEngine.generate

    def interrupted(self: world.MeteredEngine, requests: Iterable[Request]) -> Iterator[Completion]:
        for number, completion in enumerate(whole(self, requests)):
            yield completion
            if number == 4:
                assert self.meter is not None
                request = next(iter(requests))
                self.meter.reserve(request.key, 10, 50)
                try:
                    raise KeyboardInterrupt
                finally:
                    self.meter.settle(request.key, 10, 50)  # under way when it was stopped: perhaps billed

    monkeypatch.setattr(world.MeteredEngine, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, asks(3, 4), metered=True)
    monkeypatch.setattr(world.MeteredEngine, "generate", whole)
    with Ledger(Workspace(tmp_path).ledger) as ledger:
        assert ledger.attempts() == {"done": 5, "failed": 7}
    done = fill(tmp_path, asks(3, 4), metered=True)
    assert (done.had, done.bought) == (5, 7)
    assert done.tokens == cost_of(tmp_path) + 60


def test_memory_does_not_grow_with_the_number_of_answers(tmp_path: Path) -> None:
    def peak(samples: int) -> tuple[int, int]:
        wanted, peaks = asks(20, samples), []
        for work in (
            lambda: fill(tmp_path, wanted),
            lambda: sum(1 for _ in rollout.read(wanted, SAMPLING, teacher(tmp_path), Workspace(tmp_path))),
        ):
            tracemalloc.start()
            work()
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return peaks[0], peaks[1]

    peak(5)  # imports and caches
    few, many = peak(30), peak(120)
    assert many[0] < few[0] * 1.3 + 200_000, (few, many)
    assert many[1] < few[1] * 1.3 + 200_000, (few, many)


def test_an_engine_with_a_window_never_has_more_than_that_to_lose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    window, lost = 5, []

    def windowed(self: world.Engine, requests: Iterable[Request]) -> Iterator[Completion]:
        """Pulls as far ahead as its window, in a thread of its own, as engines on a network do."""
        pulled: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        ended = threading.Event()

        def pull() -> None:
            for request in requests:
                pulled.put(request)
            ended.set()
            pulled.put(None)

        threading.Thread(target=pull, daemon=True).start()
        answered = 0
        while (request := pulled.get()) is not None:
            answered += 1
            yield self.answer(request)
            waiting = pulled.qsize() - ended.is_set()  # before the ledger is looked at: it goes on meanwhile
            with sqlite3.connect(Workspace(tmp_path).ledger) as connection:
                (kept,) = connection.execute("SELECT COUNT(*) FROM sample").fetchone()
            connection.close()
            lost.append(answered - kept + waiting)

    monkeypatch.setattr(world.Engine, "window", window, raising=False)
    monkeypatch.setattr(world.Engine, "generate", windowed)
    assert fill(tmp_path, asks(10, 6)).bought == 60
    assert 1 <= max(lost) <= window


def test_nothing_is_leased_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(self: world.Engine, requests: Iterable[Request]) -> Iterator[Completion]:
        for number, request in enumerate(requests):
            if number % 100 == 0:
                with Ledger(Workspace(tmp_path).ledger) as ledger:
                    seen.append(ledger.attempts().get("sent", 0))
            yield self.answer(request)

    monkeypatch.setattr(world.Engine, "generate", watched)
    fill(tmp_path, asks(20, 50))
    assert len(seen) == 10
    assert max(seen) <= 768  # two leases of 128, and a group of 512 answers that is not committed


def test_what_failed_is_not_asked_for_again_while_another_process_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purchase, "POLL_S", 0.05)
    held = sample_key(asks(1, 1)[0].problem.messages, "m-any", SAMPLING, 0)
    with Ledger(Workspace(tmp_path).ledger) as other:
        other.lease([held])

        def let_go() -> None:
            time.sleep(0.8)
            other.close()

        threading.Thread(target=let_go).start()
        everything_but_that_one = "".join(digit for digit in "0123456789abcdef" if digit != held[0])
        done = fill(tmp_path, asks(2, 3), fail=everything_but_that_one)
    assert done.bought >= 1
    assert len(paid(tmp_path)) == len(set(paid(tmp_path))) == 6
    assert paid(tmp_path)[-1] == held
