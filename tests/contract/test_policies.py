"""What every sampling policy owes, whatever it is after: pure decisions in rounds, an end, its own bounds kept."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from distill.core import plugins
from distill.core.plugins import Choice, ChoiceOf
from distill.core.records import VerdictValue
from teachers.policy import BARE, Asked, Drawn, Labelling, Line, Policy, Stopped, Tally

NAMES = plugins.names("teachers.policies")
VERDICTS: dict[str, Sequence[VerdictValue]] = {
    "easy": ["correct"],
    "mixed": ["correct", "wrong", "unparseable", "correct", "wrong"],
    "rare": [*["wrong"] * 6, "correct"],
    "hopeless": ["wrong"],
    "broken": ["error"],
    "no gold": ["ungradable"],
}
"""What becomes of the answers to each problem, over and over."""


def build(name: str) -> Policy:
    choice: Choice = ChoiceOf("teachers.policies", "policy")._validate(name)
    policy: Policy = choice.module().build(choice.config)
    return policy


def play(policy: Policy, limit: int = 200) -> dict[str, Tally]:
    """Let the policy ask until it asks no more."""
    tallies: dict[str, dict[Line, Drawn]] = {problem: {} for problem in VERDICTS}
    for _ in range(limit):
        asked = policy.next_round(tallies)
        if not asked:
            return dict(tallies)
        for problem, lines in asked.items():
            for line, more in lines.items():
                assert more > 0, "a problem that is asked nothing is not named"
                tallies[problem][line] = draw(tallies[problem].get(line, Drawn()), more, problem, policy)
    raise AssertionError(f"still asking after {limit} rounds")


def draw(drawn: Drawn, more: int, problem: str, policy: Policy) -> Drawn:
    said = VERDICTS[problem]
    new = tuple(said[index % len(said)] for index in range(drawn.asked, drawn.asked + more))
    return Drawn(drawn.asked + more, (*drawn.verdicts, *new) if policy.needs_verdicts else ())


@pytest.mark.parametrize("name", NAMES)
def test_has_help_and_described_settings(name: str):
    module = plugins.load("teachers.policies", name)

    assert plugins.help_line("teachers.policies", name).endswith(".")
    assert all(field.description for field in module.Config.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
def test_comes_to_an_end_and_keeps_its_bounds(name: str):
    policy = build(name)
    bounds = policy.bounds()

    for tally in play(policy).values():
        assert set(tally) <= set(bounds)
        for line, (fewest, most) in bounds.items():
            assert fewest <= tally.get(line, Drawn()).asked <= most


@pytest.mark.parametrize("name", NAMES)
def test_every_problem_is_asked_as_it_stands_and_stops_for_a_reason(name: str):
    policy = build(name)

    for tally in play(policy).values():
        stopped = policy.stopped(tally)
        assert tally[BARE].asked > 0
        assert stopped.rule
        assert stopped.pass_rate is None or 0 <= stopped.pass_rate <= 1
        assert (stopped.n is None) == (stopped.pass_rate is None)


@pytest.mark.parametrize("name", NAMES)
def test_decides_by_the_tallies_alone(name: str):
    """Asking twice, or about problems in another order or company, changes nothing: a resumed run asks the same."""
    policy = build(name)
    tallies: dict[str, dict[Line, Drawn]] = {problem: {} for problem in VERDICTS}
    for _ in range(4):
        asked = policy.next_round(tallies)
        shuffled = dict(random.Random(1).sample(list(tallies.items()), len(tallies)))
        assert policy.next_round(tallies) == asked == build(name).next_round(shuffled)
        assert asked == {p: one for p in tallies for one in policy.next_round({p: tallies[p]}).values()}
        for problem, lines in asked.items():
            for line, more in lines.items():
                tallies[problem][line] = draw(tallies[problem].get(line, Drawn()), more, problem, policy)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradable_answer_gives_no_pass_rate(name: str):
    policy = build(name)
    if policy.needs_verdicts:
        tallies = play(policy)
        assert policy.stopped(tallies["broken"]).pass_rate is None
        assert policy.stopped(tallies["no gold"]).pass_rate is None


@pytest.mark.parametrize("name", NAMES)
def test_a_labelling_policy_says_how_many_must_agree(name: str):
    policy = build(name)
    if isinstance(policy, Labelling):
        assert 0 < policy.threshold <= 1


def test_the_suite_notices_a_policy_without_end():
    class Endless:
        needs_verdicts = False

        def next_round(self, tallies: Mapping[str, Tally]) -> Mapping[str, Asked]:
            return {problem: {BARE: 1} for problem in tallies}

        def stopped(self, tally: Tally) -> Stopped:
            return Stopped("never" if tally else "")

        def bounds(self) -> Mapping[Line, tuple[int, int]]:
            return {BARE: (1, 1)}

    with pytest.raises(AssertionError, match="still asking"):
        play(Endless())
