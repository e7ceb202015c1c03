"""Arms of a run, paired over problems and seeds."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.core import files
from distill.core.errors import DistillError
from distill.core.records import VerdictValue
from distill.evaluate import compare, scores
from distill.evaluate.metrics import NO_DIFFERENCE
from distill.evaluate.scores import Score


def line(problem: str, value: VerdictValue) -> Score:
    return Score("student", problem, 0, f"key-{problem}", value, value, "stop", 40, 50, "1", "d")


def make_run(folder: Path, arms: dict[str, list[Callable[[int], VerdictValue]]], problems: int = 200) -> Path:
    """A run whose arms (one function from problem number to verdict a seed) were evaluated."""
    index: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for arm, seeds in arms.items():
        for seed, verdict in enumerate(seeds):
            name = f"evaluate-{arm}-{seed}"
            (folder / name).mkdir(parents=True)
            scores.write(folder / name, [line(f"p{n}", verdict(n)) for n in range(problems)])
            index.setdefault(arm, {})[str(seed)] = {"evaluate": {"key": name, "folder": name, "seconds": 1.0}}
    files.write_json(folder / "run.json", {"name": "r", "experiment": "r.yaml", "arms": index})
    return folder


def noisy(rate: float, seed: int) -> Callable[[int], VerdictValue]:
    def verdict(number: int) -> VerdictValue:
        return "correct" if random.Random(f"{seed}/{number}").random() < rate else "wrong"

    return verdict


def test_a_planted_gain_is_called_higher(tmp_path: Path):
    run = make_run(tmp_path, {"sft": [noisy(0.5, s) for s in range(3)], "kl": [noisy(0.7, s + 9) for s in range(3)]})

    first, second = compare.compare(run)

    assert first.difference is None and first.verdict == ""
    assert second.verdict == "higher"
    assert second.difference is not None and second.difference.seeds == 3
    assert second.difference.value == pytest.approx(0.2, abs=0.06)
    assert second.rates == pytest.approx((0.7, 0.7, 0.7), abs=0.1)


def test_equal_arms_show_no_difference(tmp_path: Path):
    run = make_run(tmp_path, {"a": [noisy(0.6, s) for s in range(3)], "b": [noisy(0.6, s + 9) for s in range(3)]})

    results = compare.compare(run)

    assert results[1].verdict == NO_DIFFERENCE
    assert compare.rows(results)[1]["verdict"] == "no difference shown"


def test_only_common_seeds_are_paired(tmp_path: Path):
    run = make_run(tmp_path, {"a": [noisy(0.6, s) for s in range(3)], "b": [noisy(0.6, 9)]})

    difference = compare.compare(run)[1].difference

    assert difference is not None and difference.seeds == 1


def test_an_arm_that_is_not_evaluated_is_left_out(tmp_path: Path):
    run = make_run(tmp_path, {"a": [noisy(0.6, 0)], "b": [noisy(0.6, 1)]})
    index = files.read_json(run / "run.json")
    index["arms"]["b"]["0"] = {"train": {"key": "k", "folder": "train-k", "seconds": 1.0}}
    files.write_json(run / "run.json", index)

    assert [result.arm for result in compare.compare(run)] == ["a"]


def test_arms_on_other_problems_are_refused(tmp_path: Path):
    run = make_run(tmp_path, {"a": [noisy(0.6, 0)], "b": [noisy(0.6, 1)]})
    scores.write(run / "evaluate-b-0", [line("other", "correct")])

    with pytest.raises(DistillError, match="other problems"):
        compare.compare(run)
