"""The `problems` stage: splits that do not move, limits, overlaps, and what is odd about golds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from distill.core import tables
from distill.core.errors import DistillError
from distill.core.records import Message, Problem, Split, problem_id
from distill.core.stage import StageRun, Workspace
from distill.stages.problems import Config, Parted, check, externals, fault, part, run
from distill.text.code_tests import Exchange, StdioTests, dump

EVERYTHING: dict[Split, int | None] = {"train": None, "dev": None, "test": None}


def problem(n: int, split: Split = "train", gold: str | None = "1") -> Problem:
    messages = (Message("user", f"What is {n}?"),)
    return Problem(id=problem_id(messages), messages=messages, gold=gold, split=split)


def parted(problems: list[Problem], counts: dict[Split, int | None] | None = None, *, own: bool = False) -> Parted:
    return part(problems, counts or EVERYTHING, dev_share=0.05, test_share=0.15, own=own)


def splits(result: Parted) -> dict[str, Split]:
    return {p.id: p.split for p in result.problems}


def test_shares_are_about_as_asked():
    result = splits(parted([problem(n) for n in range(4000)]))

    shares = {split: list(result.values()).count(split) / 4000 for split in ("train", "dev", "test")}
    assert shares == pytest.approx({"train": 0.80, "dev": 0.05, "test": 0.15}, abs=0.02)


def test_no_problem_moves_when_rows_are_added_or_shuffled():
    few = [problem(n) for n in range(300)]
    many = [problem(n) for n in range(600)]
    random.Random(0).shuffle(many)

    before, after = splits(parted(few)), splits(parted(many))

    assert all(after[key] == split for key, split in before.items())


def test_the_order_of_rows_changes_nothing():
    problems = [problem(n, gold=str(n)) for n in range(200)]
    limits: dict[Split, int | None] = {"train": 50, "dev": 5, "test": 10}

    shuffled = random.Random(0).sample(problems, 200)

    assert parted(problems, limits) == parted(shuffled, limits)


def test_limits_are_filled_and_a_zero_is_a_limit():
    result = parted([problem(n) for n in range(500)], {"train": 20, "dev": 0, "test": None})

    assert [p.split for p in result.problems].count("train") == 20
    assert "dev" not in {p.split for p in result.problems}
    assert result.over_limit == 500 - len(result.problems)


def test_a_declared_split_is_kept():
    problems = [problem(n, "test" if n % 2 else "dev") for n in range(50)]

    assert splits(parted(problems, own=True)) == {p.id: p.split for p in problems}


def test_a_problem_in_two_splits_is_an_error():
    with pytest.raises(DistillError, match=r"one problem is in train and in test: 'What is 7\?'"):
        parted([problem(7, "train"), problem(8), problem(7, "test")], own=True)


def test_repeats_and_conflicting_golds_are_counted():
    result = parted([problem(1), problem(1), problem(2, gold="3"), problem(2, gold="2")])

    assert (result.repeated, result.conflicting) == (2, 1)
    assert {p.gold for p in result.problems} == {"1", "2"}


def test_what_stays_of_repeats_does_not_depend_on_their_order():
    twins = [replace(problem(1), source=source, gold=gold) for source in "xyz" for gold in ("2", "1")]
    limits: dict[Split, int | None] = {"train": 3, "dev": 0, "test": 0}
    some = [replace(p, split="train") for p in [*twins, *(problem(n) for n in range(2, 9))]]

    for order in (some, some[::-1], random.Random(0).sample(some, len(some))):
        result = parted(order, limits, own=True)
        assert result == parted(some, limits, own=True)
        assert (result.repeated, result.conflicting, result.over_limit) == (5, 1, 5)
        assert [p.source for p in result.problems if p.id == twins[0].id] in ([], ["x"])


def test_other_tests_are_another_gold():
    one, other = (replace(problem(1), gold=None, tests=tests) for tests in ("a", "b"))

    result = parted([other, one, one])

    assert (result.repeated, result.conflicting, result.problems[0].tests) == (2, 1, "a")
    assert result.examples == {"conflicting golds": ["What is 1?"]}


def test_only_hashes_of_what_is_over_a_limit_are_held():
    import tracemalloc

    def many() -> Iterator[Problem]:
        for n in range(6000):
            yield replace(problem(n), reference_reasoning=f"{n}" * 1000)

    tracemalloc.start()
    result = parted(many(), {"train": 10, "dev": 10, "test": 10})  # type: ignore[arg-type]  # an iterator will do
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (len(result.problems), result.over_limit) == (30, 5970)
    assert peak < 8_000_000, "6,000 worked solutions of 4 kB are 24 MB"


def graded(verifier: str | None, gold: str | None = None, tests: str | None = None) -> str | None:
    known = ["math", "code", "choice", "exact", "reasoning_gym"]
    return fault(replace(problem(1), verifier=verifier, gold=gold, tests=tests), known)


def test_golds_are_looked_at_as_the_problem_s_verifier_will():
    tests = dump(StdioTests((Exchange("1", "2"),)))

    assert [graded(None, gold) for gold in ("7", "see figure", None)] == [None, "gold is no answer", "no gold answer"]
    assert graded("math", r"\frac{1}{2") == "gold is broken LaTeX"
    assert [graded("code", None, found) for found in (tests, None)] == [None, "no tests"]
    assert graded("code", "7", "{}").startswith("tests cannot be used")  # type: ignore[union-attr]  # a text, or it fails
    assert graded(None, None, tests) is None
    assert [graded("choice", gold) for gold in ("C", " c ", "3", "AB", None)] == [
        None, None, "gold is no option letter", "gold is no option letter", "no gold answer",
    ]  # fmt: skip
    assert [graded("exact", gold) for gold in ("see figure", "", None)] == [None, "no gold answer", "no gold answer"]
    assert graded("reasoning_gym", None, '{"task": "x", "entry": {}}') is None
    assert (
        graded("reasoning_gym", "7")
        == "tests cannot be used: tests are not JSON (Expecting value: line 1 column 1 (char 0))"
    )
    assert graded("my.own.verifier", "7") is None
    assert graded("chioce", "A") == "no verifier `chioce`"


def test_too_many_bad_golds_stop_the_stage_before_anything_is_paid_for(tmp_path: Path):
    rows = [{"question": f"q{n}", "answer": "see figure" if n < 8 else "7"} for n in range(10)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"jsonl": {"path": str(path)}}

    with pytest.raises(
        DistillError, match=r"8 of 10 golds or tests cannot be graded .*8 gold is no answer.*max_ungrad"
    ):
        run(stage(tmp_path, Config.model_validate({"source": source})))
    assert not (tmp_path / "problems.parquet").exists()
    run(stage(tmp_path, Config.model_validate({"source": source, "max_ungradable": 0.8})))


def test_problems_without_any_gold_are_let_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"question": f"question {n}"}) + "\n" for n in range(10)))

    report = run(stage(tmp_path, Config.model_validate({"source": {"jsonl": {"path": str(path), "gold": None}}})))

    assert report.data["ungradable"] == {"no gold answer": 10}
    assert capsys.readouterr().err.count("no gold answer: 'question") == 3, "the first few are shown"


def test_the_table_is_by_domain_and_source(tmp_path: Path):
    for name in ("a", "b"):
        rows = [{"question": f"{name}{n}", "answer": "?" if n == 0 else "7"} for n in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = {
        name: {
            "source": {"jsonl": {"path": str(tmp_path / f"{name}.jsonl"), "licence": "MIT"}},
            "count": 10, "thinking": None if name == "a" else False,
        }
        for name in ("a", "b")
    }  # fmt: skip

    report = run(stage(tmp_path, Config.model_validate({"source": {"mixture": {"parts": parts}}, "dev_share": 0.0})))

    assert [(row["domain"], row["source"], row["licence"]) for row in report.rows] == [
        ("a", "a.jsonl", "MIT"), ("b", "b.jsonl", "MIT")
    ]  # fmt: skip
    assert [row["train"] + row["test"] for row in report.rows] == [10, 10]
    assert [row["without thinking"] for row in report.rows] == [0, 10]
    stored = tables.read(tmp_path / "problems.parquet", Problem)
    assert {p.thinking for p in stored if p.domain == "b"} == {False}


def test_a_missing_file_of_a_mixture_is_found_before_anything_runs(tmp_path: Path):
    parts = {"a": {"source": {"math": {"path": str(tmp_path / "nowhere.jsonl")}}, "count": 3}}
    config = Config.model_validate({"source": {"mixture": {"parts": parts}}})

    found = check({"problems": config})

    assert found is not None
    assert "nowhere.jsonl: no such file" in found[1]
    assert check({"problems": Config.model_validate({"source": {"hub": {"path": "openai/gsm8k"}}})}) is None


def test_shares_of_more_than_all_are_refused():
    with pytest.raises(ValidationError, match="more than all"):
        Config(dev_share=0.5, test_share=0.6)


@pytest.mark.parametrize(
    "section",
    [
        {"source": "embedded", "train": 10, "dev": 2, "test": 4},
        {"source": {"embedded": {"seed": 1}}, "train": 10, "dev": 2, "test": 4},
    ],
)
def test_the_embedded_source_gives_what_is_asked_for(tmp_path: Path, section: dict[str, object]):
    report = run(stage(tmp_path, Config.model_validate(section)))

    assert report.data["splits"] == {"train": 10, "dev": 2, "test": 4}
    assert len(tables.read(tmp_path / "problems.parquet", Problem)) == 16


def test_ungradable_golds_are_counted_and_shown(tmp_path: Path):
    rows = [{"question": f"q{n}", "answer": ["7", "see figure", None][n % 3]} for n in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config.model_validate({"source": {"jsonl": {"path": str(path)}}})

    report = run(stage(tmp_path, config))

    assert report.data["ungradable"] == {"gold is no answer": 10, "no gold answer": 10}
    assert "10 no gold answer" in report.summary
    assert sum(row["ungradable gold"] for row in report.rows) == 20


def test_a_missing_file_is_named_before_anything_runs(tmp_path: Path):
    config = Config.model_validate({"source": {"gsm8k": {"path": str(tmp_path / "nowhere.jsonl")}}})

    with pytest.raises(DistillError, match=r"nowhere\.jsonl: no such file"):
        externals({"problems": config})


def test_an_empty_source_is_an_error(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("\n")
    config = Config.model_validate({"source": {"jsonl": {"path": str(tmp_path / "rows.jsonl")}}})

    with pytest.raises(DistillError, match="source `jsonl` gave none"):
        run(stage(tmp_path, config))


def test_gsm8k_train_and_test_do_not_meet(shared_data: Path, tmp_path: Path):
    sizes = {}
    for name, split in (("train", "train"), ("test", "test")):
        settings = {"path": str(shared_data / "gsm8k" / f"{name}.jsonl.gz"), "split": split}
        out = tmp_path / name
        out.mkdir()
        run(stage(out, Config.model_validate({"source": {"gsm8k": settings}})))
        sizes[name] = tables.read(out / "problems.parquet", Problem)

    together = [*sizes["train"], *sizes["test"]]
    assert len(parted(together, own=True).problems) == len({p.id for p in together})
    with pytest.raises(DistillError, match="in train and in test"):
        parted([*together, replace(sizes["test"][0], split="train")][::-1], own=True)


def stage(out: Path, config: Config) -> StageRun:
    return StageRun("problems", out, {}, {"problems": config}, 0, Workspace(out))
