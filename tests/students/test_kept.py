"""Students kept at steps of their training: what is in them, that keeping changes nothing, that a kill leaves none half
written.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from distill.core import files, rundir
from distill.core.errors import DistillError
from distill.core.stage import StageRun
from distill.engines.transformers import Config, build
from students import train, written
from students.kept import Kept
from tests.students.gloo import on_ranks
from tests.students.made import stage_of
from tests.students.test_ranks import FSDP2, as_gpus, made
from tests.students.test_train import LORA, PACKED, SHORT, Killed, trained, twelve

KEEPING = {**SHORT, "keep_every": 2}
"""Six steps, of which the second, fourth and sixth are kept."""
QLORA = {"adapter": {"qlora": {"rank": 4, "dropout": 0.1}}}


def stage(folder: Path, model: Path, student: dict[str, Any] | None = None, **changes: Any) -> StageRun:
    settings = {**SHORT, **changes}
    return stage_of(folder, model, train_settings=settings, student_settings=student or {}, traces=twelve(model))


def part(kept: dict[str, bytes], folder: str) -> dict[str, bytes]:
    """The files of one folder, by name."""
    return {name.removeprefix(f"{folder}/"): content for name, content in kept.items() if name.startswith(f"{folder}/")}


@pytest.mark.parametrize(
    ("layout", "student"),
    [({}, {}), ({}, {"dtype": "bf16"}), ({}, LORA), (PACKED, LORA)],
    ids=["full", "full-bf16", "lora", "packed-lora"],
)
def test_keeping_changes_no_bit_of_the_training_and_the_last_one_is_the_student(
    tmp_path: Path, tiny_model: Path, layout: dict[str, Any], student: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from students.trainer import DistillTrainer

    plain = stage(tmp_path / "a", tiny_model, student, **layout)
    train.run(plain)
    then: dict[int, dict[str, torch.Tensor]] = {}
    inner = DistillTrainer.keep

    def looking(self: Any, step: int) -> None:
        then[step] = {n: p.detach().clone() for n, p in self.core.named_parameters() if p.requires_grad}
        drawn = torch.get_rng_state()
        inner(self, step)
        assert torch.equal(drawn, torch.get_rng_state()), "keeping draws no random number"
        now = {n: p for n, p in self.core.named_parameters() if p.requires_grad}
        assert all(torch.equal(now[n], before) and now[n].dtype == before.dtype for n, before in then[step].items())

    monkeypatch.setattr(DistillTrainer, "keep", looking)
    keeping = stage(tmp_path / "b", tiny_model, student, **layout, keep_every=2)
    train.run(keeping)

    before, after = trained(plain), trained(keeping)
    names = [f"student@{step}" for step in (2, 4, 6)]
    assert {name.split("/")[0] for name in after} - {name.split("/")[0] for name in before} == set(names)
    report = files.read_json(keeping.out / "report.json")
    assert report.pop("snapshots") == rundir.snapshots(keeping.out) == [2, 4, 6]
    assert report == files.read_json(plain.out / "report.json")
    for name in before.keys() - {"report.json"}:
        assert after[name] == before[name], name
    assert part(after, "student@6") == part(after, "student")

    weights = "adapter_model.safetensors" if "adapter" in student else "model.safetensors"
    assert len({part(after, name)[weights] for name in names}) == 3
    assert list(then) == [2, 4, 6]
    if "adapter" not in student:
        kept = load_file(keeping.out / "student@2" / weights)
        for name, tensor in kept.items():
            assert torch.equal(tensor, then[2][name].to(tensor.dtype)), name
    engines = [build(Config(device="cpu"), str(keeping.out / name)) for name in ("student@2", "student")]
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        early, late = (engine._model(ids).logits for engine in engines)
    assert not torch.equal(early, late)
    assert engines[0].identity.id != engines[1].identity.id


def test_more_steps_than_there_are_keep_nothing_and_say_so(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keeping = stage(tmp_path, tiny_model, keep_every=7)
    train.run(keeping)
    assert "`train.keep_every` 7 keeps nothing: there are 6 steps" in capsys.readouterr().err
    assert rundir.snapshots(keeping.out) == files.read_json(keeping.out / "report.json")["snapshots"] == []


def test_a_student_in_4_bits_is_kept_as_its_adapter(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    keeping = stage(tmp_path, tiny_model, QLORA, keep_every=3)
    train.run(keeping)
    kept = trained(keeping)
    assert rundir.snapshots(keeping.out) == [3, 6]
    assert part(kept, "student@6") == part(kept, "student")


@pytest.fixture(scope="module")
def straight(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What uninterrupted trainings leave, of all weights and of an adapter."""
    left = {}
    for name, student in (("full", {}), ("lora", LORA)):
        done = stage(tmp_path_factory.mktemp(name), tiny_model, student, keep_every=2)
        train.run(done)
        left[name] = trained(done)
    return left


