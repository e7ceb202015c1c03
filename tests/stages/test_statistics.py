"""Statistics of the kept traces, gathered while they pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distill.stages.statistics import Statistics
from tests.filters.test_filters import TRACE


def test_counts_what_passes_and_passes_it_on():
    some = [
        replace(TRACE, key="a", level="1", reasoning="Wait, no. " + "x" * 90, gold="5"),
        replace(TRACE, key="b", level="2", reasoning="5" + "y" * 0 + " " * 99, gold="5"),
        replace(TRACE, key="c", level="2", reasoning=None, gold="5"),
    ]
    statistics = Statistics()

    assert list(statistics.watch(some)) == some
    told = statistics.as_dict()
    assert told["traces"] == 3
    assert told["habits"]["turns_back"] == {"share": pytest.approx(1 / 3), "per_1000_characters": pytest.approx(5.0)}
    assert told["thinking_by_level"]["2"] == {"traces": 2, "mean": 50.0, "median": 50.0}
    assert told["after_the_answer"] == {"traces": 1, "mean_share": pytest.approx(0.99), "over_half": 1.0}


def test_nothing_is_no_trouble():
    assert Statistics().as_dict()["habits"]["checks"] == {"share": 0.0, "per_1000_characters": 0.0}
