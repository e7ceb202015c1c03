"""The `replay` engine: recorded answers come back as they were, and what is not recorded is never made up."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill import rollout
from distill.core import tables
from distill.core.errors import DistillError
from distill.core.ledger import Ledger
from distill.core.plugins import Choice, ChoiceOf
from distill.core.protocols import Completion, Keep, Request
from distill.core.records import Message, Problem, Sample, Sampling, problem_id, sample_key
from distill.core.stage import Workspace
from distill.engines import replay
from distill.engines.replay import Config, ReplayEngine

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=10, top_logprobs=3)


def problem(text: str) -> Problem:
    messages = (Message("user", text),)
    return Problem(problem_id(messages), messages, gold="7", split="train")


PROBLEMS = [problem(f"What is {n}*7?") for n in range(3)]


def engine_of(**settings: Any) -> Choice:
    choice: Choice = ChoiceOf("distill.engines", "engine")._validate({"engine": "replay", **settings})
    return choice


def collect(model: Path, workspace: Path, sampling: Sampling = SAMPLING, n: int = 2, **settings: Any) -> list[Sample]:
    return rollout.collect(
        PROBLEMS, n, sampling,
        engine=engine_of(**settings), model=str(model), workspace=Workspace(workspace), label="sample",
    )  # fmt: skip


def kept(samples: list[Sample]) -> list[tuple[Any, ...]]:
    """What of an answer must come back."""
    return [
        (s.problem_id, s.index, s.reasoning, s.answer, s.closed, s.text, s.finish_reason, s.prompt_ids, s.prefill_ids,
         s.completion_ids, s.tokenizer, s.prompt_tokens, s.completion_tokens, s.reasoning_tokens, s.reasoning_kind)
        for s in samples
    ]  # fmt: skip


@pytest.fixture(scope="module")
def recorded(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    """Answers of a model in a workspace's ledger, with log-probabilities."""
    workspace = tmp_path_factory.mktemp("recorded")
    choice: Choice = ChoiceOf("distill.engines", "engine")._validate("transformers")
    samples = rollout.collect(
        PROBLEMS, 2, SAMPLING, engine=choice, model=str(tiny_model), workspace=Workspace(workspace), label="sample"
    )
    return workspace, samples


@pytest.fixture
def parquet(recorded: tuple[Path, list[Sample]], tmp_path: Path) -> Path:
    """The same answers as the stage `sample` writes them: a table and the shards beside it."""
    workspace, samples = recorded
    folder = tmp_path / "stage"
    folder.mkdir()
    tables.write(folder / "samples.parquet", samples, Sample)
    for shard in {s.logits for s in samples if s.logits}:
        (found,) = workspace.rglob(shard)
        shutil.copy(found, folder / shard)
    return folder / "samples.parquet"


def test_a_table_gives_the_answers_back_as_they_were(
    parquet: Path, recorded: tuple[Path, list[Sample]], tmp_path: Path
):
    assert kept(collect(parquet, tmp_path / "again")) == kept(recorded[1])


def test_a_ledger_gives_the_answers_back_as_they_were(recorded: tuple[Path, list[Sample]], tmp_path: Path):
    assert kept(collect(recorded[0] / "ledger.sqlite", tmp_path / "again")) == kept(recorded[1])


def test_log_probabilities_come_back_too(parquet: Path, recorded: tuple[Path, list[Sample]], tmp_path: Path):
    again = collect(parquet, tmp_path / "again")

    with Ledger(recorded[0] / "ledger.sqlite") as old, Ledger(tmp_path / "again" / "ledger.sqlite") as new:
        for before, after in zip(recorded[1], again, strict=True):
            for name, column in vars(old.logprobs(before)).items():
                np.testing.assert_array_equal(column, getattr(new.logprobs(after), name))


def test_what_is_not_recorded_fails_and_the_rest_is_kept(parquet: Path, tmp_path: Path):
    answers = collect(parquet, tmp_path / "again", n=3)

    assert [s.index for s in answers if s.finish_reason == "error"] == [2, 2, 2]
    assert {s.error for s in answers if s.index == 2} == {
        "not among the 2 answers that any problem has in the recording"
    }


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.5, top_p=1.0, max_tokens=10),
        Sampling(temperature=1.0, top_p=1.0, max_tokens=99),
        Sampling(temperature=1.0, top_p=1.0, max_tokens=10, top_logprobs=9),
        Sampling(temperature=1.0, top_p=1.0, max_tokens=10, thinking=False),
    ],
)
def test_answers_to_other_settings_are_none(parquet: Path, tmp_path: Path, sampling: Sampling):
    with pytest.raises(DistillError, match="no answer to these messages with this index that serves"):
        collect(parquet, tmp_path / "again", sampling)


def requests_of(engine: ReplayEngine, problems: list[Problem], n: int, sampling: Sampling) -> list[Request]:
    return [
        Request(sample_key(p.messages, engine.identity.id, sampling, i), p.messages, sampling)
        for p in problems
        for i in range(n)
    ]


def answers_of(engine: ReplayEngine, requests: list[Request]) -> dict[str, Completion]:
    return {completion.key: completion for completion in engine.generate(requests)}


def test_the_order_of_requests_changes_nothing(parquet: Path):
    engine = replay.build(Config(), str(parquet))
    requests = requests_of(engine, PROBLEMS, 2, Sampling(temperature=1.0, top_p=1.0, max_tokens=10))

    assert answers_of(engine, requests) == answers_of(engine, random.Random(0).sample(requests, len(requests)))


