"""Generated problems: pools share no operands, every step is true, the gold answer is reached only at the end."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core.errors import ConfigError
from distill.sources import embedded
from distill.sources.embedded import KINDS, LEVELS, POOLS, Config, Item

seeds = st.integers(0, 2**32)


def numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def value_of(operands: str) -> Fraction:
    a, sign, b = re.split(r"([-+*/])", operands)
    x, y = Fraction(a), Fraction(b)
    return {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else Fraction(-1)}[sign]


def value_of_question(item: Item) -> Fraction:
    """The answer worked out from the question's own numbers, by another way than the trace."""
    n = [Fraction(x) for x in numbers(item.question)]
    if item.kind == "product":
        expression = re.sub(r"[^-+*0-9]", "", item.question)
        first, sign, second = re.fullmatch(r"(\d+\*\d+)(?:([-+])(\d+\*\d+))?", expression).groups()  # type: ignore[union-attr] # a product question always has this form
        return value_of(first) + (0 if sign is None else (1 if sign == "+" else -1) * value_of(second))
    if item.kind == "equation":
        left, right, p, q = re.search(r"(\S+x\S+)=(\S+?),.*?(\d)x([-+]\d+)", item.question).groups()  # type: ignore[union-attr] # as above
        a, b = (Fraction(part) for part in left.split("x"))
        c, d = (Fraction(part) for part in (right.split("x") if "x" in right else (0, right)))
        return Fraction(p) * ((d - b) / (a - c)) + Fraction(q)
    if item.kind == "shop":
        spent = n[0] * n[1] + n[2] * n[3]
        return spent if item.level == 1 else n[4] - spent
    if item.level == 2:
        return n[0] - (n[1] + n[2]) * n[3]
    legs = n[:4] if item.level == 1 else n[:6]
    gone = sum((legs[i] * legs[i + 1] for i in range(0, len(legs), 2)), Fraction(0))
    return gone if item.level == 1 else n[6] - gone


def test_pools_share_no_operands_and_no_question():
    cores, questions = {}, {}
    for pool in POOLS:
        items = list(itertools.islice(embedded.stream(pool, seed=3), 6000))
        cores[pool] = {core for item in items for core in item.cores}
        questions[pool] = {item.question for item in items}

    for one, other in itertools.combinations(POOLS, 2):
        assert not cores[one] & cores[other]
        assert not questions[one] & questions[other]
    assert all(len(found) > 1000 for found in cores.values())


@pytest.mark.parametrize(("one", "other"), [("What is 17*23?", "Compute 23*17."), ("5*12+3*40", "3*40+5*12")])
def test_the_same_numbers_in_another_order_are_one_core(one: str, other: str):
    def core(text: str) -> str:
        pairs = [tuple(map(int, pair.split("*"))) for pair in re.findall(r"\d+\*\d+", text)]
        return embedded.sum_core(*pairs)  # type: ignore[arg-type] # pairs by the expression above

    assert core(one) == core(other)


def test_shop_and_distance_with_the_same_products_share_a_core():
    shops = {i.cores for i in embedded.draw("test", 3000, 0) if i.kind == "shop" and i.level == 1}
    pools = {embedded.pool_of(core) for cores in shops for core in cores}

    assert pools == {"test"}
    assert embedded.sum_core((3, 40), (12, 5)) == "3*40+5*12"


@given(seeds, st.sampled_from(sorted(POOLS)))
@settings(max_examples=30, deadline=None)
def test_every_step_is_true_and_the_last_one_answers_the_question(seed: int, pool: str):
    for item in embedded.draw(pool, 24, seed):
        results = []
        for step in item.steps:
            operands, result = step.split("=")
            assert value_of(operands) == int(result), item
            results.append(result)
        assert results[-1] == item.gold
        assert value_of_question(item) == int(item.gold), item
        assert item.gold not in results[:-1]
        assert item.gold not in numbers(item.question)
        assert all(embedded.pool_of(core) == pool for core in item.cores)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_operands_come_from_the_question_or_from_an_earlier_result(seed: int):
    for item in embedded.draw("teacher", 24, seed):
        known = {int(x) for x in numbers(item.question)}
        known |= {part for x in known for part in (x % 10, x - x % 10)}  # 23 is read as 20 and 3
        for step in item.steps:
            operands, result = step.split("=")
            assert {int(x) for x in numbers(operands)} <= known, (item, step)
            known.add(int(result))


def test_readable_steps_need_no_earlier_result():
    (item,) = [i for i in embedded.draw("test", 12, 0) if i.kind == "shop" and i.level == 2]

    assert embedded.readable(item) == list(item.steps[:2])


def test_the_same_arguments_give_the_same_problems_and_seed_0_is_a_seed():
    assert embedded.draw("test", 100, 0) == embedded.draw("test", 100, 0)
    assert embedded.draw("test", 100, 0) != embedded.draw("test", 100, 1)
    assert embedded.draw("test", 50, 0) == embedded.draw("test", 100, 0)[:50]


def test_kinds_and_levels_come_in_equal_parts_and_no_question_twice():
    items = embedded.draw("sampling", 1200, 0)

    counts = [sum(i.kind == kind and i.level == level for i in items) for kind in KINDS for level in LEVELS]
    assert all(80 <= count <= 120 for count in counts)
    assert len({item.question for item in items}) == 1200


def test_the_trace_ends_in_the_boxed_gold():
    item = embedded.draw("test", 1, 0)[0]

    reasoning, answer = embedded.trace(item)

    assert reasoning.splitlines() == list(item.steps)
    assert answer.endswith(f"\\boxed{{{item.gold}}}")


def test_build_gives_the_splits_asked_for():
    problems = embedded.build(Config(seed=0), {"train": 30, "dev": 5, "test": 10})

    assert [p.split for p in problems] == ["train"] * 30 + ["dev"] * 5 + ["test"] * 10
    assert len({p.id for p in problems}) == 45
    assert {p.source for p in problems} == {"embedded"}


def test_asking_for_more_than_there_is_names_the_setting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedded, "stream", lambda pool, seed: itertools.cycle(list(_one_item(pool, seed))))

    with pytest.raises(ConfigError, match="`test: 5`"):
        embedded.build(Config(), {"train": 0, "dev": 0, "test": 5})


def _one_item(pool: str, seed: int) -> list[Item]:
    return [Item("product", 1, f"What is 12*{seed + 13}?", "1", ("x",), ("1+0=1",))]


def test_an_unknown_pool_is_refused():
    with pytest.raises(ValueError, match="no pool 'tset'"):
        embedded.draw("tset", 1, 0)
