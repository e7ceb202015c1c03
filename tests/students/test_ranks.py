"""Several processes train as one does: DDP and FSDP2 over gloo, rows shared out, checkpoints written together."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.core import files
from distill.core.device import Placement
from distill.core.errors import DistillError
from students import checkpoints
from students import trainer as trainer_module
from students.collate import NO_ROW, EpochSampler, epoch_order, shared_out
from students.head_loss import head_loss
from students.packing import Layout
from students.processes import asked, check_group, here, meet
from students.rows import Row, read_student
from students.teacher_logits import TeacherLogits
from students.trainer import DistillTrainer
from tests.students.gloo import on_ranks
from tests.students.made import a_trace, write_shard
from tests.students.test_trainer import VOCAB, K, farthest, lora, matching, rows_of, trainer_of, weights
from tests.tiny import make_tiny_model

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "false", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip
"""What `accelerate launch --config_file configs/accelerate/fsdp2.yaml` leaves in the environment."""


def odd_rows(folder: Path) -> list[Row]:
    """11 rows of unequal length, two of which train nothing: a last step with fewer rows than processes want, and
    forward passes without a trained token.
    """
    rows = list(rows_of(folder, 11))
    for n in (3, 8):
        rows[n] = Row(f"{100 + n:064x}", rows[n].ids, len(rows[n].ids))
    return rows


def teacher_of(folder: Path, path: Path) -> TeacherLogits:
    student = read_student(folder)
    write_shard(path, [a_trace(student, n) for n in range(9)], VOCAB, tokenizer=student.fingerprint, k=K)
    return TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=VOCAB, top_k=K)


def made(folder: Path, work: Path, world: int, peft: bool, **args: Any) -> DistillTrainer:
    """A trainer of steps of 4 rows, CE and KL; a process has forward passes of one row."""
    place = int(os.environ.get("RANK", "0"))
    teacher = teacher_of(folder, work.parent / f"{work.name}-{world}-{place}.safetensors")
    return trainer_of(
        work, folder, odd_rows(folder), teacher, match=matching(), micro=1, accumulate=4 // world,
        peft=lora(args.pop("dropout", 0.0)) if peft else None, **args,
    )  # fmt: skip


def trained(folder: Path, work: Path, world: int, peft: bool, args: dict[str, Any]) -> dict[str, Any]:
    """Weights, history and rows seen of a whole training by plain gradient descent."""
    trainer = made(folder, work, world, peft, **{"optim": "sgd", "learning_rate": 0.1, **args})
    seen: list[int] = []
    collate = trainer.data_collator
    trainer.data_collator = lambda examples: seen.extend(e["row"] for e in examples) or collate(examples)
    history = trainer.run()
    return {"weights": weights(trainer), "history": history, "seen": [n for n in seen if n != NO_ROW]}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("layout", [Layout(), Layout(64), Layout(64, packed=True)])
def test_a_last_step_is_shared_out_without_a_row_repeated_or_lost(ranks: int, micro: int, layout: Layout) -> None:
    """Every number of rows that a last step can have: each process gets as many micro-batches, each row comes once."""
    batch = 12 if layout.tokens is None else ranks * micro
    for n in range(1, 30):
        lengths = [7 + 5 * k % 11 for k in range(n)]
        sampler = EpochSampler(lengths, batch, 3, layout=layout, ranks=ranks, micro=micro)
        given = list(sampler)
        assert len(given) == len(sampler)
        assert sorted(place for place in given if place != n) == list(range(n))
        full = n - n % batch
        assert given[:full] == epoch_order(lengths, batch, 3, 0, layout=layout, ranks=ranks)[:full].tolist()
        if ranks > 1:
            assert len(given) % (micro * ranks) == 0
            shares = np.array(given[full:]).reshape(-1, micro)
            trained = [(shares[rank::ranks] != n).sum() for rank in range(ranks)]
            assert max(trained) - min(trained) <= -(-batch // (micro * ranks))


def test_filling_up_is_needed_only_where_the_last_step_is_short() -> None:
    order = np.arange(8)
    assert shared_out(order, 4, 2, 2) is order
    assert shared_out(order[:5], 4, 2, 1) is not None
    assert shared_out(order[:5], 4, 2, 2).tolist() == [0, 1, 2, 3, 4, 5, 5, 5]


@pytest.mark.parametrize("was", [True, False])
def test_a_checkpoint_of_other_weights_is_refused_before_it_is_read(tmp_path: Path, was: bool) -> None:
    with checkpoints.writing(tmp_path, 3, "plan", sharded=was) as scratch:
        (scratch / "checkpoint-3").mkdir()
        files.write_text(scratch / "checkpoint-3" / "weights", "x")
    found = checkpoints.latest(tmp_path, "plan")
    assert found is not None
    checkpoints.check_layout(found, sharded=was)
    with pytest.raises(DistillError, match="go on with the `--launch` that it was written with"):
        checkpoints.check_layout(found, sharded=not was)


@pytest.mark.parametrize(("peft", "checkpointing"), [(False, False), (True, True)], ids=["full", "lora-checkpointing"])
def test_two_ranks_are_one(tmp_path: Path, tiny_model: Path, peft: bool, checkpointing: bool) -> None:
    """Losses, counts and weights, with unequal rows, a last step of 3 and passes in which nothing is trained."""
    args = {"activation_checkpointing": checkpointing}
    one = trained(tiny_model, tmp_path / "one", 1, peft, args)
    first, second = on_ranks(2, tmp_path / "two", trained, tiny_model, tmp_path / "w", 2, peft, args)

    assert farthest(first["weights"], second["weights"]) == 0
    assert farthest(one["weights"], first["weights"]) < 1e-6
    assert sorted(first["seen"] + second["seen"]) == sorted(one["seen"]) == list(range(11))
    assert first["history"] == second["history"]
    for mine, theirs in zip(one["history"], first["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("peft", "checkpointing"), [(False, True), (True, False)], ids=["full-checkpointing", "lora"])
def test_two_ranks_are_one_in_the_other_ways(tmp_path: Path, tiny_model: Path, peft: bool, checkpointing: bool) -> None:
    test_two_ranks_are_one(tmp_path, tiny_model, peft, checkpointing)


def resumed(folder: Path, work: Path, stop_after: int | None) -> dict[str, Any]:
    """Two epochs of LoRA with dropout; with `stop_after`, leave after so many steps and go on with a new trainer."""
    if "FSDP_VERSION" in os.environ:
        as_gpus()
    args: dict[str, Any] = {"num_train_epochs": 2, "dropout": 0.2, "every_s": 0.0}
    if stop_after is not None:
        trainer = made(folder, work, 2, True, **args)
        inner = trainer.training_step

        def stopping(*given: Any, **named: Any) -> Tensor:
            if trainer.state.global_step == stop_after:
                raise Stopped
            return inner(*given, **named)

        trainer.training_step = stopping  # type: ignore[method-assign]
        with pytest.raises(Stopped):
            trainer.run()
        found = checkpoints.latest(work, "test")
        assert found is not None and found.name == f"checkpoint-{stop_after}"
        assert {path.name for path in found.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    trainer = made(folder, work, 2, True, **args)
    history = trainer.run()
    parts = {
        n: getattr(p, "full_tensor", lambda p=p: p)() for n, p in trainer.model.named_parameters() if p.requires_grad
    }
    return {"weights": {name: part.detach().clone() for name, part in parts.items()}, "history": history}


class Stopped(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize(
    "group",
    [
        {},
        pytest.param({**FSDP2, "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, marks=pytest.mark.slow),
        pytest.param({**FSDP2, "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}, marks=pytest.mark.slow),
    ],
    ids=["ddp", "fsdp2-sharded", "fsdp2-full"],
)
def test_a_resume_on_two_ranks_changes_no_bit(tmp_path: Path, tiny_model: Path, group: dict[str, str]) -> None:
    """LoRA with dropout: every process has random numbers of its own, and takes them up where it left them."""
    straight, _ = on_ranks(2, tmp_path / "a", resumed, tiny_model, tmp_path / "straight", None, **group)
    first, second = on_ranks(2, tmp_path / "b", resumed, tiny_model, tmp_path / "stopped", 3, **group)
    assert farthest(straight["weights"], first["weights"]) == 0
    assert farthest(first["weights"], second["weights"]) == 0
    assert straight["history"] == first["history"]
    assert len(first["history"]) == 6


def stopped_after(folder: Path, work: Path, world: int, steps: int) -> dict[str, Any]:
    """Leave a checkpoint behind after so many steps of plain gradient descent."""
    trainer = made(folder, work, world, False, optim="sgd", learning_rate=0.1, every_s=0.0)
    inner = trainer.training_step

    def stopping(*given: Any, **named: Any) -> Tensor:
        if trainer.state.global_step == steps:
            raise Stopped
        return inner(*given, **named)

    trainer.training_step = stopping  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        trainer.run()
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_one_process_and_ddp_go_on_with_each_others_checkpoints(
    tmp_path: Path, tiny_model: Path, before: int, after: int
) -> None:
    one = trained(tiny_model, tmp_path / "one", 1, False, {})
    work = tmp_path / "w"
    on_ranks(before, tmp_path / "a", stopped_after, tiny_model, work, before, 2)
    got = on_ranks(after, tmp_path / "b", trained, tiny_model, work, after, False, {})[0]
    assert len(got["history"]) == 3 and len(got["seen"]) < 8  # it did go on
    assert farthest(one["weights"], got["weights"]) < 1e-6


def as_gpus() -> None:
    """accelerate has FSDP2 on accelerators only: tell it that these processes, which meet over gloo, are such."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    plain = AcceleratorState.__init__

    def init(self: Any, *given: Any, **named: Any) -> None:
        if not PartialState._shared_state:
            PartialState(cpu=True)
        if PartialState._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        plain(self, *given, **named)

    AcceleratorState.__init__ = init  # type: ignore[method-assign]


