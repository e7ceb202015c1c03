"""Keys and their order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from distill.core.records import Message, ModelIdentity, Problem, Sampling, sample_key
from distill.rollout.asks import Ask, Plan, Prefix, chunks
from tests.rollout.world import asks

TEXT = st.text(max_size=30).filter(lambda text: text.encode("utf-8", "ignore").decode() == text)
MESSAGES = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=4).map(tuple)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0.1, 1),
    top_k=st.integers(0, 50),
    seed=st.integers(0, 5),
    thinking=st.none() | st.booleans(),
    arguments=st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
)


@given(MESSAGES, TEXT, SAMPLINGS, st.integers(0, 10**6), st.none() | st.lists(st.integers(0, 300), min_size=1))
def test_keys_are_those_of_sample_key(
    messages: tuple[Message, ...], model: str, sampling: Sampling, index: int, given_ids: list[int] | None
) -> None:
    prefix = None if given_ids is None else Prefix(tuple(given_ids), "", None)
    ask = Ask(Problem("p", messages, None, "train"), range(index, index + 1), prefix=prefix)
    plan = Plan([ask], sampling, ModelIdentity(model, model))
    assert plan.key(0, index) == sample_key(messages, model, sampling, index, tuple(given_ids or ()))


def test_an_answer_that_is_continued_has_a_key_of_its_own_for_every_prefix() -> None:
    (ask,) = asks(1, 1)
    prefixes = [None, Prefix((1,), "", None), Prefix((1, 2), "", None), Prefix((12,), "", None)]
    plan = Plan([replace(ask, prefix=prefix) for prefix in prefixes], Sampling(), ModelIdentity("m", "m"))
    assert len({plan.key(place, 0) for place in range(4)}) == 4


def test_the_first_answer_of_every_problem_comes_before_the_second_of_any() -> None:
    some = asks(3, 2)
    uneven = [some[0], Ask(some[1].problem, range(5, 8)), Ask(some[2].problem, range(0))]
    plan = Plan(uneven, Sampling(), ModelIdentity("m", "m"))
    assert [(w.place, w.number) for w in plan.breadth_first()] == [(0, 0), (1, 5), (0, 1), (1, 6), (1, 7)]
    assert [(w.place, w.number) for w in plan.in_order()] == [(0, 0), (0, 1), (1, 5), (1, 6), (1, 7)]
    assert plan.total == 5
    assert sorted(plan.breadth_first()) == sorted(plan.in_order())


@given(st.integers(0, 30), st.integers(1, 7))
def test_chunks_hold_everything_in_order(n: int, size: int) -> None:
    cut = list(chunks(range(n), size))
    assert [item for chunk in cut for item in chunk] == list(range(n))
    assert all(len(chunk) <= size for chunk in cut)
