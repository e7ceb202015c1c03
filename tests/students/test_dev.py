"""Dev accuracy while training: it measures what it says, steers as it says, and changes nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill.core import files, tables
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.protocols import Completion, Request
from distill.core.records import Message, Problem, Trace
from distill.core.stage import StageRun
from distill.sandbox.box import Unavailable, open_box
from distill.stages import verify
from distill.text.code_tests import FunctionTests, dump
from students import dev, train
from students.dev import DevSettings
from students.processes import DDP, FSDP2, ZERO3, Group, Ranks
from students.rows import read_student
from tests.students.gloo import on_ranks
from tests.students.made import a_trace, stage_of
from tests.tiny import make_tiny_model

LORA: dict[str, Any] = {"adapter": {"rank": 8, "alpha": 16, "dropout": 0.1}}
OVERFIT: dict[str, Any] = {"epochs": 45, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every_s": 1e9}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that catches errors may catch it."""


@pytest.fixture
def _killable(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    files._passed.clear()
    monkeypatch.setattr(os, "kill", kill)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that four traces are learnt by within seconds."""
    return make_tiny_model(tmp_path_factory.mktemp("small") / "m", scale=0.05)


def problems_of(traces: Sequence[Trace], split: Any = "dev") -> list[Problem]:
    return [Problem(id=trace.problem_id, messages=trace.messages, gold=trace.gold, split=split) for trace in traces]


def with_dev(
    stage: StageRun, problems: Sequence[Problem], verifier: Any = "numeric"
) -> StageRun:  # the problems and the verifier of an experiment, beside what `stage_of` makes
    folder = stage.out.parent / "problems"
    folder.mkdir(exist_ok=True)
    tables.write(folder / "problems.parquet", problems, Problem)
    sections: dict[str, Settings] = {**stage.sections, "verify": verify.Config.model_validate({"verifier": verifier})}
    return dataclasses.replace(stage, inputs={**stage.inputs, "problems": folder}, sections=sections)


def overfitting(
    folder: Path, model: Path, looks: Any, *, student: Any = None, verifier: Any = "numeric", **changes: Any
) -> StageRun:  # fmt: skip
    """Four traces learnt by heart; dev asks the same questions, and four that nothing was learnt of."""
    text = read_student(model)
    traces = [a_trace(text, n) for n in (0, 4, 8, 9)]
    stage = stage_of(
        folder, model, traces=traces, shard=False, student_settings=student,
        train_settings={**OVERFIT, "dev": looks, **changes},
    )  # fmt: skip
    others = (a_trace(text, n) for n in (1, 2, 3, 5))
    return with_dev(stage, problems_of([*traces, *others]), verifier)


def left(stage: StageRun) -> dict[str, bytes]:
    return {
        path.relative_to(stage.out).as_posix(): path.read_bytes()
        for path in sorted(stage.out.rglob("*"))
        if path.is_file() and path.name != "timing.json" and "work" not in path.relative_to(stage.out).parts
    }


LOOKS = {"every": 10, "problems": 8, "max_tokens": 60}


def test_it_measures_learning_and_the_last_step_too(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look's answers are those that the written student gives to the same questions."""
    from distill.engines.transformers import Config, TransformersEngine, build

    asked: dict[str, Request] = {}
    drawn: dict[str, Completion] = {}
    inner = TransformersEngine.generate

    def generate(self: Any, requests: Any) -> Any:
        asked.update({request.key: request for request in requests})
        for completion in inner(self, list(requests)):
            drawn[completion.key] = completion
            yield completion

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    stage = overfitting(tmp_path, small, {**LOOKS, "keep": "last"}, verifier="math")
    report = train.run(stage)
    engine = build(Config(device="cpu"), str(stage.out / "student"))
    again = {completion.key: completion.completion_ids for completion in inner(engine, list(asked.values()))}
    assert again == {key: completion.completion_ids for key, completion in drawn.items()}
    assert len(again) == 8
    told = json.loads((stage.out / "dev.json").read_text())
    assert [record["step"] for record in told["records"]] == [10, 20, 30, 40, 45]
    first, last = told["records"][0], told["records"][-1]
    assert first["accuracy"] < last["accuracy"] == 0.5  # what was learnt, and nothing else
    assert (last["correct"], last["graded"], told["problems"], told["kept"]) == (4, 8, 8, 45)
    assert report.data["dev"]["kept"] == 45
    assert ", dev 50.0% at step 45, " in report.summary
    history = json.loads((stage.out / "history.json").read_text())
    assert [r["step"] for r in history if r["dev_accuracy"] is not None] == [10, 20, 30, 40, 45]
    assert history[-1]["dev_accuracy"] == last["accuracy"]


@pytest.mark.parametrize(
    "student",
    [{}, LORA, {"adapter": {"qlora": {"rank": 8, "dropout": 0.1}}}, {"dtype": "bf16"}, {**LORA, "dtype": "bf16"}],
    ids=["full", "lora", "qlora", "bf16", "bf16-lora"],
)
def test_looking_changes_no_bit_of_the_training(tmp_path: Path, tiny_model: Path, student: dict[str, Any]) -> None:
    """Drawn with gradient checkpointing on: weights and losses are those of a training without."""
    if "qlora" in str(student):
        pytest.importorskip("bitsandbytes", reason="QLoRA needs it: pip install 'reasoning-distill[qlora]'")
    text = read_student(tiny_model)
    traces = [a_trace(text, n) for n in range(8)]
    looks = {"every": 2, "problems": 2, "samples": 2, "sample_temperature": 1.0, "max_tokens": 20, "keep": "last"}
    runs = []
    for name in ("none", "looks"):
        settings = {
            "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "gradient_checkpointing": True,
            "dev": "none" if name == "none" else looks,
        }  # fmt: skip
        stage = stage_of(
            tmp_path / name, tiny_model, traces=traces, shard=False, train_settings=settings, student_settings=student
        )
        train.run(with_dev(stage, problems_of(traces)))
        found = {n: content for n, content in left(stage).items() if n.startswith("student/")}
        losses = [record["loss"] for record in json.loads((stage.out / "history.json").read_text())]
        runs.append((found, losses))
    assert runs[0] == runs[1]


def test_a_look_draws_none_of_the_random_numbers(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's, numpy's and Python's own generators stand where they stood."""
    seen = []
    inner = dev.Dev.look

    def look(self: dev.Dev, trainer: Any, step: int, *, last: bool) -> bool:
        def state() -> tuple[Any, ...]:
            return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index,union-attr]  # the legacy generator's words

        before = state()
        stop = inner(self, trainer, step, last=last)
        seen.append(before == state() and trainer.core.training)
        return stop

    monkeypatch.setattr(dev.Dev, "look", look)
    train.run(overfitting(tmp_path, small, {**LOOKS, "every": 1, "sample_temperature": 1.0}, epochs=3))
    assert seen == [True] * 3


@pytest.mark.usefixtures("_killable")
@pytest.mark.parametrize("student", [{}, LORA], ids=["full", "lora"])
def test_a_killed_run_goes_on_bit_for_bit_with_its_looks(
    tmp_path: Path, small: Path, student: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before and after a checkpoint is in place, and before the end; the best weights come through."""
    looks, more = {**LOOKS, "every": 2, "problems": 4, "max_tokens": 20}, {"checkpoint_every_s": 0.0, "epochs": 6}
    straight = overfitting(tmp_path / "straight", small, looks, student=student, **more)
    train.run(straight)
    expected = left(straight)
    for crash in ("checkpoint.before-rename:3",) if student else ("checkpoint.after-rename:4", "train.before-final"):
        stage = overfitting(tmp_path / crash.replace(":", "-"), small, looks, student=student, **more)
        monkeypatch.setenv("DISTILL_CRASH_AT", crash)
        files._passed.clear()
        with pytest.raises(Killed):
            train.run(stage)
        monkeypatch.delenv("DISTILL_CRASH_AT")
        train.run(stage)
        assert left(stage) == expected, crash


class Scripted:
    """Replaces what is drawn and graded: the accuracies of successive looks."""

    def __init__(self, *correct: int) -> None:
        self.correct = iter(correct)

    def __call__(self, *_: Any) -> dict[str, Any]:
        correct = next(self.correct)
        return {"accuracy": correct / 10, "graded": 10, "correct": correct, "wrong": 10 - correct, "truncated": 0}


def scripted(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, correct: Sequence[int], **looks: Any
) -> tuple[StageRun, dict[str, Any]]:
    monkeypatch.setattr(dev.Dev, "_measured", Scripted(*correct))
    stage = overfitting(tmp_path, small, {**LOOKS, "every": 1, **looks}, epochs=6)
    train.run(stage)
    return stage, json.loads((stage.out / "dev.json").read_text())


def weights(stage: StageRun) -> dict[str, torch.Tensor]:
    return load_file(stage.out / "student" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_weights_are_kept_and_of_equal_ones_the_earliest(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, told = scripted(tmp_path / "best", small, monkeypatch, (1, 3, 2, 3, 0, 1))
    assert (told["best"], told["kept"], told["stopped_early"]) == (2, 2, False)
    _, first = scripted(tmp_path / "two", small, monkeypatch, (1, 3, 2, 3, 0, 1), keep="last")
    assert (first["best"], first["kept"]) == (2, 6)
    # What was kept is what the training had after step 2: stopped there by patience, it leaves the same.
    until, early = scripted(tmp_path / "until", small, monkeypatch, (1, 0), patience=1, keep="last")
    assert early["stopped_early"] and early["kept"] == 2
    assert same(weights(stage), weights(until))
    assert not same(weights(stage), weights(dataclasses.replace(stage, out=tmp_path / "two" / "train")))


def test_patience_counts_looks_without_a_better_one(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage, told = scripted(tmp_path, small, monkeypatch, (1, 3, 3, 2, 9), patience=2)
    assert [record["step"] for record in told["records"]] == [1, 2, 3, 4]
    assert (told["kept"], told["stopped_early"]) == (2, True)
    assert len(json.loads((stage.out / "history.json").read_text())) == 4
    said = capsys.readouterr().err
    assert "step 2: dev 30.0%, 3 of 10 answers, the best so far" in said
    assert "stopped: 2 looks in a row" in said
    assert "4 looks at the dev problems" in said


@pytest.mark.usefixtures("_killable")
def test_an_early_stop_survives_a_kill(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The looks before the checkpoint count, those after it are repeated, and it stops at the same step."""
    looks: dict[str, Any] = {**LOOKS, "every": 1, "patience": 2}
    more = {"epochs": 6, "checkpoint_every_s": 0.0}
    results = []
    for name, crash in (("straight", None), ("killed", "train.before-final"), ("early", "checkpoint.after-rename:2")):
        stage = overfitting(tmp_path / name, small, looks, **more)
        if crash is not None:
            monkeypatch.setenv("DISTILL_CRASH_AT", crash)
            files._passed.clear()
            monkeypatch.setattr(dev.Dev, "_measured", Scripted(1, 3, 3, 2))
            with pytest.raises(Killed):
                train.run(stage)
            monkeypatch.delenv("DISTILL_CRASH_AT")
        # The last checkpoint before the stop at step 4 is the third step's, or the second's where it was killed there.
        script = {None: (1, 3, 3, 2), "train.before-final": (2,), "checkpoint.after-rename:2": (3, 2)}[crash]
        monkeypatch.setattr(dev.Dev, "_measured", Scripted(*script))
        train.run(stage)
        results.append(left(stage))
    assert results[0] == results[1] == results[2]


def test_changed_best_weights_are_not_taken(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = dev.Dev.finish

    def finish(self: dev.Dev, model: Any) -> None:
        path = self.work / dev.BEST
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        inner(self, model)

    monkeypatch.setattr(dev.Dev, "finish", finish)
    with pytest.raises(DistillError, match="weights of step 1 are not as they were written"):
        scripted(tmp_path, small, monkeypatch, (3, 1, 1, 1, 1, 1))


def test_a_checkpoint_brings_back_the_best_weights_of_its_time(tmp_path: Path, small: Path) -> None:
    """What a later look wrote before the kill is forgotten: on a GPU the next try may not come to it again."""

    def looker() -> dev.Dev:
        nothing: Any = None
        return dev.Dev(
            DevSettings(), [], nothing, read_student(small), None, 0, nothing, tmp_path, nothing, print, Ranks()
        )

    first, later, checkpoint = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    before = looker()
    before.records = [{"step": 1, "accuracy": 0.5}]
    before._keep(first)
    before.save(checkpoint)
    before._keep(later)
    after = looker()
    after.restore(checkpoint)
    after.records.append({"step": 2, "accuracy": 0.1})
    got = torch.nn.Linear(2, 2)
    after.finish(got)
    assert torch.equal(got.weight, first.weight)
    assert not torch.equal(got.weight, later.weight)


def test_only_dev_problems_are_asked_in_the_form_that_is_trained(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train and test problems lie in the same file; answers alone train the no-think form."""
    from distill.engines.transformers import TransformersEngine

    asked: list[Any] = []
    inner = TransformersEngine.generate

    def generate(self: Any, requests: Any) -> Any:
        asked.extend(requests)
        return inner(self, list(asked))

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    text = read_student(small)
    traces = [a_trace(text, n) for n in range(6)]
    for target, thinking in (("trace", None), ("answer", False)):
        asked.clear()
        settings = {"epochs": 1, "batch_size": 6, "target": target, "dev": {"problems": 2, "max_tokens": 4}}
        stage = stage_of(tmp_path / target, small, traces=traces, shard=False, train_settings=settings)
        given = [*problems_of(traces[:2], "test"), *problems_of(traces[2:3]), *problems_of(traces[3:], "train")]
        train.run(with_dev(stage, given))
        assert [(r.messages, r.sampling.thinking, r.sampling.temperature) for r in asked] == [
            (traces[2].messages, thinking, 0.0)
        ]


def test_without_dev_problems_or_gradable_ones_it_ends_in_one_line(tmp_path: Path, small: Path) -> None:
    stage = overfitting(tmp_path / "a", small, LOOKS, epochs=1)
    traces = [a_trace(read_student(small), 0)]
    with pytest.raises(DistillError, match="no problem is in the dev split"):
        train.run(with_dev(stage, problems_of(traces, "test")))
    hollow = [dataclasses.replace(problem, gold=None) for problem in problems_of(traces)]
    with pytest.raises(DistillError, match="none of 1 answers could be graded"):
        train.run(with_dev(overfitting(tmp_path / "b", small, LOOKS, epochs=1), hollow))


def test_answers_end_where_the_context_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_tiny_model(tmp_path / "m", context=60, layers=1)
    text = read_student(folder)
    stage = stage_of(
        tmp_path / "run", folder, traces=[a_trace(text, n) for n in range(12)], shard=False,
        train_settings={"epochs": 1, "batch_size": 12, "dev": {"max_tokens": 500, "problems": 2}},
    )  # fmt: skip
    train.run(with_dev(stage, problems_of([a_trace(text, 0), a_trace(text, 1)])))
    assert "where the student's context does" in capsys.readouterr().err
    full = dataclasses.replace(problems_of([a_trace(text, 0)])[0], messages=(Message("user", "17*23 " * 40),))
    with pytest.raises(DistillError, match="fills the student's context of 60 tokens"):
        train.run(with_dev(stage_of(
            tmp_path / "full", folder, traces=[a_trace(text, n) for n in range(12)], shard=False,
            train_settings={"epochs": 1, "batch_size": 12, "dev": {}},
        ), [full]))  # fmt: skip


def test_programs_are_graded_in_the_sandbox(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The experiment's verifier grades, whichever it is: two of three drawn programs pass their tests."""
    try:
        open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
    tests = dump(FunctionTests("add", ("assert add(1, 2) == 3",)))
    programs = iter(("return a + b", "return a", "return b + a"))

    def drawn(self: dev.Dev, _: Any) -> list[Completion]:
        texts = [f"</think>```python\ndef add(a, b):\n    {next(programs)}\n```" for _ in self.problems]
        keys = [key for key, _, _ in self._asked()]
        return [
            Completion(key, text, "stop", (), (), (), 1, 1, opened=True) for key, text in zip(keys, texts, strict=True)
        ]

    monkeypatch.setattr(dev.Dev, "_drawn", drawn)
    traces = [a_trace(read_student(small), n) for n in range(3)]
    stage = stage_of(
        tmp_path, small, traces=traces, shard=False, train_settings={"epochs": 1, "batch_size": 4, "dev": {}}
    )
    problems = [dataclasses.replace(problem, gold=None, tests=tests) for problem in problems_of(traces)]
    train.run(with_dev(stage, problems, "code"))
    assert "step 1: dev 66.7%, 2 of 3 answers" in capsys.readouterr().err


def test_a_sharded_model_is_refused() -> None:
    for kind in (FSDP2, ZERO3):
        with pytest.raises(DistillError, match=f"{kind} spreads it over processes"):
            dev.check_whole(Group(2, kind))
    dev.check_whole(Group(2, DDP))


class Problems(Settings):
    """Stands for the section `problems:`."""

    dev: int | None = None


def test_what_it_needs_is_checked_before_anything_runs() -> None:
    config = train.Config.model_validate({"dev": {"problems": 7}})
    sections: dict[str, Settings] = {"train": config, "problems": Problems()}
    assert train.check(sections) == (("train", "dev"), dev.refusal(DevSettings(problems=7), sections))
    assert "add `verify:`" in str(dev.refusal(DevSettings(), sections))
    sections["verify"] = verify.Config()
    assert train.check(sections) is None
    assert "`problems.dev` is 0" in str(train.check({**sections, "problems": Problems(dev=0)}))


def test_only_a_training_that_looks_depends_on_problems_and_verifier(small: Path) -> None:
    plain = {"train": train.Config(), "student": train.settings.Config(model=str(small)), "verify": verify.Config()}
    looking = {**plain, "train": train.Config.model_validate({"dev": {}})}
    assert set(train.keyed(plain)) == {"train", "student"}
    assert (train.unread(plain), set(train.externals(plain))) == ({"problems"}, {"student"})
    assert set(train.keyed(looking)) == {"train", "student", "verify"}
    assert (train.unread(looking), set(train.externals(looking))) == (set(), {"student", "verifiers"})
    assert train.Config.model_validate({"dev": "none"}) == train.Config()


def ran(folder: str, model: str, world: int) -> list[str]:
    """One process's training with looks; what the leader left, as text."""
    looks = {**LOOKS, "every": 5, "problems": 5}
    traces = [a_trace(read_student(Path(model)), n) for n in (0, 4, 8, 9)]
    settings = {**OVERFIT, "epochs": 20, "micro_batch_size": 4 // world, "dev": looks, "checkpoint_every_s": 0.0}
    stage = stage_of(Path(folder), Path(model), traces=traces, shard=False, train_settings=settings)
    train.run(with_dev(stage, problems_of([*traces, a_trace(read_student(Path(model)), 1)])))
    told = stage.out / "dev.json"
    return [told.read_text()] if told.exists() else []


@pytest.mark.slow
def test_two_processes_share_the_answers_and_agree_on_the_best(tmp_path: Path, small: Path) -> None:
    """DDP: the looks of two ranks are those of one, each answer drawn once, and the leader writes one student."""
    told = []
    for world in (1, 2):
        folder = tmp_path / str(world)
        outs = on_ranks(world, tmp_path / f"out{world}", ran, str(folder), str(small), world)
        assert [bool(out) for out in outs] == [True] * world or world == 2
        told.append(json.loads((folder / "train" / "dev.json").read_text()))
    assert [record["step"] for record in told[0]["records"]] == [5, 10, 15, 20]
    assert [r["correct"] for r in told[0]["records"]] == [r["correct"] for r in told[1]["records"]]
    assert told[0]["kept"] == told[1]["kept"]
    one, two = (load_file(tmp_path / str(world) / "train" / "student" / "model.safetensors") for world in (1, 2))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-3