def sharded(folder: Path, work: Path, peft: bool, args: dict[str, Any]) -> dict[str, Any] | None:
    """As `trained`, through accelerate's FSDP2; the whole weights, in the leader."""
    from torch.distributed.tensor import DTensor

    as_gpus()
    meet(here(), Placement("cpu", "float32", ""), work)  # as `train` does, before the model is loaded
    trainer = made(folder, work, 2, peft, **{"optim": "sgd", "learning_rate": 0.1, **args})
    check_group(asked(), trainer.accelerator, Placement("cpu", "bfloat16" if args.get("bf16") else "float32", ""))
    assert trainer.accelerator.is_fsdp2 and trainer.sharded
    dtypes: set[str] = set()
    add = trainer.history.add
    trainer.history.add = lambda *sums: dtypes.update(str(value.dtype) for value in sums) or add(*sums)  # type: ignore[method-assign]
    history = trainer.run()
    assert all(isinstance(p, DTensor) for p in trainer.model.parameters())
    got = trainer.student()
    assert (got is not None) == trainer.ranks.leads
    if got is None:
        return None
    model, gathered = got
    state = dict(model.named_parameters()) if gathered is None else gathered
    learned = {name: value.detach().clone() for name, value in state.items()}
    return {"weights": learned, "history": history, "dtypes": sorted(dtypes)}


