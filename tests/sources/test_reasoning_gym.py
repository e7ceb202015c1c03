"""The `reasoning_gym` source: the same settings give the same problems, and their tests hold what scoring needs."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from distill.core.errors import DistillError, MissingExtra
from distill.core.records import Problem
from distill.sources import reasoning_gym as source
from distill.text.gym_tests import parse

EVERYTHING = {"train": None, "dev": None, "test": None}


def read(**settings: Any) -> list[Problem]:
    return list(source.build(source.Config(**settings), EVERYTHING))


@pytest.fixture
def gym() -> Any:
    return pytest.importorskip("reasoning_gym", reason="the extra `gym` is not installed")


def test_tasks_give_as_many_problems_as_asked_for_and_seeds_differ(gym: Any):
    tasks = ["chain_sum", {"zebra_puzzles": {"num_people": 3}}]

    problems = read(tasks=tasks, size=6, seed=7)

    assert [p.source for p in problems] == ["reasoning-gym chain_sum"] * 6 + ["reasoning-gym zebra_puzzles"] * 6
    assert {p.domain for p in problems} == {"arithmetic", "logic"}
    assert {p.verifier for p in problems} == {"reasoning_gym"}
    assert problems == read(tasks=tasks, size=6, seed=7)
    assert not {p.id for p in problems} & {p.id for p in read(tasks=tasks, size=6, seed=8)}
    assert "3 houses" in problems[-1].messages[0].content


def test_a_repeated_question_is_the_same_problem(gym: Any):
    problems = read(tasks=[{"chain_sum": {"max_terms": 2, "max_digits": 1}}], size=200)

    assert len({p.id for p in problems}) < 200
    assert len({(p.id, p.tests) for p in problems}) == len({p.id for p in problems})


def test_settings_of_a_task_are_checked(gym: Any):
    for tasks, message in (
        (["chain_som"], "no task `chain_som`; did you mean `chain_sum`"),
        ([{"chain_sum": {"terms": 3}}], "`chain_sum` refuses its settings"),
        ([{"chain_sum": {"min_terms": 9, "max_terms": 2}}], "`chain_sum` refuses its settings"),
        ([{"chain_sum": {"size": 3}}], "`size` is set for all tasks together"),
    ):
        with pytest.raises(DistillError, match=message):
            read(tasks=tasks, size=2)


SLOW = {"knight_swap"}


def test_the_kept_entry_lets_every_task_score_its_own_answer(gym: Any):
    """Through JSON and back, the task's own scorer gives its own answer a one, where it has one."""
    from reasoning_gym.factory import DATASETS

    names = sorted(set(DATASETS) - SLOW - {"composite"})
    bad = {}
    for name in names:
        (problem,) = read(tasks=[name], size=1, seed=3)
        task, entry = parse(problem.tests or "")
        assert task == name
        assert entry["question"] == problem.messages[0].content
        if problem.gold is None:
            continue
        scorer = gym.get_score_answer_fn(name)
        score = scorer(problem.gold, entry)
        if score < 0.99:
            bad[name] = score
    assert bad == {}


def test_without_the_package_the_install_line_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)

    with pytest.raises(MissingExtra, match=r"pip install 'reasoning-distill\[gym\]'"):
        read(tasks=["chain_sum"], size=1)
    with pytest.raises(MissingExtra, match="gym"):
        source.externals(source.Config(tasks=["chain_sum"]))


def test_the_package_s_version_counts(gym: Any):
    assert list(source.externals(source.Config(tasks=["chain_sum"]))) == ["reasoning-gym"]
