"""What every filter owes, whatever its reason: one decision per trace, in order, independent of the input's order."""

from __future__ import annotations

import pickle
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from distill.core import plugins
from distill.core.plugins import Choice, ChoiceOf
from distill.core.protocols import Filter, Noted
from distill.core.records import Decision, Message, Trace
from distill.stages import funnel
from distill.text import contamination

NAMES = plugins.names("distill.filters")
SETTINGS: dict[str, dict[str, Any]] = {
    "at_most": {"k": 2}, "lengths": {"max_total": 50}, "pass_rate": {"low": 0.5}, "domains": {"caps": {"sums": 10}},
}  # fmt: skip
"""Settings that a filter cannot do without."""


ODD = {31: "```python\nprint(1)\n```\n", 32: "凭直觉\n", 33: "ask bob@corp.com\n", 34: "ghp_" + "a1B2" * 10}
"""What only some filters mind."""


@pytest.fixture(autouse=True, scope="module")
def _signature(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("signatures") / "made.sig"
    contamination.write(path, contamination.build("made", ["problem 3"]))
    SETTINGS["contamination"] = {"signatures": [str(path)]}


def traces() -> list[Trace]:
    """Good and bad traces of some problems, with look-alikes among them."""
    rng = random.Random(0)
    made = []
    for n in range(60):
        problem = f"problem {n % 7}"
        loop = n % 11 == 0
        made.append(
            Trace(
                key=f"{rng.getrandbits(256):064x}",
                problem_id=problem,
                domain="sums",
                messages=(Message("user", problem),),
                reasoning=None
                if n % 13 == 0
                else "step by step\n" * (400 if loop else 1) + ODD.get(n, "") + f"{n % 5}",
                answer="" if n % 17 == 0 else f"\\boxed{{{n % 5}}}",
                verdict=(None, "correct", "wrong", "unparseable", "correct")[n % 5],  # type: ignore[arg-type]  # a literal by value
                finish_reason="length" if n % 19 == 0 else "stop",
                closed=n % 23 != 0,
            )
        )
    return made


def build(name: str) -> Filter:
    choice: Choice = ChoiceOf("distill.filters", "filter")._validate({"filter": name, **SETTINGS.get(name, {})})
    built: Filter = choice.module().build(choice.config)
    return built


def decide(name: str, some: list[Trace]) -> list[Decision]:
    return funnel.apply(some, [(name, build(name))])[0]


@pytest.mark.parametrize("name", NAMES)
def test_gives_one_decision_per_trace_in_order_with_a_reason(name: str):
    some = traces()

    decisions = decide(name, some)

    assert [decision.sample_key for decision in decisions] == [trace.key for trace in some]
    assert all(bool(decision.why) != decision.kept for decision in decisions)
    assert any(not decision.kept for decision in decisions), "the traces above hold something for every filter"


@pytest.mark.parametrize("name", NAMES)
def test_does_not_depend_on_the_order_of_its_input(name: str):
    some = traces()
    shuffled = random.Random(1).sample(some, len(some))

    in_order = {decision.sample_key: decision for decision in decide(name, some)}

    assert {decision.sample_key: decision for decision in decide(name, shuffled)} == in_order


@pytest.mark.parametrize("name", NAMES)
def test_takes_nothing_from_nothing(name: str):
    assert decide(name, []) == []


@pytest.mark.parametrize("name", NAMES)
def test_has_help_and_described_settings(name: str):
    config = plugins.load("distill.filters", name).Config

    assert plugins.help_line("distill.filters", name).endswith(".")
    assert all(field.description for field in config.model_fields.values())


def test_the_suite_notices_a_filter_that_depends_on_order():
    class First:
        def note(self, trace: Trace) -> None:
            del trace

        def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
            return dict.fromkeys(range(1, len(noted)), "late")

    some = traces()

    in_order, reversed_order = (
        {d.sample_key: d for d in funnel.apply(order, [("first", First())])[0]} for order in (some, some[::-1])
    )
    assert in_order != reversed_order


@pytest.mark.parametrize("name", NAMES)
def test_notes_travel_between_processes(name: str):
    rows = funnel.assess(traces(), [(name, build(name))])

    assert pickle.loads(pickle.dumps(rows)) == rows  # our own bytes of a moment ago
