"""Arms of a run and sides of several runs, paired over problems and seeds."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill.commands.compare import command
from distill.core import files
from distill.core.errors import ConfigError, DistillError
from distill.core.records import VerdictValue
from distill.evaluate import compare, scores, sides
from distill.evaluate.metrics import NO_DIFFERENCE
from distill.evaluate.scores import Score


def line(problem: str, value: VerdictValue) -> Score:
    return Score("student", problem, 0, f"key-{problem}", value, value, "stop", 40, 50, "1", "d")


def make_run(
    folder: Path, arms: dict[str, list[Callable[[int], VerdictValue]]], problems: int = 200, more: Sequence[Score] = ()
) -> Path:
    """A run whose arms (one function from problem number to verdict a seed) were evaluated; `more` scores in each."""
    index: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for arm, seeds in arms.items():
        for seed, verdict in enumerate(seeds):
            name = f"evaluate-{arm}-{seed}"
            (folder / name).mkdir(parents=True)
            scores.write(folder / name, [*(line(f"p{n}", verdict(n)) for n in range(problems)), *more])
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


def test_the_verdict_on_an_arm_is_holms_over_all_arms(tmp_path: Path):
    """An arm whose interval alone leaves out 0 is not called higher where it is one of many that were tried."""
    first = noisy(0.6, 0)

    def better(number: int) -> VerdictValue:
        return "correct" if number < 14 else first(number)  # a few problems more, nothing lost

    few = make_run(tmp_path / "few", {"a": [first], "b": [better]})
    many = make_run(tmp_path / "many", {"a": [first], "b": [better], **{f"c{n}": [first] for n in range(30)}})

    alone, among = compare.compare(few)[1], compare.compare(many)[1]

    assert alone.verdict == "higher" and alone.p_holm == (alone.difference and alone.difference.p)
    assert among.difference == alone.difference and among.verdict == NO_DIFFERENCE
    assert (among.p_holm or 0) > 0.05


def models(
    values: dict[str, Callable[[int], VerdictValue]], problems: int = 200, task: str = "problems"
) -> list[Score]:
    return [
        replace(line(f"p{n}", verdict(n)), model=model, task=task)
        for model, verdict in values.items()
        for n in range(problems)
    ]


@pytest.fixture
def two_runs(tmp_path: Path) -> Path:
    """Runs `one` (arms sft and kl, 3 seeds) and `two` (arm main, 2 seeds), each with a teacher."""
    teacher = models({"teacher": noisy(0.9, 99)})
    make_run(
        tmp_path / "one",
        {"sft": [noisy(0.5, s) for s in range(3)], "kl": [noisy(0.7, s + 9) for s in range(3)]}, more=teacher,
    )  # fmt: skip
    make_run(tmp_path / "two", {"main": [noisy(0.5, s + 20) for s in range(2)]}, problems=150, more=teacher)
    return tmp_path


def names(found: compare.Comparison) -> list[str]:
    return [side.name for side in found.tasks[0].sides]


def test_a_run_alone_is_all_its_arms_against_the_first(two_runs: Path):
    found = compare.table(["one"], two_runs)

    (task,) = found.tasks
    assert names(found) == ["sft", "kl"] and task.common == 200
    assert [(pair.a, pair.b, pair.verdict, pair.difference.seeds) for pair in task.pairs] == [
        ("kl", "sft", "higher", 3)
    ]


def test_runs_are_compared_on_the_problems_that_both_have(two_runs: Path):
    found = compare.table([str(two_runs / "one:kl"), "two"], two_runs)

    (task,) = found.tasks
    assert names(found) == ["one:kl", "two:main"]
    assert (task.common, [side.left_out for side in task.sides]) == (150, [50, 0])
    assert [side.seeds for side in task.sides] == [("0", "1", "2"), ("0", "1")]
    assert task.pairs[0].difference.seeds == 2 and (task.pairs[0].difference.value or 0) < -0.1
    assert task.sides[0].rate.items == 150


def test_seeds_of_one_run(two_runs: Path):
    found = compare.table(["one:kl:0", "one:kl:2"], two_runs)

    assert names(found) == ["kl:0", "kl:2"]
    assert found.tasks[0].pairs[0].difference.seeds == 1
    assert found.tasks[0].pairs[0].exact_p is not None


def test_a_model_that_was_not_trained_stands_beside_every_seed(two_runs: Path):
    found = compare.table(["one:kl", "two@teacher"], two_runs)

    (pair,) = found.tasks[0].pairs
    assert (pair.a, pair.b, pair.difference.seeds) == ("two:main@teacher", "one:kl@student", 3)
    assert found.tasks[0].sides[1].seeds == ()


def test_a_run_of_one_arm_compares_its_models(two_runs: Path):
    assert names(compare.table(["two"], two_runs)) == ["student", "teacher"]


def test_each_with_each(two_runs: Path):
    found = compare.table(["one:sft", "one:kl", "two"], two_runs, all_pairs=True)

    pairs = [(pair.a, pair.b) for pair in found.tasks[0].pairs]
    assert pairs == [("one:kl", "one:sft"), ("two:main", "one:sft"), ("two:main", "one:kl")]


def test_every_task_has_its_own_comparison(tmp_path: Path):
    more = models({"teacher": noisy(0.5, 5)}, 50, "gsm8k")
    run = make_run(tmp_path / "r", {"a": [noisy(0.5, 0)]}, more=[*models({"teacher": noisy(0.9, 1)}), *more])
    files.write_json(run / "evaluate-a-0" / "results.json", {"tasks": [{"name": "problems", "sampling": {}}]})

    found = compare.table([str(run)])

    assert [task.task for task in found.tasks] == ["problems"]
    assert found.notes == ("task `gsm8k`: not measured: student",)
    with pytest.raises(DistillError, match="no task that two of them"):
        compare.table([str(run)], tasks=["gsm8k"])
    with pytest.raises(ConfigError, match=r"task `arc`: no side was measured on it; there are problems, gsm8k"):
        compare.table([str(run)], tasks=["arc"])


def test_a_difference_in_settings_is_said(two_runs: Path):
    for run, arm, temperature in (("one", "sft", 0.6), ("one", "kl", 0.6), ("two", "main", 1.0)):
        for folder in (two_runs / run).glob(f"evaluate-{arm}-*"):
            about = {"name": "problems", "sampling": {"temperature": temperature, "top_p": 0.95}, "verifier": "math"}
            files.write_json(folder / "results.json", {"tasks": [about]})

    assert compare.table(["one"], two_runs).tasks[0].notes == ()
    assert compare.table(["one:kl", "two@student"], two_runs).tasks[0].notes == (
        "two:main and one:kl differ in sampling: temperature 1.0 and 0.6",
    )


def test_no_problem_in_common_is_refused(tmp_path: Path):
    a = make_run(tmp_path / "a", {"x": [noisy(0.5, 0)]})
    b = make_run(tmp_path / "b", {"x": [noisy(0.5, 1)]}, problems=0, more=[line("elsewhere", "correct")])

    with pytest.raises(DistillError, match=r"no problem in common \(a 200, b 1\)"):
        compare.table([str(a), str(b)])


def test_seeds_without_a_partner_are_refused(tmp_path: Path):
    a = make_run(tmp_path / "a", {"x": [noisy(0.5, 0), noisy(0.5, 1)]})
    b = make_run(tmp_path / "b", {"x": [noisy(0.5, s) for s in range(4)]})
    index = files.read_json(b / "run.json")
    for seed in "01":
        del index["arms"]["x"][seed]
    files.write_json(b / "run.json", index)

    with pytest.raises(DistillError, match=r"none in common; name one seed of each \(RUN:ARM:SEED\)"):
        compare.table([str(a), str(b)])
    assert compare.table([f"{a}:x:0", f"{b}:x:3"]).tasks[0].pairs[0].difference.seeds == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nowhere", "nowhere: no run folder; a side is RUN"),
        ("one:nl", "no arm `nl`; it has sft, kl"),
        ("one:kl:7", "arm `kl` has no seed 7; it has 0, 1, 2"),
        ("one:kl@judge", "not evaluated with model `judge`; it has student, teacher"),
        ("one:kl", "that is one model|named twice"),
    ],
)
def test_a_side_that_is_not_there_says_what_is(two_runs: Path, text: str, why: str):
    with pytest.raises(ConfigError, match=why):
        compare.table([text, "one:kl"], two_runs)


def test_colons_and_at_signs_in_paths_and_model_names(tmp_path: Path):
    run = make_run(tmp_path / "at@10:30", {"kl": [noisy(0.5, 0)]}, more=models({"student@300": noisy(0.6, 1)}))

    first, second = sides.named([f"{run}:kl:0@student", f"{run}@student@300"], Path())

    assert (first.model, second.model) == ("student", "student@300")
    assert (first.name, second.name) == ("kl:0@student", "kl@student@300")


def test_an_unevaluated_run_says_what_to_do(tmp_path: Path):
    files.write_json(tmp_path / "run.json", {"arms": {"a": {"0": {"train": {"folder": "train-x"}}}}})

    with pytest.raises(DistillError, match="was not evaluated yet; `distill evaluate`"):
        compare.table([str(tmp_path)])


def call(*arguments: str) -> str:
    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_a_table_json_markdown_and_a_page(two_runs: Path):
    here = ("--workspace", str(two_runs))

    text = call("one", "two@student", *here)
    assert "problems: 150 problems in common (left out: one:sft 50, one:kl 50)" in text
    assert "one:kl - one:sft" in text and "no difference shown" in text

    data = json.loads(call("one", *here, "--json", "--equal-tokens", "budget"))
    (pair,) = data["tasks"][0]["pairs"]
    assert pair["verdict"] == "higher" and pair["difference"]["low"] > 0 and pair["p_holm"] < 0.05
    assert [side["name"] for side in data["tasks"][0]["sides"]] == ["sft", "kl"]
    assert data["tasks"][0]["equal_tokens"]["pairs"][0]["points"][-1]["tokens"] == 50.0

    assert "| comparison | difference [95%] |" in call("one", *here, "--markdown")

    page = two_runs / "page.html"
    call("one", *here, "--html", str(page))
    assert "no difference shown" in page.read_text(encoding="utf-8") or "higher" in page.read_text(encoding="utf-8")


def test_answers_that_cannot_vote_are_one_line(two_runs: Path):
    with pytest.raises(DistillError, match="cannot vote"):
        call("one", "--workspace", str(two_runs), "--equal-tokens", "maj")


def test_json_and_markdown_are_one_or_the_other(two_runs: Path):
    result = CliRunner().invoke(command, ["one", "--workspace", str(two_runs), "--json", "--markdown"])
    assert result.exit_code == 2 and "one of --json and --markdown" in result.output