def test_another_prompt_is_another_question(parquet: Path):
    engine = replay.build(Config(), str(parquet))
    asked = Problem("", (Message("system", "Be brief."), *PROBLEMS[0].messages), "7", "train")

    (got,) = engine.generate(requests_of(engine, [asked], 1, SAMPLING))

    assert (got.finish_reason, got.failure, got.text) == ("error", "not recorded", "")


def test_its_identity_is_the_recording_s_content(parquet: Path, recorded: tuple[Path, list[Sample]], tmp_path: Path):
    before = replay.identify(Config(), str(parquet))
    moved = shutil.copytree(parquet.parent, tmp_path / "moved") / "samples.parquet"

    assert replay.identify(Config(), str(moved)) == before
    assert (before.tokenizer, before.name) == (recorded[1][0].tokenizer, recorded[1][0].model_name)
    tables.write(moved, recorded[1][:-1], Sample)
    assert replay.identify(Config(), str(moved)).id != before.id


def test_a_ledger_counts_by_the_answers_of_its_model(recorded: tuple[Path, list[Sample]], tmp_path: Path):
    shutil.copytree(recorded[0], tmp_path / "copy")
    ledger = tmp_path / "copy" / "ledger.sqlite"
    before = replay.identify(Config(), str(ledger))

    again = collect(ledger, tmp_path / "copy")  # replayed answers are put into the very ledger that they come from

    assert len(again) == 6
    assert replay.identify(Config(), str(ledger)) == before


def test_of_several_models_one_is_named(parquet: Path, recorded: tuple[Path, list[Sample]]):
    from dataclasses import replace

    other = [replace(s, model_id="other-id", model_name="other", key=f"{s.key[:-1]}x") for s in recorded[1]]
    tables.write(parquet, [*recorded[1], *other], Sample)

    with pytest.raises(DistillError, match="answers of several models; set `recorded_model` to one of: .*other"):
        replay.build(Config(), str(parquet))
    with pytest.raises(DistillError, match="no answers of `nobody`; set"):
        replay.build(Config(recorded_model="nobody"), str(parquet))
    assert replay.build(Config(recorded_model="other"), str(parquet)).identity.name == "other"


def lines(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_lines_of_questions_and_responses(tmp_path: Path):
    rows = [
        {"question": " What is\n0*7?", "responses": ["<think>a</think>\\boxed{0}", "<think>no end"], "how": "length"},
        {"messages": [{"role": "user", "content": "What is 1*7?"}], "responses": "seven", "how": None},
    ]
    sampling = Sampling(max_tokens=5)
    answers = collect(lines(tmp_path, rows), tmp_path, sampling, finish_reason="how")

    assert [(s.reasoning, s.answer, s.closed, s.finish_reason) for s in answers] == [
        ("a", "\\boxed{0}", True, "length"),
        ("no end", "", False, "length"),
        (None, "seven", True, "stop"),
        (None, "", True, "error"),
        (None, "", True, "error"),
        (None, "", True, "error"),
    ]
    assert [s.error for s in answers[3:5]] == [
        "the recording has 1 answers to this question; index 1 is one more",
        "the recording has no answers to this question",
    ]
    assert {s.model_name for s in answers} == {"answers"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, r"answers.jsonl:1: no field `responses`"),
        ({"question": "a", "responses": [1]}, r"answers.jsonl:1: `responses` is neither"),
        ({"messages": ["a"], "responses": "b"}, r"answers.jsonl:1: `messages` is no list"),
    ],
)
def test_faults_of_lines_name_file_and_line(tmp_path: Path, row: dict[str, Any], message: str):
    with pytest.raises(DistillError, match=message):
        replay.build(Config(), str(lines(tmp_path, [row])))


def test_reasoning_that_came_in_a_field_comes_back_in_one(parquet: Path, recorded: tuple[Path, list[Sample]]):
    from dataclasses import replace

    served = [
        replace(
            s, text="the answer", answer="the answer", reasoning="in a field", reasoning_kind="summary", closed=True
        )
        for s in recorded[1]
    ]
    tables.write(parquet, served, Sample)
    engine = replay.build(Config(), str(parquet))
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=10)

    for got in engine.generate(requests_of(engine, PROBLEMS, 2, sampling)):
        assert (got.text, got.reasoning, got.reasoning_kind, got.opened) == (
            "the answer", "in a field", "summary", False,
        )  # fmt: skip


def test_what_it_cannot_do_is_said(parquet: Path, tmp_path: Path):
    engine = replay.build(Config(), str(parquet))
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=10)
    (request,) = requests_of(engine, PROBLEMS[:1], 1, sampling)

    (got,) = engine.generate([Request(request.key, request.messages, sampling, (7, 8))])
    assert got.error == "a recorded answer cannot be continued from a prefix"
    with pytest.raises(DistillError, match="cannot score given tokens"):
        engine.score([], Keep(3))
    assert list(engine.stream(request.messages, sampling)) == [answers_of(engine, [request])[request.key].text]
    assert engine.room(request.messages) > 10**6
    with pytest.raises(DistillError, match="the recording has no answer"):
        list(engine.stream((Message("user", "another"),), sampling))
    with pytest.raises(DistillError, match=r"nowhere.parquet: no such recording"):
        replay.build(Config(), str(tmp_path / "nowhere.parquet"))
    engine.close()
    engine.close()


def test_a_shard_that_is_gone_is_named(parquet: Path):
    for shard in parquet.parent.glob("*.safetensors"):
        shard.unlink()

    with pytest.raises(DistillError, match="missing, but the recording names it"):
        replay.build(Config(), str(parquet))
