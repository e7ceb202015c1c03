"""The sample stage: what policies ask is bought once, what is written depends on the answers alone."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.core import tables
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.records import Message, Problem, Sample, Trace, Verdict, problem_id, sample_key
from distill.core.stage import Report, StageRun, Workspace
from distill.stages import filter as filtering
from distill.stages import labels, verify
from distill.verifiers.math import MathVerifier
from teachers import outcomes, sample
from teachers.outcomes import Outcome
from teachers.settings import Config as TeacherConfig
from tests.teachers import scripted_engine
from tests.teachers.scripted_engine import ASKED, BUILT, STOP_AFTER

ENGINE = "tests.teachers.scripted_engine"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    for kept in (ASKED, BUILT, STOP_AFTER):
        kept.clear()
    yield
    STOP_AFTER.clear()


def problem(text: str, gold: str | None = "7", **fields: Any) -> Problem:
    messages = (Message("user", text),)
    return Problem(problem_id(messages), messages, gold=gold, **{"split": "train", **fields})


MIXED = [problem(f"p={rate} n{n}") for rate in ("0", "0.3", "0.6", "1") for n in range(6)]


def stage(
    root: Path, problems: Sequence[Problem], policy: Any, *, engine: dict[str, Any] | None = None, **settings: Any
) -> StageRun:
    """The stage as the pipeline would run it, in the workspace `root`."""
    tables.write(root / "problems" / "problems.parquet", problems, Problem)
    teacher = settings.pop("teacher", {})
    sections: dict[str, Settings] = {
        "sample": sample.Config.model_validate({"policy": policy, "max_tokens": 100, **settings}),
        "teacher": TeacherConfig.model_validate(
            {"model": "stub", "engine": {"engine": ENGINE, **(engine or {})}, **teacher}
        ),
        "verify": verify.Config(),
    }
    out = root / "sample"
    out.mkdir(parents=True, exist_ok=True)
    inputs = {"problems": root / "problems", "sample": out, "verify": root / "verify"}
    return StageRun("sample", out, inputs, sections, 0, Workspace(root))


def run(root: Path, problems: Sequence[Problem], policy: Any, **settings: Any) -> tuple[list[Sample], Report]:
    made = stage(root, problems, policy, **settings)
    report = sample.run(made)
    return tables.read(made.out / "samples.parquet", Sample), report


def read_outcomes(root: Path) -> dict[str, Outcome]:
    return {one.problem_id: one for one in tables.read(root / "sample" / outcomes.FILE, Outcome)}


def verified(made: StageRun) -> list[Verdict]:
    out = made.inputs["verify"]
    out.mkdir(exist_ok=True)
    verify.run(StageRun("verify", out, made.inputs, made.sections, 0, made.workspace))
    return tables.read(out / "verdicts.parquet", Verdict)


def traces(made: StageRun) -> list[Trace]:
    out = made.out.parent / "filter"
    out.mkdir(exist_ok=True)
    sections = {"filter": filtering.Config.model_validate(["verdict"])}
    filtering.run(StageRun("filter", out, made.inputs, sections, 0, made.workspace))
    return tables.read(out / "traces.parquet", Trace)


def written(root: Path) -> dict[str, str]:
    """Hashes of all that the stage wrote."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "sample").iterdir()}


# rounds


def test_samples_come_in_order_of_problems_and_indices(tmp_path: Path):
    samples, report = run(tmp_path, MIXED, {"fixed": 3})

    assert [(s.problem_id, s.index) for s in samples] == [(p.id, i) for p in MIXED for i in range(3)]
    assert all(s.latency_s == 0 and s.created == "" for s in samples)
    assert report.data["samples"] == len(ASKED) == 72
    assert report.data["tokens"] == 720
    assert report.data["family"]["distillation"] == "unknown"  # kept, so that the run can be published later
    assert report.data["family"]["notice"] == report.data["terms"]
    found = read_outcomes(tmp_path)
    assert [one.problem_id for one in found.values()] == [p.id for p in MIXED]
    assert {(one.asked, one.graded, one.stopped) for one in found.values()} == {(3, None, "n")}


