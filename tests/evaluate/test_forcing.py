"""Budget forcing: on the embedded teacher, where thinking is real, and on made answers, where it can be counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distill import rollout
from distill.core import tables
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.plugins import Choice, load
from distill.core.records import Message, Problem, Sample, Sampling, problem_id, sample_key
from distill.core.stage import StageRun, Workspace
from distill.engines import transformers
from distill.evaluate import forcing, results, scores
from distill.evaluate import stage as evaluate
from distill.evaluate.forcing import Forced
from distill.rollout import Prices, Teacher
from distill.rollout.asks import Loaded, Standing
from distill.stages import verify
from distill.text.chat import TokenizerCodec
from distill.text.think import Dialect
from tests.served.stub_server import serving
from tests.stub_engine import Config as StubConfig

LIMIT = Sampling(temperature=0.6, max_tokens=120)
QUESTIONS = {"What is 87*92?": "8004", "What is 31*14?": "434", "Compute 45*67.": "3015", "What is 12*15?": "180"}
PROBLEMS = [
    Problem(problem_id((Message("user", text),)), (Message("user", text),), gold, "test")
    for text, gold in QUESTIONS.items()
]
BY_ID = {problem.id: problem for problem in PROBLEMS}


def choice(name: str, **settings: Any) -> Choice:
    return Choice("distill.engines", "engine", name, load("distill.engines", name).Config(**settings))


JSON = {"content-type": "application/json"}
close = Loaded.close
ENGINES = {"transformers": choice("transformers"), "llamacpp": choice("llamacpp", threads=1, slots=4)}


@pytest.fixture(scope="module", params=sorted(ENGINES))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """A teacher, a workspace, and two answers of its own to each problem."""
    teacher = Teacher(ENGINES[request.param], "embedded-teacher")
    workspace = Workspace(tmp_path_factory.mktemp(request.param))
    asks = [rollout.Ask(problem, range(2)) for problem in PROBLEMS]
    return teacher, workspace, rollout.gather(asks, LIMIT, teacher, workspace, label="evaluate")


def force(world: tuple[Any, ...], sampling: Sampling = LIMIT, **settings: Any) -> list[Forced]:
    teacher, workspace, samples = world
    return forcing.force(
        BY_ID, samples, sampling, teacher, forcing.Config(**settings), workspace, label="evaluate teacher"
    )


def paid(world: tuple[Any, ...]) -> int:
    """Answers that the ledger was asked for, by whatever name."""
    with Ledger(world[1].ledger) as ledger:
        return sum(ledger.attempts().values())


def spans(world: tuple[Any, ...], samples: list[Sample]) -> list[tuple[int, ...]]:
    """Thinking tokens of each answer, found by the id of the end tag alone."""
    teacher = world[0]
    (close,) = teacher.engine.module().codec(teacher.engine.config, teacher.model).encode("</think>")
    thoughts = []
    for sample in samples:
        ids = sample.completion_ids
        assert ids is not None
        assert close in ids, "these answers all end their thinking"
        thoughts.append(ids[: len(ids) - 1 - ids[::-1].index(close)])
    return thoughts


def test_a_cut_answer_keeps_its_first_tokens_and_is_given_the_end_of_thinking(world) -> None:
    teacher, _, samples = world
    codec = teacher.engine.module().codec(teacher.engine.config, teacher.model)
    thoughts = spans(world, samples)
    budget = min(map(len, thoughts))  # one thinks just so long, some longer
    end = codec.encode("\n</think>\n\n")

    (forced,) = force(world, budgets=[budget])

    assert 0 < sum(forced.changed) < len(samples)
    for before, after, thought, changed in zip(samples, forced.samples, thoughts, forced.changed, strict=True):
        assert changed == (len(thought) > budget)
        if not changed:
            assert after == before
            continue
        given = thought[:budget] + end
        assert after.completion_ids[: len(given)] == given == before.completion_ids[:budget] + end
        assert len(after.completion_ids) > len(given)
        assert (after.prompt_ids, after.prefill_ids) == (before.prompt_ids, before.prefill_ids)
        assert (
            after.key
            == sample_key(BY_ID[before.problem_id].messages, before.model_id, LIMIT, before.index, given)
            != before.key
        )
        stopped = after.finish_reason == "stop"
        assert after.text == codec.decode(after.completion_ids[:-1] if stopped else after.completion_ids)
        assert after.text == f"{after.reasoning}</think>{after.answer}"
        assert after.reasoning_tokens == budget + end.index(codec.encode("</think>")[0]) + 1
        assert after.completion_tokens == len(after.completion_ids)


def test_forcing_at_0_asks_for_the_answer_at_once(world) -> None:
    (forced,) = force(world, budgets=[0])

    assert all(forced.changed)
    assert {sample.reasoning for sample in forced.samples} == {"\n"}
    assert all(sample.closed and sample.answer.startswith("\n\n") for sample in forced.samples)


def test_a_budget_above_all_thinking_buys_nothing_and_gives_the_answers_as_they_are(world) -> None:
    before = paid(world)

    (forced,) = force(world, budgets=[1000])

    assert paid(world) == before
    assert forced.samples == world[2]
    assert forced.changed == [False] * len(world[2])


def test_wait_takes_the_place_of_the_end_of_thinking(world) -> None:
    teacher, _, samples = world
    wait = teacher.engine.module().codec(teacher.engine.config, teacher.model).encode("Wait")

    once, twice = force(world, waits=[2, 1])

    assert (once.waits, twice.waits, once.budget) == (1, 2, None)
    for before, after, thought in zip(samples, once.samples, spans(world, samples), strict=True):
        assert after.completion_ids[: len(thought) + len(wait)] == before.completion_ids[: len(thought)] + wait
        assert after.text.startswith(before.reasoning + "Wait")
    extended = [sample for sample in once.samples if sample.closed]
    assert extended, "some end their thinking again"
    for first, second in zip(once.samples, twice.samples, strict=True):
        assert (second.text.count("Wait") == 2) == first.closed
        assert (second == first) == (not first.closed)
    assert max(len(sample.completion_ids) for sample in twice.samples) <= LIMIT.max_tokens
    assert force(world, waits=[2]) == [twice]


def test_an_answer_without_room_for_wait_is_used_as_it_is(world) -> None:
    thoughts = list(map(len, spans(world, world[2])))
    wait = len(world[0].engine.module().codec(world[0].engine.config, world[0].model).encode("Wait"))

    (forced,) = force(world, replace(LIMIT, max_tokens=max(thoughts) + wait), waits=[1])

    assert forced.changed == [length < max(thoughts) for length in thoughts]
    assert False in forced.changed


def test_what_was_bought_is_not_bought_again(world) -> None:
    first = force(world, budgets=[3, 7], waits=[1])
    before = paid(world)

    again = force(world, budgets=[3, 7], waits=[1])

    assert again == first
    assert paid(world) == before
    assert force(world, budgets=[3], waits=[]) == first[:1]
    force(world, budgets=[5])
    assert paid(world) > before, "another budget is other answers"


def test_the_rates_are_those_counted_by_hand(world) -> None:
    _, workspace, samples = world
    forced = force(world, budgets=[0, 1000])

    lines = []
    for one in forced:
        with Ledger(workspace.ledger) as ledger:
            verdicts = verify.grade(BY_ID, one.samples, verify.Config().verifier, store=ledger, workspace=workspace)
        plain = [
            scores.score("teacher", BY_ID[sample.problem_id], sample, verdict)
            for sample, verdict in zip(one.samples, verdicts, strict=True)
        ]
        lines += forcing.scored(one, plain)
    at_once, whole = forcing.summarise(lines)

    right = [f"\\boxed{{{BY_ID[sample.problem_id].gold}}}" in sample.answer for sample in samples]
    assert (whole["budget"], whole["rate"]["k"], whole["rate"]["n"]) == (1000, sum(right), 8)
    assert sum(right) > 0
    assert whole["thinking_tokens"]["value"] == sum(sample.reasoning_tokens for sample in samples) / 8
    assert (whole["extended"], at_once["extended"], at_once["answers"]) == (0, 8, 8)
    assert at_once["rate"]["k"] == sum(
        f"\\boxed{{{BY_ID[sample.problem_id].gold}}}" in sample.answer for sample in forced[0].samples
    )
    assert at_once["completion_tokens"]["value"] == sum(len(s.completion_ids) for s in forced[0].samples) / 8
    assert forcing.write(workspace.root, lines) == 16
    assert forcing.read(workspace.root) == lines


def test_an_answer_prompt_and_an_end_of_ones_own_are_given_as_they_are(world) -> None:
    (forced,) = force(world, budgets=[0], end="</think>", answer_prompt="Answer: ")

    assert all(sample.text.startswith("</think>Answer: ") for sample in forced.samples)
    with pytest.raises(DistillError, match=r"evaluate teacher: `forcing.end` 'so' does not hold </think>"):
        force(world, budgets=[0], end="so")


def test_a_budget_that_leaves_no_room_for_an_answer_is_one_line(world) -> None:
    longest = max(map(len, spans(world, world[2])))

    with pytest.raises(DistillError, match=rf"budget {longest - 1} leaves no token .* `max_tokens` {longest}"):
        force(world, replace(LIMIT, max_tokens=longest), budgets=[longest - 1])


def test_thinking_that_never_ended_is_cut_and_not_told_to_wait(world) -> None:
    teacher, workspace, _ = world
    short = replace(LIMIT, max_tokens=12)
    asks = [rollout.Ask(problem, range(1)) for problem in PROBLEMS[:2]]
    samples = rollout.gather(asks, short, teacher, workspace, label="evaluate")
    assert not any(sample.closed for sample in samples)

    cut, waited = force((teacher, workspace, samples), short, budgets=[4], waits=[1])

    assert cut.changed == [True, True]
    assert all(sample.closed for sample in cut.samples)
    assert (waited.changed, waited.samples) == ([False, False], samples)


def test_a_model_that_is_loaded_already_is_used_and_left_loaded(world, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, workspace, samples = world
    closed = []
    monkeypatch.setattr(Loaded, "close", lambda self: closed.append(self.engine) or close(self))
    force(world, budgets=[2])
    assert [engine is not None for engine in closed] == [True], "its own is freed"
    standing = Standing(teacher.engine, teacher.model)
    engine = standing.build()
    try:
        force((standing, workspace, samples), budgets=[1])
        assert standing.loaded.engine is engine
        assert len(closed) == 1
    finally:
        standing.loaded.close()


def test_answers_without_thinking_failed_answers_and_those_without_ids(world) -> None:
    teacher, workspace, samples = world
    plain = replace(samples[0], reasoning=None, reasoning_kind="none")
    failed = replace(samples[1], finish_reason="error", reasoning=None, completion_ids=None)

    for forced in force((teacher, workspace, [plain, failed]), budgets=[0], waits=[1]):
        assert forced.samples == [plain, failed]
    with pytest.raises(DistillError, match="continues answers by their token ids, and these have none"):
        force((teacher, workspace, [replace(samples[0], completion_ids=None)]), budgets=[0])


def test_an_answer_to_another_prompt_is_not_continued(world) -> None:
    teacher, workspace, samples = world
    other = replace(samples[0], prompt_ids=(1, *samples[0].prompt_ids))

    with pytest.raises(DistillError, match="another prompt"):
        force((teacher, workspace, [other]), budgets=[0])


@pytest.mark.parametrize("dialect", [Dialect(channels=True), Dialect(close="", kind="hidden")])
def test_thinking_without_an_end_tag_is_refused(world, dialect: Dialect) -> None:
    teacher, workspace, samples = world

    with pytest.raises(DistillError, match="needs thinking that ends with a tag"):
        force((replace(teacher, dialect=dialect), workspace, samples), budgets=[0])


def test_engines_that_cannot_continue_are_refused_before_anything_is_loaded(tmp_path: Path, tiny_model: Path) -> None:
    stub = Choice("distill.engines", "engine", "tests.stub_engine", StubConfig())
    served = choice("openai", api="completions", tokenizer=str(tiny_model))

    assert [forcing.refusal(ENGINES[name]) for name in ENGINES] == [None, None]
    assert [forcing.refusal(choice("vllm")), forcing.refusal(served)] == [None, None]
    for name in ("replay", "litellm"):
        assert f"engine `{name}` cannot continue" in str(forcing.refusal(choice(name)))
    for settings in ({}, {"api": "completions"}, {"tokenizer": str(tiny_model)}):
        assert "only `api: completions` with a `tokenizer`" in str(forcing.refusal(choice("openai", **settings)))
    with pytest.raises(DistillError, match="engine `tests.stub_engine` cannot continue an answer"):
        forcing.force({}, [], LIMIT, Teacher(stub, "m"), forcing.Config(budgets=[0]), Workspace(tmp_path), label="e")


def test_a_server_is_sent_the_given_ids_and_paid_for_the_rest(tmp_path: Path, tiny_model: Path) -> None:
    codec = TokenizerCodec(tiny_model)
    thought, answer = codec.encode("3*4=12, so it is 12"), codec.encode("\n</think>\n\n\\boxed{12}")

    def reply(path: str, body: Any) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/models"):
            return (
                200,
                {"content-type": "application/json"},
                json.dumps({"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 512}]}).encode(),
            )
        ids = thought + answer if len(stub.bodies) == 1 else codec.encode("\\boxed{3}")
        choice = {"index": 0, "text": codec.decode(ids), "finish_reason": "stop", "token_ids": ids}
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids), "total_tokens": 0}
        whole = {"choices": [{**choice, "prompt_token_ids": body["prompt"]}], "usage": usage}
        return 200, JSON, json.dumps(whole).encode()

    with serving(reply) as stub:
        engine = choice("openai", url=stub.url, api="completions", tokenizer=str(tiny_model), retries=0)
        teacher, workspace = Teacher(engine, "m", prices=Prices(1e6, 1e6)), Workspace(tmp_path)
        (whole,) = rollout.gather([rollout.Ask(PROBLEMS[0], range(1))], LIMIT, teacher, workspace, label="evaluate")
        (forced,) = force((teacher, workspace, [whole]), budgets=[4])
        assert force((teacher, workspace, [whole]), budgets=[4]) == [forced]

    (cut,), given = forced.samples, thought[:4] + codec.encode("\n</think>\n\n")
    prompt = list(whole.prompt_ids + whole.prefill_ids)
    assert [body["prompt"] for body in stub.bodies] == [prompt, prompt + list(given)]
    assert [body["max_tokens"] for body in stub.bodies] == [LIMIT.max_tokens, LIMIT.max_tokens - len(given)]
    assert cut.completion_ids == given + codec.encode("\\boxed{3}")
    assert (cut.answer, cut.prompt_tokens) == ("\n\n\\boxed{3}", whole.prompt_tokens)
    assert cut.cost == pytest.approx(len(prompt) + len(cut.completion_ids))


def test_a_failed_continuation_is_a_failed_answer_and_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, workspace = Teacher(ENGINES["transformers"], "embedded-teacher"), Workspace(tmp_path)
    asks = [rollout.Ask(problem, range(1)) for problem in PROBLEMS[:2]]
    samples = rollout.gather(asks, LIMIT, teacher, workspace, label="evaluate")
    draw = transformers.TransformersEngine.generate

    def half(self: Any, requests: Any) -> Any:
        for number, completion in enumerate(draw(self, requests)):
            failed = replace(completion, finish_reason="error", error="overloaded", completion_ids=None)
            yield completion if number else failed

    monkeypatch.setattr(transformers.TransformersEngine, "generate", half)
    (first,) = force((teacher, workspace, samples), budgets=[0])
    assert sorted(sample.finish_reason for sample in first.samples) == ["error", "stop"]

    monkeypatch.undo()
    (second,) = force((teacher, workspace, samples), budgets=[0])
    assert [sample.finish_reason for sample in second.samples] == ["stop", "stop"]
    bought = next(n for n, sample in enumerate(first.samples) if sample.finish_reason == "stop")
    assert second.samples[bought] == first.samples[bought]


def test_an_evaluation_forces_each_model_and_frees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the stage: what results and lines say is the same, and one model is loaded at a time."""
    loaded: list[int] = []
    most: list[int] = []
    build, end = Teacher.build, Loaded.close

    def counting(self: Teacher) -> Any:
        loaded.append(1)
        most.append(len(loaded))
        return build(self)

    def ending(self: Loaded) -> None:
        if self.engine is not None:
            loaded.pop()
        end(self)

    monkeypatch.setattr(Teacher, "build", counting)
    monkeypatch.setattr(Loaded, "close", ending)
    (tmp_path / "problems").mkdir()
    (tmp_path / "out").mkdir()
    tables.write(tmp_path / "problems" / "problems.parquet", PROBLEMS, Problem)
    names = ["embedded-student", "embedded-teacher"]
    settings = {"models": names, "max_tokens": 120, "forcing": {"budgets": [0, 200], "waits": [1]}}
    sections = {"evaluate": evaluate.Config.model_validate(settings), "verify": verify.Config()}
    inputs = {"problems": tmp_path / "problems"}

    evaluate.run(StageRun("evaluate", tmp_path / "out", inputs, sections, 0, Workspace(tmp_path / "runs")))

    assert loaded == []
    assert set(most) == {1}
    lines = forcing.read(tmp_path / "out")
    assert len(lines) == 2 * 3 * len(PROBLEMS)
    (task,) = json.loads((tmp_path / "out" / "results.json").read_text())["tasks"]
    for model in task["models"]:
        own = [line for line in lines if line.model == model["name"]]
        assert model["forced"] == forcing.summarise(own)
        at_once, whole, waited = model["forced"]
        assert (at_once["budget"], whole["budget"], waited["waits"]) == (0, 200, 1)
        assert whole["rate"] == model["rate"], "a budget above all thinking is the plain rate"
        assert (at_once["extended"], whole["extended"]) == (len(PROBLEMS), 0)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "asks for nothing"),
        ({"budgets": [5, 5]}, "a number is there twice"),
        ({"budgets": [-1]}, "greater than or equal to 0"),
        ({"waits": [0]}, "greater than 0"),
        ({"budget": [1]}, "Did you mean `budgets`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        forcing.Config(**settings)


def test_forced_answers_that_failed_are_missed_as_others_are() -> None:
    good = {"k": 99, "n": 100, "value": 0.99, "low": 0.9, "high": 1.0, "items": 100, "ungradable": 0, "errors": 0}
    bad = good | {"n": 97, "errors": 3}
    entries = [{"budget": 64, "waits": None, "rate": bad}, {"budget": None, "waits": 2, "rate": bad}]
    task = {"name": "problems", "models": [{"name": "student", "rate": good, "forced": entries}]}

    said = results.missed([task])

    assert said is not None
    for who in ("student, budget 64", "student, 2 waits"):
        assert f"{who}: 0 ungradable and 3 failed of 100" in said
    assert "student:" not in said
    assert results.missed([{**task, "models": [{"name": "student", "rate": good, "forced": []}]}]) is None


def test_a_folder_that_forced_nothing_has_no_lines(tmp_path: Path) -> None:
    assert forcing.read(tmp_path) == []
    assert json.loads(json.dumps(forcing.summarise([]))) == []