@pytest.mark.parametrize(
    ("peft", "tied", "args"),
    [
        (False, False, {}),
        pytest.param(False, True, {"activation_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(True, False, {"activation_checkpointing": True}, marks=pytest.mark.slow),
        pytest.param(True, True, {}, marks=pytest.mark.slow),
    ],
    ids=["full-untied", "full-tied-checkpointing", "lora-untied-checkpointing", "lora-tied"],
)
def test_fsdp2_is_one_process(tmp_path: Path, peft: bool, tied: bool, args: dict[str, Any]) -> None:
    """accelerate's own wrapping: layers, embeddings, and the last norm with the head, are groups of their own."""
    folder = make_tiny_model(tmp_path / "m", tied=tied)
    one = trained(folder, tmp_path / "one", 1, peft, args)
    first, _ = on_ranks(2, tmp_path / "two", sharded, folder, tmp_path / "w", peft, args, **FSDP2)
    learned = {name: value for name, value in first["weights"].items() if name in one["weights"]}
    assert farthest(one["weights"], learned) < 1e-6
    for mine, theirs in zip(one["history"], first["history"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("peft", [False, True], ids=["full", "lora"])
def test_fsdp2_with_weights_that_only_the_leader_read(tmp_path: Path, tiny_model: Path, peft: bool) -> None:
    one = trained(tiny_model, tmp_path / "one", 1, peft, {})
    sparing = {**FSDP2, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    first, _ = on_ranks(2, tmp_path / "two", sharded, tiny_model, tmp_path / "w", peft, {}, **sparing)
    learned = {name: value for name, value in first["weights"].items() if name in one["weights"]}
    assert farthest(one["weights"], learned) < 1e-6


@pytest.mark.slow
def test_fsdp2_in_bf16_rounds_neither_the_loss_nor_the_teacher(tmp_path: Path, tiny_model: Path) -> None:
    """accelerate's own policy would cast both: the printed figures would have three digits."""
    args = {"bf16": True}
    one = trained(tiny_model, tmp_path / "one", 1, False, args)
    first, _ = on_ranks(2, tmp_path / "two", sharded, tiny_model, tmp_path / "w", False, args, **FSDP2)
    for mine, theirs in zip(one["history"], first["history"], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
        assert mine["covered"] == pytest.approx(theirs["covered"], rel=1e-6)  # the teacher's alone
    assert first["dtypes"] == ["torch.float32", "torch.int64"]


def gradients_on_a_mesh(folder: Path, tiles: int, alone: bool) -> dict[str, Tensor]:
    """Gradients of one step of two rows, one a process, through torch's `fully_shard`: layers, then norm and head, or
    the head alone.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        dist.init_process_group("gloo")
    teacher = teacher_of(folder, folder.parent / f"logits-{world}-{rank}.safetensors")
    rows = rows_of(folder, 4)
    trainer = trainer_of(folder.parent / f"w{world}{rank}", folder, rows, teacher, match=matching())
    trainer_module.head_loss = functools.partial(head_loss, tile_bytes=tiles)  # type: ignore[attr-defined]
    model = trainer.core
    batches = [trainer.data_collator([{"row": n}]) for n in (0, 3)]
    total = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for layer in model.base_model.layers:
            fully_shard(layer, mesh=mesh)
        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        tied = head.weight is embeddings.weight
        if not tied:
            fully_shard(embeddings, mesh=mesh)
        if alone:
            fully_shard(head, mesh=mesh)
        else:
            fully_shard([model.base_model.norm, *([embeddings] if tied else []), head], mesh=mesh)
        fully_shard(model, mesh=mesh)
        trainer.sharded = True
    for batch in batches if world == 1 else batches[rank : rank + 1]:
        trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(total)).backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found[name] = (parameter.grad.full_tensor() if world > 1 else parameter.grad).clone()  # type: ignore[attr-defined]
    if world > 1:
        dist.destroy_process_group()
    return found


@pytest.mark.parametrize(("tied", "alone"), [(True, False), (False, False), (False, True)])
def test_fully_shard_gives_one_processs_gradients(tmp_path: Path, tied: bool, alone: bool) -> None:
    """The head's weights are whole where the loss, made in several chunks, reads them, whatever group they are in."""
    folder = make_tiny_model(tmp_path / "m", tied=tied)
    (one,) = on_ranks(1, tmp_path / "one", gradients_on_a_mesh, folder, 1 << 28, alone)
    first, second = on_ranks(2, tmp_path / "two", gradients_on_a_mesh, folder, 1 << 14, alone)
    assert farthest(first, second) == 0
    assert farthest(one, first) < 1e-6