def test_adaptive_spends_where_answers_are_still_wrong(tmp_path: Path):
    samples, report = run(tmp_path, MIXED, {"adaptive": {"k": 2, "max_n": 6, "hopeless_after": 4}})

    found = read_outcomes(tmp_path)
    assert {(one.asked, one.stopped) for one in map(found.get, [p.id for p in MIXED[:6]]) if one} == {(4, "hopeless")}
    assert {(one.asked, one.pass_rate) for one in map(found.get, [p.id for p in MIXED[18:]]) if one} == {(2, 1.0)}
    assert len(samples) == len(ASKED) == sum(one.asked for one in found.values())
    assert len({request.key for request in ASKED}) == len(ASKED)
    assert len(BUILT) == 1, "one engine serves all rounds"
    assert report.data["stopped"]["hopeless"] >= 6
    assert "hopeless" in report.summary
    for one in found.values():
        if one.stopped == "k correct":
            assert one.correct == 2
            assert one.pass_rate == pytest.approx(1 / (one.asked - 1))


def test_what_all_rounds_have_cost_is_shown_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _, report = run(
        tmp_path, MIXED, {"adaptive": {"k": 2, "max_n": 6}}, teacher={"price": {"input": 1e4, "output": 1e4}}
    )

    spent = 13 * len(ASKED)
    assert (report.data["spent_tokens"], report.data["spent_cost"]) == (spent, pytest.approx(spent / 100))
    assert report.data["cost"] == pytest.approx(spent / 100)
    assert f"cost {spent / 100:,.2f}" in report.summary
    assert re.search(
        rf"{len(ASKED)} answers bought, .* {spent:,} tokens, cost {spent / 100:,.2f}", capsys.readouterr().err
    )


def test_verify_pays_nothing_for_what_the_policy_has_graded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = stage(tmp_path, MIXED, {"adaptive": {"k": 2, "max_n": 6}})
    sample.run(made)
    graded: list[Any] = []
    monkeypatch.setattr(MathVerifier, "grade", lambda _, answers: graded.extend(answers) or [])

    verdicts = verified(made)

    assert graded == []
    found = read_outcomes(tmp_path)
    right = Counter(v.value for v in verdicts)["correct"]
    assert right == sum(one.correct or 0 for one in found.values())


@pytest.mark.parametrize("policy", [{"fixed": 3}, {"adaptive": {"k": 2, "max_n": 6}}, {"star": {"n": 2}}])
def test_stops_and_order_change_nothing_that_is_written(tmp_path: Path, policy: Any):
    run(tmp_path / "whole", MIXED, policy)
    paid = Counter(request.key for request in ASKED)
    ASKED.clear()
    for stop in (1, 20, 41, 60):
        STOP_AFTER[:] = [stop]
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", MIXED, policy)
    STOP_AFTER.clear()
    run(tmp_path / "stopped", MIXED, policy)

    assert written(tmp_path / "stopped") == written(tmp_path / "whole")
    assert Counter(request.key for request in ASKED) == paid


def test_a_failed_answer_is_owed_and_holds_up_only_its_own_problem(tmp_path: Path):
    policy = {"adaptive": {"k": 2, "max_n": 6}}
    with pytest.raises(DistillError, match=r"2 answers failed \(it refuses\)"):
        run(tmp_path, MIXED, policy, engine={"fail_on": "p=0.3 n2"})
    first = len(ASKED)

    run(tmp_path, MIXED, policy)

    assert all("p=0.3 n2" in request.messages[0].content for request in ASKED[first:])
    run(tmp_path / "whole", MIXED, policy)
    assert written(tmp_path) == written(tmp_path / "whole")


# gold answers, before anything is paid


