"""Recorded teachers all the way: from shards through collator and trainer to the loss, in both modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core import shards
from distill.core.errors import DistillError
from distill.core.protocols import Keep
from distill.core.shards import ShardInfo, ShardRows
from distill.decoding.record import recorder
from students import train
from students.head_loss import Matching
from students.rows import Row, read_student
from students.teacher_logits import TeacherLogits
from tests.students.made import a_trace, stage_of
from tests.students.naive import DIVERGENCES, build
from tests.students.test_teacher_logits import write_draws
from tests.students.test_trainer import load, rows_of, trainer_of

VOCAB = 320


def own_shard(path: Path, folder: Path, rows: list[Row], keep: Keep) -> Path:
    """What a scoring stage writes where the teacher is the student itself."""
    model, made = load(folder).eval(), []
    for row in rows:
        with torch.no_grad():
            logits_NV = model(torch.from_numpy(row.ids).long()[None]).logits[0, row.start - 1 : -1]
        keeper = recorder(keep, row.key)
        keeper.add(logits_NV.float().log_softmax(1), torch.from_numpy(row.completion_ids).long())
        made.append(ShardRows(row.key, row.completion_ids.tolist(), keeper.rows()))
    about: dict[str, Any] = {"mode": "sampled", "draws": keep.draws} if keep.draws else {"top_k": keep.top_k}
    info = ShardInfo(
        "teacher", read_student(folder).fingerprint, None, VOCAB, temperatures=(1.0, *keep.temperatures), **about
    )
    shards.write(path, made, info)
    return path


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(
    ("name", "draws"), [*((name, None) for name in DIVERGENCES), ("forward_kl", 20)], ids=[*DIVERGENCES, "draws"]
)
def test_a_student_that_was_its_own_teacher_has_a_divergence_of_zero(
    tmp_path: Path, tiny_model: Path, name: str, draws: int | None, temperature: float
) -> None:
    """Half precision of the shard included: in the mean within 1e-6; rows of the next token are far off."""
    rows = rows_of(tiny_model, 6)
    keep = Keep(draws=draws, temperatures=(2.0,)) if draws else Keep(top_k=16, temperatures=(2.0,))
    path = own_shard(tmp_path / "logits.safetensors", tiny_model, rows, keep)
    teacher = TeacherLogits(
        [path], tokenizer=read_student(tiny_model).fingerprint, vocab_size=VOCAB, top_k=16, temperature=temperature
    )
    matching = Matching(build(name), 1.0, temperature, VOCAB)
    trainer = trainer_of(tmp_path, tiny_model, rows, teacher, match=matching, micro=6)
    batch = trainer.data_collator([{"row": n} for n in range(6)])
    with torch.no_grad():
        right = trainer._forward(batch)
        for column in [key for key in batch if key.startswith("teacher_") and key != "teacher_rows"]:
            batch[column] = batch[column].roll(1, dims=1)
        batch["teacher_present"] &= batch["teacher_rows"]
        wrong = trainer._forward(batch)
    tokens = int(batch["teacher_present"].sum())
    assert abs(float(right.kd)) / tokens < (1e-3 if draws else 1e-6)  # draws see the shard's half precision itself
    assert float(wrong.kd) / tokens > 0.02


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_stage_trains_on_draws_with_forward_kl_and_refuses_all_else(
    tmp_path: Path, tiny_model: Path, temperature: float
) -> None:
    student = read_student(tiny_model)
    traces = [a_trace(student, n) for n in range(12)]
    for name in DIVERGENCES:
        loss = {"name": name, "loss_temperature": temperature, "top_k": 300}  # top_k is not read
        stage = stage_of(
            tmp_path / name, tiny_model, traces=traces, shard=False,
            train_settings={"epochs": 4, "batch_size": 4, "learning_rate": 1e-2, "loss": loss},
        )  # fmt: skip
        path = stage.inputs["sample"] / "logits-00000.safetensors"
        write_draws(path, traces, student.vocab_size, tokenizer=student.fingerprint, temperatures=(2.0,))
        if name == "forward_kl":
            data = train.run(stage).data
            assert data["kd_tokens"] == data["trained_tokens"]
            assert data["kd_last"] > 0 and data["covered_mass"] == 1
        else:
            with pytest.raises(DistillError, match=f"`{name}` cannot be matched to draws"):
                train.run(stage)


def test_positions_choose_the_tokens_that_are_matched(tmp_path: Path, tiny_model: Path) -> None:
    """Reasoning and answer share all tokens between them; the others train by cross-entropy."""
    student, counted = read_student(tiny_model), {}
    traces = [a_trace(student, n) for n in range(8)]
    for positions in ("all", "reasoning", "answer"):
        loss = {"name": "forward_kl", "top_k": 4, "positions": positions}
        settings = {"epochs": 1, "batch_size": 4, "loss": loss}
        data = train.run(stage_of(tmp_path / positions, tiny_model, traces=traces, train_settings=settings)).data
        counted[positions] = data["kd_tokens"]
        assert data["trained_tokens"] == sum(len(trace.completion_ids or ()) for trace in traces)
    assert counted["all"] == counted["reasoning"] + counted["answer"]
    close = student.tokenizer("</think>", add_special_tokens=False)["input_ids"][-1]
    assert counted["reasoning"] == sum((trace.completion_ids or ()).index(close) + 1 for trace in traces)
