"""The `verify` stage: five values that mean what they say, kept by key, with and without the ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import experiment, pipeline, regrade
from distill.cli import app
from distill.core import tables
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.protocols import Finding
from distill.core.records import Sample, Verdict
from distill.core.stage import Workspace
from distill.pipeline import Runner
from distill.stages import verify
from distill.stages.labels import Label
from distill.stages.verify import Config, Graders, grade, run
from distill.verifiers.math import MathVerifier
from tests.stages.answers import make_problem, make_sample, make_stage

MATH = Config().verifier


def choose(verifier: Any) -> Choice:
    """A verifier as an experiment writes it."""
    return Config.model_validate({"verifier": verifier}).verifier


class Store:
    """A ledger in memory that counts what it is asked to keep."""

    def __init__(self) -> None:
        self.kept: dict[str, Verdict] = {}

    def verdicts(self, keys: Sequence[str]) -> dict[str, Verdict]:
        return {key: self.kept[key] for key in keys if key in self.kept}

    def put_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        assert not any(verdict.key in self.kept for verdict in verdicts), "graded twice"
        self.kept |= {verdict.key: verdict for verdict in verdicts}


def test_truncated_answers_count_against_the_model_and_bad_golds_do_not(tmp_path: Path):
    right, bad = make_problem(1), make_problem(2, gold="see figure")
    samples = [
        make_sample(right, r"\boxed{7}", 0),
        make_sample(right, r"\boxed{7", 1, finish_reason="length"),
        make_sample(bad, r"\boxed{14}", 0),
        make_sample(right, "", 2, finish_reason="error", error="connection lost"),
    ]

    report = run(make_stage(tmp_path, "verify", Config(), [right, bad], samples))

    verdicts = tables.read(tmp_path / "out" / "verdicts.parquet", Verdict)
    assert [v.value for v in verdicts] == ["correct", "unparseable", "ungradable", "error"]
    assert [v.sample_key for v in verdicts] == [s.key for s in samples]
    assert verdicts[3].reason == "connection lost"
    assert report.rows[0]["correct of graded"] == "50.0%"
    assert report.summary == "correct 1   unparseable 1   ungradable 1   error 1"
    assert report.data["reasons"]["unparseable: truncated"] == 1


def test_the_answer_is_never_read_from_thinking():
    problem = make_problem(1)
    samples = [
        make_sample(problem, r"\boxed{8}", 0, reasoning=r"\boxed{7}"),
        make_sample(problem, "", 1, reasoning=r"\boxed{7}", closed=False, finish_reason="length"),
    ]

    verdicts = grade({problem.id: problem}, samples, MATH)

    assert [v.value for v in verdicts] == ["wrong", "unparseable"]


def test_verdicts_are_kept_by_key_and_a_corrected_gold_grades_again():
    problem, store = make_problem(1), Store()
    samples = [make_sample(problem, r"\boxed{7}", n) for n in range(3)]

    first = grade({problem.id: problem}, samples, MATH, store=store)
    again = grade({problem.id: problem}, samples, MATH, store=store)
    corrected = replace(problem, gold="8")
    after = grade({problem.id: corrected}, samples, MATH, store=store)

    assert first == again == grade({problem.id: problem}, samples, MATH)
    assert {v.value for v in first} == {"correct"}
    assert {v.value for v in after} == {"wrong"}
    assert len(store.kept) == 6


def test_a_longer_limit_gives_the_same_sample_another_verdict():
    problem, store = make_problem(1), Store()
    cut = make_sample(problem, "", finish_reason="length", closed=False)
    whole = make_sample(problem, r"\boxed{7}", max_tokens=200)
    assert cut.key == whole.key

    values = [grade({problem.id: problem}, [sample], MATH, store=store)[0].value for sample in (cut, whole)]

    assert values == ["unparseable", "correct"]


def test_errors_are_not_kept():
    problem, store = make_problem(1), Store()

    grade({problem.id: problem}, [make_sample(problem, "", finish_reason="error", error="down")], MATH, store=store)

    assert store.kept == {}


def test_a_problems_own_verifier_goes_first():
    problem = make_problem(1, verifier="math", verifier_settings={"percent": "ignore"}, gold="7%")

    assert grade({problem.id: problem}, [make_sample(problem, r"\boxed{7}")], MATH)[0].value == "correct"
    plain = replace(problem, verifier=None, verifier_settings={})
    assert grade({problem.id: plain}, [make_sample(problem, r"\boxed{7}")], MATH)[0].value == "wrong"


def test_an_answer_to_no_problem_is_an_error():
    with pytest.raises(DistillError, match="a problem that is not there"):
        grade({}, [make_sample(make_problem(1), "7")], MATH)


def test_the_ledger_keeps_verdicts_between_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problems = [make_problem(n) for n in range(1, 5)]
    samples = [make_sample(p, rf"\boxed{{{p.gold}}}") for p in problems]
    run(make_stage(tmp_path, "verify", Config(), problems, samples))
    first = tables.read(tmp_path / "out" / "verdicts.parquet", Verdict)

    monkeypatch.setattr("distill.verifiers.math.MathVerifier.grade", lambda _, answers: 1 / len(answers) and [])
    run(make_stage(tmp_path, "verify", Config(), problems, samples))

    assert tables.read(tmp_path / "out" / "verdicts.parquet", Verdict) == first


def test_a_verifier_that_reads_the_reasoning_grades_again_where_only_that_changed():
    problem, store = make_problem(1), Store()
    form = choose({"format": {"boxed": True}})
    thought = make_sample(problem, r"\boxed{7}", reasoning="seven")
    thoughtless = replace(thought, reasoning="")

    values = [grade({problem.id: problem}, [s], form, store=store)[0].value for s in (thought, thoughtless)]
    both = choose({"all_of": ["math", {"format": {"boxed": True}}]})
    together = [grade({problem.id: problem}, [s], both, store=store)[0].value for s in (thought, thoughtless)]

    assert values == together == ["correct", "wrong"]


def test_a_verifier_that_reads_the_answer_alone_keeps_its_verdict_whatever_was_thought():
    problem, store = make_problem(1), Store()
    sample = make_sample(problem, r"\boxed{7}", reasoning="seven")

    keys = {grade({problem.id: problem}, [replace(sample, reasoning=text)], MATH, store=store)[0].key for text in "ab"}

    assert len(keys) == len(store.kept) == 1


@given(plan=st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["math", "exact", "numeric"])), max_size=12))
@settings(max_examples=25, deadline=None)
def test_verdicts_are_in_the_order_of_the_answers_whatever_the_chunks_and_verifiers(plan: list[tuple[int, str]]):
    problems = {p.id: p for p in (make_problem(n, verifier=name) for n, name in plan)}
    samples = [make_sample(p, f"{7 * (i % 5)}", i) for i, p in enumerate(problems.values())]
    samples += [make_sample(p, f"{7 * (i % 3)}", 20 + i) for i, p in enumerate(reversed(problems.values()))]
    alone = [grade(problems, [sample], MATH, quiet=True)[0] for sample in samples]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "CHUNK", 3)
        assert grade(problems, samples, MATH, quiet=True) == alone


def test_the_stage_reads_grades_and_writes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problems = [make_problem(n) for n in range(1, 30)]
    samples = [make_sample(p, rf"\boxed{{{7 * (n % 3 + 1)}}}", n) for n, p in enumerate(problems * 3)]
    sizes: list[int] = []
    whole = run(make_stage(tmp_path / "whole", "verify", Config(), problems, samples))
    graded = MathVerifier.grade
    monkeypatch.setattr(
        MathVerifier, "grade", lambda self, answers: sizes.append(len(answers)) or graded(self, answers)
    )
    monkeypatch.setattr(verify, "CHUNK", 10)

    chunked = run(make_stage(tmp_path / "chunks", "verify", Config(), problems, samples))

    assert sizes == [10] * 8 + [7]
    assert chunked == whole
    files = [tmp_path / name / "out" / "verdicts.parquet" for name in ("whole", "chunks")]
    assert tables.read(files[0], Verdict) == tables.read(files[1], Verdict)


def test_verifiers_use_all_cores_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "usable_cores", lambda: 13)
    problem = make_problem(1)
    asked = {name: replace(problem, id=name, verifier=None) for name in "ab"}

    def workers(verifier: Choice) -> list[int]:
        with Graders(verifier) as graders:
            graders.grade(asked, [make_sample(asked["a"], "7")])
            opened: Any = next(iter(graders._open.values()))
            return [part.workers.count for part in getattr(opened, "_parts", [opened])]

    assert workers(MATH) == [13]
    assert workers(choose({"math": {"workers": 3}})) == [3]
    assert workers(choose({"any_of": ["math", {"math": {"workers": 3}}]})) == [13, 3]


def test_an_upgraded_verifier_makes_the_stage_stale(monkeypatch: pytest.MonkeyPatch):
    before = verify.externals({"verify": Config()})
    monkeypatch.setattr("distill.verifiers.math.VERSION", 1000)

    assert verify.externals({"verify": Config()}) != before


def test_so_does_an_upgraded_verifier_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "judging.py").write_text("from distill.verifiers.math import Config, build\nVERSION = 1\n")
    config = Config.model_validate({"verifier": "mine.judging"})
    before = verify.externals({"verify": config})
    monkeypatch.setattr("mine.judging.VERSION", 2)

    assert verify.externals({"verify": config}) != before


# ---- grading again


EXPERIMENT = """\
name: again
problems: {source: {jsonl: {path: PATH, gold: gold, solution: said, split: train}}}
import: {}
verify: {verifier: math}
filter: [verdict]
"""


def prepared(folder: Path, golds: Sequence[str], verifier: Any = "math") -> Callable[[], Runner]:
    """A runner of an experiment whose answers are all "7", boxed from golds that were 7 when they were imported."""
    path = folder / "rows.jsonl"
    rows = [{"question": f"Question {n}?", "gold": gold, "said": "so"} for n, gold in enumerate(golds)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = EXPERIMENT.replace("PATH", str(path)).replace("verifier: math", f"verifier: {json.dumps(verifier)}")
    (folder / "again.yaml").write_text(text)
    loaded = experiment.load(folder / "again.yaml", pipeline.SECTIONS)
    return lambda: Runner(loaded, Workspace(folder / "runs"))


def test_a_corrected_gold_is_graded_again_without_a_sample_and_what_changed_is_listed(tmp_path: Path):
    list(prepared(tmp_path, ["7"] * 5)().run())

    found = regrade.regrade(prepared(tmp_path, ["7", "8", "7", "see figure", "7.0"])(), shown=1)

    assert found.rows == [
        {"was": "correct", "is": "ungradable", "answers": 1},
        {"was": "correct", "is": "wrong", "answers": 1},
    ]
    assert found.summary.startswith("2 of 5 verdicts changed; 3 are as they were")
    (example,) = found.data["examples"]
    assert (example["was"].partition(":")[0], example["gold"], example["answer"]) in [
        ("correct", "8", "7"), ("correct", "see figure", "7"),
    ]  # fmt: skip
    assert example["question"].startswith("Question")


def test_nothing_changes_where_nothing_did_and_the_ledger_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runner = prepared(tmp_path, ["7", "9"])
    list(runner().run())
    monkeypatch.setattr("distill.verifiers.math.MathVerifier.grade", lambda _, answers: 1 / len(answers) and [])

    found = regrade.regrade(runner())

    assert (found.data["changed"], found.data["same"], found.rows) == (0, 2, [])


def test_an_upgrade_is_listed_and_the_next_run_takes_its_verdicts_from_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runner = prepared(tmp_path, ["7", "9"])
    list(runner().run())
    monkeypatch.setattr("distill.verifiers.math.VERSION", 1000)
    monkeypatch.setattr(MathVerifier, "version", 1000)
    upgraded = [Finding("wrong", "the new version says so")]
    monkeypatch.setattr(MathVerifier, "grade", lambda _, answers: upgraded * len(answers))

    found = regrade.regrade(runner())
    monkeypatch.setattr(MathVerifier, "grade", lambda _, answers: 1 / len(answers) and [])
    done = {item.stage.name: item for item in runner().run()}

    assert found.rows == [{"was": "correct", "is": "wrong", "answers": 2}]
    assert [done[name].ran for name in ("problems", "import", "verify", "filter")] == [False, False, True, True]
    assert done["verify"].manifest.data["counts"]["verdicts"]["wrong"] == 2


def test_without_an_earlier_verify_there_is_nothing_to_compare_with(tmp_path: Path):
    with pytest.raises(DistillError, match="nothing was graded yet"):
        regrade.regrade(prepared(tmp_path, ["7"])())


def test_the_command_lists_what_changed_as_a_table_and_as_json(tmp_path: Path):
    list(prepared(tmp_path, ["7"] * 3)().run())
    prepared(tmp_path, ["7", "8", "9"])
    words = ["verify", "--regrade", str(tmp_path / "again.yaml"), "--workspace", str(tmp_path / "runs")]

    table = CliRunner().invoke(app, words)
    data = json.loads(CliRunner().invoke(app, [*words, "--show", "1", "--json"]).stdout)

    assert table.exit_code == 0, table.output
    assert "2 of 3 verdicts changed; 1 are as they were" in table.stdout
    assert "wrong: " in table.stdout
    assert data["rows"] == [{"was": "correct", "is": "wrong", "answers": 2}]
    assert len(data["counts"]["examples"]) == 1


def test_a_gold_that_came_since_goes_before_the_majority_label(tmp_path: Path):
    list(prepared(tmp_path, ["7", "7"])().run())
    (samples,) = (tmp_path / "runs" / "again").glob("import-*/samples.parquet")
    ids = sorted({sample.problem_id for sample in tables.read(samples, Sample)})
    labels = [Label(ids[0], "8", 2, 2, 1.0, 0.5, False)]
    tables.write(samples.parent / "labels.parquet", labels, Label)

    found = regrade.regrade(prepared(tmp_path, ["7", "7.00"])())

    assert (found.data["changed"], found.data["same"]) == (0, 2)


def test_grading_again_asks_no_judge(tmp_path: Path):
    list(prepared(tmp_path, ["7", "9"])().run())
    judge = {"judge": {"engine": "transformers", "model": "embedded-student", "rubric": "Is it right?"}}

    with pytest.raises(DistillError, match="which costs tokens"):
        regrade.regrade(prepared(tmp_path, ["7", "9"], {"all_of": ["exact", judge]})())


def test_every_arm_is_compared_with_its_own_verdicts(tmp_path: Path):
    arms = "seeds: [0, 1]\narms: {a: {}, b: {verify: {verifier: exact}}, c: {verify: {verifier: choice}}}\n"
    for gold in ("7", "7.0"):
        prepared(tmp_path, [gold, gold])
        path = tmp_path / "again.yaml"
        path.write_text(path.read_text() + arms)
        loaded = experiment.load(path, pipeline.SECTIONS)
        if gold == "7":
            list(Runner(loaded, Workspace(tmp_path / "runs")).run())

    found = regrade.regrade(Runner(loaded, Workspace(tmp_path / "runs")))

    assert found.rows == [{"was": "correct", "is": "wrong", "answers": 2}]
    assert found.data["same"] == 4  # `choice` finds a number ungradable, before and after


def test_a_verifier_that_cannot_work_here_is_refused_before_anything_is_paid_for(monkeypatch: pytest.MonkeyPatch):
    sections = {"verify": Config.model_validate({"verifier": "code"})}
    monkeypatch.setattr("distill.sandbox.box.shutil.which", lambda name: None)

    fault = verify.check(sections)

    assert fault is not None
    assert fault[0] == ("verify", "verifier")
    assert "apt-get install bubblewrap" in fault[1]
    assert verify.check({"verify": Config()}) is None