def test_problems_without_a_gradable_gold_are_set_aside_before_the_first_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    bad = [problem("p=1 figure", "see figure"), problem("p=1 none", None)]

    _, report = run(tmp_path, [*MIXED[:2], *bad], {"adaptive": {"k": 1, "max_n": 2}})

    assert not any("figure" in r.messages[0].content or "none" in r.messages[0].content for r in ASKED)
    assert "warning: 2 of 4 training problems" in capsys.readouterr().err
    assert report.data["set_aside"] == 2
    assert {one.stopped for one in read_outcomes(tmp_path).values() if not one.asked} == {"set aside"}


def test_if_none_is_gradable_a_policy_that_looks_at_verdicts_refuses(tmp_path: Path):
    with pytest.raises(DistillError, match="none of 1 training problems can be graded"):
        run(tmp_path, [problem("p=1", None)], "star")
    assert BUILT == []


def test_other_policies_warn_and_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    samples, _ = run(tmp_path, [problem("p=1", None)], {"fixed": 2})

    assert len(samples) == 2
    assert "their answers cannot be graded" in capsys.readouterr().err


# star


def test_a_rationalised_trace_is_stored_without_its_hint(tmp_path: Path):
    problems = [problem("p=0 hinted=1", "7"), problem("p=1", "7"), problem("p=0 hinted=0", "7")]
    made = stage(tmp_path, problems, {"star": {"n": 2, "tries": 2}})
    sample.run(made)
    verified(made)
    kept = traces(made)

    hinted = [request for request in ASKED if "Hint" in request.messages[0].content]
    assert {request.messages[0].content for request in hinted} == {
        "p=0 hinted=1\n(Hint: the answer is 7.)", "p=0 hinted=0\n(Hint: the answer is 7.)"
    }  # fmt: skip
    assert len(hinted) == 3, "one try where it helped, two where it did not"
    (trace,) = [trace for trace in kept if trace.problem_id == problems[0].id]
    assert trace.label_source == "rationalised"
    assert trace.messages == problems[0].messages
    assert trace.prompt_ids is None
    assert "Hint" not in trace.answer + (trace.reasoning or "")
    assert {trace.label_source for trace in kept if trace.problem_id == problems[1].id} == {"gold"}
    samples = tables.read(made.out / "samples.parquet", Sample)
    assert [(s.rationalised, s.index) for s in samples[:3]] == [(False, 0), (False, 1), (True, 0)]
    assert {s.logits for s in samples if s.rationalised} == {None}
    found = read_outcomes(tmp_path)[problems[0].id]
    assert (found.stopped, found.asked, found.hinted, found.pass_rate) == ("hint", 2, 1, 0.0)


# majority labels


def test_labels_are_written_where_there_is_no_gold_and_never_pass_for_gold(tmp_path: Path):
    agreed, split, gold = problem("p=0.9 says=3 x", None), problem("p=0.5 says=3 y", None), problem("p=1", "7")
    made = stage(tmp_path, [agreed, split, gold], {"self_consistency": {"n": 20, "threshold": 0.75}})
    sample.run(made)
    found = {label.problem_id: label for label in tables.read(made.out / labels.FILE, labels.Label)}
    verdicts = verified(made)

    assert set(found) == {agreed.id, split.id}
    assert found[agreed.id].label == "7"
    assert found[agreed.id].label_source == "majority"
    assert found[agreed.id].support == found[agreed.id].votes / 20 >= 0.75
    assert found[split.id].low_support
    by_problem = {
        p.id: {v.label_source for v in verdicts[i * 20 : i * 20 + 20]} for i, p in enumerate((agreed, split, gold))
    }
    assert by_problem == {agreed.id: {"majority"}, split.id: {"gold"}, gold.id: {"gold"}}
    assert {v.value for v in verdicts[20:40]} == {"ungradable"}, "nothing is graded by a label of low support"
    kept = [trace for trace in traces(made) if trace.problem_id == agreed.id]
    assert {(t.label_source, t.label_support, t.gold) for t in kept} == {("majority", found[agreed.id].support, None)}
    with Ledger(made.workspace.ledger) as ledger:
        samples = tables.read(made.out / "samples.parquet", Sample)[:20]
        plain = verify.grade({agreed.id: agreed}, samples, verify.Config().verifier, store=ledger)
        assert {v.value for v in plain} == {"ungradable"}, "an evaluation knows no labels"
        told = problem("p=0.9 says=3 x", "7")
        real = verify.grade({told.id: told}, samples, verify.Config().verifier, store=ledger)
        assert {v.label_source for v in real} == {"gold"}, "a gold answer of the same text is another verdict"