@pytest.mark.parametrize(
    ("kind", "crash", "first"),
    [
        ("full", "half:1", 1),  # in the middle of the first that is kept, at step 2: the checkpoint of step 1 is there
        ("lora", "half:2", 3),
        ("full", "checkpoint.before-rename:4", 3),  # student@4 is there, the checkpoint of its step is not
        ("full", "checkpoint.after-rename:4", 4),
        ("lora", "train.before-final", 5),
        ("full", "train.final-written", 5),  # all are linked beside the student
    ],
)
def test_a_killed_run_has_them_all_in_the_end_and_none_half_written(
    tmp_path: Path,
    tiny_model: Path,
    straight: dict[str, dict[str, bytes]],
    kind: str,
    crash: str,
    first: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from students.trainer import DistillTrainer

    student = LORA if kind == "lora" else {}

    def kill(*_: Any) -> None:
        raise Killed

    killed = stage(tmp_path / "killed", tiny_model, student, keep_every=2)
    steps: list[int] = []
    inner = DistillTrainer.training_step
    monkeypatch.setattr(
        DistillTrainer,
        "training_step",
        lambda self, *a, **k: (steps.append(self.state.global_step), inner(self, *a, **k))[1],
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", kill)
        if crash.startswith("half"):
            left_behind(patch, int(crash[-1]))
        else:
            patch.setenv("DISTILL_CRASH_AT", crash)
        files._passed.clear()
        with pytest.raises(Killed):
            train.run(killed)
    steps.clear()
    rundir.begin(killed.out)  # as the pipeline does: of a killed run only the scratch stays
    train.run(killed)

    assert min(steps) == first
    assert trained(killed) == straight[kind]
    whole = [path.name for path in (killed.out / "work").glob("kept-*/*")]
    assert sorted(whole) == ["student@2", "student@4", "student@6"]
    rundir.finish(killed.out, {"key": "k"})
    hashed = files.read_json(killed.out / "manifest.json")["files"]
    assert {name.split("/")[0] for name in hashed if name.startswith("student@")} == set(whole)
    assert not (killed.out / "work").exists()


def left_behind(patch: pytest.MonkeyPatch, number: int) -> None:
    """A kill in the middle of writing the `number`-th kept student: what is written by then stays where it is."""
    copy, seen = shutil.copyfile, []

    def dying(source: Any, target: Any) -> Any:
        folder = Path(target).parent
        if folder.name.startswith(".student@"):
            seen.append(folder)
            if len(set(seen)) == number:
                left = folder.with_name(folder.name.replace(str(os.getpid()), "99999999"))
                shutil.copytree(folder, left, copy_function=copy)
                raise Killed
        return copy(source, target)

    patch.setattr(written.shutil, "copyfile", dying)


def test_a_checkpoint_without_what_was_to_be_kept_before_it_is_not_resumed(
    tmp_path: Path, tiny_model: Path, straight: dict[str, dict[str, bytes]]
) -> None:
    again = stage(tmp_path / "again", tiny_model, keep_every=2)
    train.run(again)
    (kept,) = (again.out / "work").glob("kept-*")
    shutil.rmtree(kept / "student@2")
    rundir.begin(again.out)
    train.run(again)
    assert trained(again) == straight["full"]


def test_what_is_due_and_what_is_there(tmp_path: Path) -> None:
    def write(target: Path, model: str, weights: None) -> None:
        target.mkdir(parents=True)
        (target / "model").write_text(model)

    kept = Kept(3, tmp_path / "work", "plan", write)
    assert [step for step in range(1, 10) if kept.due(step)] == [3, 6, 9]
    assert kept.complete(2) and not kept.complete(3)
    kept.add(3, "three", None)
    assert kept.complete(5) and not kept.complete(6)
    assert not Kept(3, tmp_path / "work", "another plan", write).complete(3)
    assert kept.put(tmp_path) == [3]
    assert kept.put(tmp_path) == [3]  # a second time, after a kill
    assert (tmp_path / "student@3" / "model").read_text() == "three"
    assert (tmp_path / "student@3" / "model").stat().st_nlink == 2


def test_where_files_cannot_have_two_names_they_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    test_copied = Kept(1, tmp_path / "work", "plan", lambda target, *_: (target.mkdir(parents=True), None)[1])
    test_copied.add(1, None, None)
    (tmp_path / "work" / "kept-plan" / "student@1" / "model").write_text("x")
    test_copied.put(tmp_path)
    assert (tmp_path / "student@1" / "model").read_text() == "x"


def test_keys_of_trainings_that_keep_none_are_what_they_were() -> None:
    plain, keeping = train.Config.model_validate(SHORT), train.Config.model_validate(KEEPING)
    assert "keep_every" not in plain.keyed()
    assert keeping.keyed() == plain.keyed() | {"keep_every": 2}
    assert plain.dump()["keep_every"] is None
    with pytest.raises(ValidationError, match="greater than 0"):
        train.Config.model_validate({**SHORT, "keep_every": 0})


def test_a_student_is_found_by_its_step_or_one_line_says_which_there_are(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "train-1"
    files.write_json(tmp_path / "run" / "run.json", {"arms": {"a": {"0": {"train": {"folder": "train-1"}}}}})
    for name in ("student", "student@20", "student@100", "student@x", ".student@30.partial-1"):
        (folder / name).mkdir(parents=True)

    assert rundir.snapshots(folder) == [20, 100]
    assert rundir.student_of(tmp_path / "run") == folder / "student"
    assert rundir.student_of(tmp_path / "run", step=100) == folder / "student@100"
    with pytest.raises(DistillError, match=re.escape("the student of step 30 was not kept; there is 20, 100")):
        rundir.snapshot_of(folder, 30)
    with pytest.raises(DistillError, match=r"there is none; set `train.keep_every`"):
        rundir.snapshot_of(tmp_path, 30)


def keeping_ranks(folder: Path, work: Path, world: int, peft: bool) -> dict[str, Any]:
    """A training of several processes that keeps every step: what the leader was given to write, and what is learnt."""
    if "FSDP_VERSION" in os.environ:
        as_gpus()
    trainer = made(folder, work, world, peft, num_train_epochs=1, optim="sgd", learning_rate=0.1)

    def write(target: Path, model: Any, weights: Any) -> None:
        assert trainer.ranks.leads
        target.mkdir(parents=True)
        found = weights if weights is not None else {n: p for n, p in model.named_parameters() if p.requires_grad}
        save_file({name: tensor.detach().contiguous() for name, tensor in found.items()}, target / "weights")

    trainer.kept = Kept(1, work, "test", write)
    trainer.run()
    return {"history": trainer.history.records}


@pytest.mark.slow
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("group", [{}, {**FSDP2, "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}], ids=["ddp", "fsdp2"])
def test_two_processes_keep_what_one_keeps(tmp_path: Path, tiny_model: Path, group: dict[str, str], peft: bool) -> None:
    alone, together = tmp_path / "w1", tmp_path / "w2"
    on_ranks(1, tmp_path / "one", keeping_ranks, tiny_model, alone, 1, peft)
    on_ranks(2, tmp_path / "two", keeping_ranks, tiny_model, together, 2, peft, **group)

    assert rundir.snapshots(alone / "kept-test") == rundir.snapshots(together / "kept-test") == [1, 2, 3]
    for step in (1, 2, 3):
        mine, theirs = (load_file(work / "kept-test" / f"student@{step}" / "weights") for work in (alone, together))
        assert len(mine) > 3
        short = {name.removeprefix("base_model.model.").replace(".default", ""): t for name, t in theirs.items()}
        for name, tensor in mine.items():
            other = short[name.removeprefix("base_model.model.").replace(".default", "")]
            assert float((tensor - other).abs().max()) < 1e-5, name