def test_a_label_of_a_problem_with_gold_or_of_a_test_problem_is_refused(tmp_path: Path):
    unlabelled = problem("p=1 x", None)
    made = stage(tmp_path, [unlabelled], {"self_consistency": 3})
    sample.run(made)

    for other, why in (
        (problem("p=1 x", "7"), "has a gold answer"),
        (problem("p=1 x", None, split="test"), "is in test"),
    ):
        tables.write(tmp_path / "problems" / "problems.parquet", [other], Problem)
        with pytest.raises(DistillError, match=why):
            verified(made)


# limits


def test_cut_answers_are_kept_as_cut_and_not_bought_again(tmp_path: Path):
    problems = [problem(f"p=1 long={long}") for long in (10, 300)]
    for _ in range(2):
        samples, report = run(tmp_path, problems, {"fixed": 2})
    assert [s.finish_reason for s in samples] == ["stop", "stop", "length", "length"]
    assert report.data["cut"] == 2
    assert len(ASKED) == 4
    made = stage(tmp_path, problems, {"fixed": 2})
    assert {(v.value, v.reason) for v in verified(made)[2:]} == {("unparseable", "truncated")}


def test_escalation_buys_only_what_was_cut_with_limits_doubling_to_the_cap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    problems = [problem(f"p=1 long={long}") for long in (10, 150, 350, 9999)]

    samples, report = run(tmp_path, problems, {"fixed": 1}, escalate_to=500)

    assert "cut at 100 tokens: 3; tried again with 200" in capsys.readouterr().err
    asked = {p.id: [r.sampling.max_tokens for r in ASKED if r.messages == p.messages] for p in problems}
    assert list(asked.values()) == [[100], [100, 200], [100, 200, 400], [100, 200, 400, 500]]
    assert [s.finish_reason for s in samples] == ["stop", "stop", "stop", "length"]
    assert [s.completion_tokens for s in samples] == [10, 150, 350, 500]
    assert report.data["spent_tokens"] == 4 * 100 - 90 + 150 + 200 * 2 + 350 + 400 + 500 + 3 * len(ASKED)
    ASKED.clear()
    run(tmp_path, problems, {"fixed": 1}, max_tokens=500)
    assert ASKED == [], "raising max_tokens afterwards finds them all"


def test_a_policy_sees_verdicts_after_escalation(tmp_path: Path):
    run(tmp_path, [problem("p=1 long=150")], {"adaptive": {"k": 2, "max_n": 4}}, escalate_to=200)

    (found,) = read_outcomes(tmp_path).values()
    assert (found.asked, found.correct, found.cut) == (2, 2, 0)


# budgets


def test_a_spent_budget_stops_and_keeps_what_was_bought(tmp_path: Path):
    with pytest.raises(DistillError, match=r"the budget is spent .* Raise `sample.budget`"):
        run(tmp_path, MIXED, {"fixed": 2}, budget={"tokens": 600})
    bought = len(ASKED)
    assert 0 < bought < 48

    samples, report = run(tmp_path, MIXED, {"fixed": 2}, budget={"tokens": 6000})

    assert (len(ASKED), len(samples)) == (48, 48)
    assert report.data["spent_tokens"] == 48 * 13


@pytest.mark.parametrize("policy", [{"fixed": 2}, {"adaptive": {"k": 2, "max_n": 6}}])
def test_what_a_budget_has_bought_can_be_used(tmp_path: Path, policy: Any):
    samples, report = run(tmp_path, MIXED, policy, budget={"tokens": 600, "when_spent": "use"})

    assert len(samples) == len(ASKED)
    assert report.data["spent_tokens"] <= 600
    assert report.data["stopped"]["budget"] > 0


def test_the_budget_counts_all_rounds_together(tmp_path: Path):
    budget = 24 * 2 * 13 + 400  # the first round and a little more
    _, report = run(
        tmp_path, MIXED, {"adaptive": {"k": 2, "max_n": 16}}, budget={"tokens": budget, "when_spent": "use"}
    )

    assert report.data["spent_tokens"] == 13 * len(ASKED) <= budget


# what is refused, keyed and said


def sections(policy: Any = "fixed", teacher: dict[str, Any] | None = None, **settings: Any) -> dict[str, Settings]:
    return {
        "sample": sample.Config.model_validate({"policy": policy, **settings}),
        "teacher": TeacherConfig.model_validate({"model": "stub", "engine": {"engine": ENGINE}, **(teacher or {})}),
    }


@pytest.mark.parametrize(
    ("given", "key", "text"),
    [
        (sections("adaptive"), "policy", "needs the section `verify:`"),
        (sections("self_consistency"), "policy", "needs the section `verify:`"),
        (sections(max_tokens=100, escalate_to=100), "escalate_to", "no more than max_tokens, which is 100"),
        (sections(budget={"cost": 1.0}), "budget", "needs `teacher.price`"),
        (sections(teacher={"family": "deepseek-r1"}, system="be brief"), "system", "takes no system prompt"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(given: dict[str, Settings], key: str, text: str):
    found = sample.check(given)

    assert found is not None
    assert found[0] == ("sample", key)
    assert text in found[1]


def test_what_can_work_is_not_refused():
    assert sample.check(sections({"fixed": 2})) is None
    assert sample.check(sections("adaptive") | {"verify": verify.Config()}) is None
    assert sample.check(sections(budget={"cost": 1.0}, teacher={"price": "free"})) is None


def test_the_verifier_counts_only_where_the_policy_looks_at_verdicts():
    with_verifier = [
        sections(policy) | {"verify": verify.Config.model_validate({"verifier": {"math": {"percent": percent}}})}
        for policy in ("fixed", "adaptive")
        for percent in ("strict", "ignore")
    ]
    fixed_strict, fixed_ignore, adaptive_strict, adaptive_ignore = map(sample.keyed, with_verifier)
    assert fixed_strict == fixed_ignore == sample.keyed(sections("fixed"))
    assert adaptive_strict != adaptive_ignore


def test_a_budget_counts_only_where_it_may_leave_something_out():
    plain = sample.keyed(sections())
    assert sample.keyed(sections(budget={"tokens": 100})) == plain
    assert sample.keyed(sections(budget={"tokens": 100, "when_spent": "use"})) != plain


def test_what_is_left_out_comes_from_the_family(tmp_path: Path):
    run(tmp_path, [problem("p=1")], {"fixed": 1}, teacher={"family": "deepseek-r1"}, max_tokens=None)

    (request,) = ASKED
    assert request.messages[0].content.startswith("p=1\nPlease reason step by step")
    assert (request.sampling.temperature, request.sampling.max_tokens) == (0.6, 32768)
    (kept,) = tables.read(tmp_path / "sample" / "samples.parquet", Sample)
    assert kept.problem_id == problem("p=1").id


def test_defaults_ask_what_they_always_asked():
    """The key of an answer as it was before families, policies and mixtures: nothing paid is paid again."""
    teacher = TeacherConfig.model_validate({"model": "embedded"})
    manner = sample.Config.model_validate({"policy": "fixed", "max_tokens": 160}).manner(teacher)

    key = sample_key((Message("user", "What is 17*23?"),), "m", manner.sampling, 3)

    assert key == "00863b171a4e07abc20d1c3f627597971e10d8c9b91fb275589c2cf9cfb4745d"
    assert (manner.system, manner.instruction, manner.limits) == (None, None, [160])


def test_what_is_said_goes_before_the_family(tmp_path: Path):
    run(
        tmp_path,
        [problem("p=1")],
        {"fixed": 1},
        teacher={"family": "deepseek-r1"},
        instruction="",
        sample_temperature=0.0,
    )

    assert ASKED[0].messages == problem("p=1").messages
    assert ASKED[0].sampling.temperature == 0.0


def test_a_problem_says_itself_whether_it_is_answered_with_thinking(tmp_path: Path):
    problems = [problem("p=1 a"), problem("p=1 b", thinking=False), problem("p=1 c")]

    samples, _ = run(tmp_path, problems, {"fixed": 1})

    thinking = {request.messages[0].content: request.sampling.thinking for request in ASKED}
    assert thinking == {"p=1 a": None, "p=1 b": False, "p=1 c": None}
    assert [s.problem_id for s in samples] == [p.id for p in problems]


def test_a_problems_own_system_prompt_is_not_doubled(tmp_path: Path):
    own = (Message("system", "own"), Message("user", "p=1"))

    run(tmp_path, [Problem("a", own, "7", "train"), problem("p=1")], {"fixed": 1}, system="general")

    assert {request.messages[0].content for request in ASKED} == {"own", "general"}
    assert {sum(m.role == "system" for m in request.messages) for request in ASKED} == {1}


def test_terms_are_said_before_the_first_paid_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(scripted_engine, "build", lambda *_: said.append(capsys.readouterr().err) or 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, MIXED, {"fixed": 1}, teacher={"family": "deepseek-r1"})

    assert "terms: DeepSeek-R1: licence" in said[0]


def test_identical_answers_raise_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(tmp_path / "deaf", MIXED, {"fixed": 2}, engine={"deaf": True})
    assert (
        "of 24 problems with several answers 24 got identical ones; does the teacher honour" in capsys.readouterr().err
    )
    run(tmp_path / "alive", MIXED, {"fixed": 2})
    assert "identical" not in capsys.readouterr().err
    run(tmp_path / "greedy", MIXED, {"fixed": 2}, engine={"deaf": True}, sample_temperature=0.0)
    assert "identical" not in capsys.readouterr().err


# the dry run


def test_a_dry_run_buys_nothing_and_gives_the_range(tmp_path: Path):
    policy = {"adaptive": {"k": 2, "max_n": 6, "hopeless_after": 4}}
    made = stage(tmp_path, MIXED, policy, teacher={"price": {"input": 1.0, "output": 2.0}})

    before = sample.estimate(made).data

    assert (BUILT, ASKED) == ([], [])
    assert (before["least"]["missing"], before["most"]["missing"]) == (48, 144)
    assert before["most"]["worst"] >= 144 * 100
    assert before["most"]["worst_cost"] > 144 * 100 * 2 / 1e6
    sample.run(made)
    after = sample.estimate(made).data
    assert after["least"]["missing"] == 0
    spent = sum(r.sampling.max_tokens for r in ASKED)
    assert spent <= before["most"]["worst"]


def test_a_dry_run_counts_escalation_in_its_worst_case(tmp_path: Path):
    plain = sample.estimate(stage(tmp_path / "a", MIXED, {"fixed": 1})).data["most"]["worst"]
    escalated = sample.estimate(stage(tmp_path / "b", MIXED, {"fixed": 1}, escalate_to=400)).data["most"]["worst"]

    assert escalated - plain >= 24 * (200 + 400)
