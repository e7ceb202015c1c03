"""The trainer against plain TRL and plain autograd, and what it relies on in both libraries."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from distill.core import plugins
from distill.core.errors import DistillError
from distill.core.progress import Progress
from students import settings
from students.collate import IGNORED, Collator, epoch_order
from students.head_loss import Matching
from students.model import adapter
from students.rows import Row, build_rows, read_student
from students.teacher_logits import FoldedRows, TeacherLogits
from students.trainer import DistillTrainer, arguments, logit_finish, prove_head
from tests.students.made import a_trace, recorded, write_shard
from tests.tiny import make_tiny_model

VOCAB, K = 320, 8


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def rows_of(folder: Path, n: int = 12) -> list[Row]:
    student = read_student(folder)
    return build_rows([a_trace(student, i) for i in range(n)], student, target="trace", max_length=None).rows


@pytest.fixture
def teacher(tmp_path: Path, tiny_model: Path) -> TeacherLogits:
    student = read_student(tiny_model)
    path = tmp_path / "logits.safetensors"
    write_shard(path, [a_trace(student, n) for n in range(9)], VOCAB, tokenizer=student.fingerprint, k=K)
    return TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=VOCAB, top_k=K)


def matching(name: str = "forward_kl", weight: float = 0.5, vocab: int = VOCAB) -> Matching:
    module = plugins.load("students.losses", name)
    return Matching(module.build(module.Config()), weight, 1.0, vocab)


def trainer_of(
    tmp_path: Path, folder: Path, rows: list[Row], teacher: TeacherLogits | None = None, *, model: Any = None,
    match: Matching | None = None, micro: int = 4, accumulate: int = 1, peft: Any = None, **args: Any,
) -> DistillTrainer:  # fmt: skip
    settings_: dict[str, Any] = {
        "seed": 0, "num_train_epochs": 1, "learning_rate": 1e-3, "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate, "use_cpu": True, "bf16": False, "activation_checkpointing": False,
        "dataloader_pin_memory": False, "max_grad_norm": 1.0, **args,
    }  # fmt: skip
    return DistillTrainer(
        model=model or load(folder), args=arguments(tmp_path, **settings_),
        processing_class=read_student(folder).tokenizer, peft_config=peft,
        train_dataset=datasets.Dataset.from_dict({"row": list(range(len(rows)))}),
        collator=Collator(rows, teacher), matching=match, work=tmp_path, plan="test",
        progress=Progress("train", 1, "steps"), checkpoint_every_s=1e9, logging_every=1,
    )  # fmt: skip


def weights(trainer: Any) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def farthest(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert mine.keys() == theirs.keys()
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)


def lora(dropout: float = 0.0) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.mark.parametrize("peft", [None, lora])
@pytest.mark.parametrize("tied", [True, False])
def test_cross_entropy_alone_is_plain_trl(tmp_path: Path, peft: Callable[[], Any] | None, tied: bool) -> None:
    """Three AdamW steps on the same batches: losses within 1e-6, parameters within what rounding makes of them."""
    folder = make_tiny_model(tmp_path / "m", tied=tied)
    rows = rows_of(folder)
    ours = trainer_of(tmp_path / "ours", folder, rows, peft=peft and peft())
    history = ours.run()
    order = list(ours._get_train_sampler())
    longest = [
        {
            "input_ids": rows[place].ids.tolist(),
            "labels": [IGNORED] * rows[place].start + rows[place].completion_ids.tolist(),
        }
        for place in order
    ]

    seen: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
            if "loss" in logs:
                seen.append(logs["loss"])

    theirs = SFTTrainer(
        model=load(folder), processing_class=read_student(folder).tokenizer, peft_config=peft and peft(),
        train_dataset=datasets.Dataset.from_list(longest), callbacks=[Losses],
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"), per_device_train_batch_size=4, num_train_epochs=1, learning_rate=1e-3,
            use_cpu=True, bf16=False, activation_checkpointing=False, report_to="none", save_strategy="no",
            logging_steps=1, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, seed=0, disable_tqdm=True,
            lr_scheduler_type="cosine", train_sampling_strategy="sequential", dataloader_pin_memory=False,
        ),
    )  # fmt: skip
    start = weights(theirs)
    theirs.train()

    assert len(history) == 3
    assert [record["loss"] for record in history] == pytest.approx(seen, rel=1e-6)
    moved = farthest(weights(theirs), start)
    assert farthest(weights(ours), weights(theirs)) < 0.01 * moved


@pytest.mark.parametrize("peft", [None, lora])
def test_accumulation_changes_nothing(tmp_path: Path, tiny_model: Path, teacher: TeacherLogits, peft: Any) -> None:
    """8 x 1 = 4 x 2 = 1 x 8, unequal lengths, some rows without a teacher, a last step with half the rows."""
    rows = rows_of(tiny_model)
    results = []
    for micro, accumulate in ((8, 1), (4, 2), (1, 8)):
        trainer = trainer_of(
            tmp_path / str(micro), tiny_model, rows, teacher, match=matching(), micro=micro, accumulate=accumulate,
            peft=peft and peft(), optim="sgd", learning_rate=0.1,
        )  # fmt: skip
        history = trainer.run()
        assert len(history) == 2
        results.append((weights(trainer), history))
    for got, history in results[1:]:
        assert farthest(got, results[0][0]) < 1e-6
        for mine, theirs in zip(history, results[0][1], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-5)


def test_the_printed_loss_is_the_mean_over_the_trained_tokens_of_the_step(
    tmp_path: Path, tiny_model: Path, teacher: TeacherLogits
) -> None:
    """Worked out with full logits: one normaliser for CE and KD, rows without a teacher at full weight."""
    rows = rows_of(tiny_model)
    trainer = trainer_of(tmp_path / "w", tiny_model, rows, teacher, match=matching("jsd", 0.3), micro=12)
    record = trainer.run()[0]

    model, jsd = load(tiny_model), matching("jsd").divergence
    total, ce_total, kd_total, tokens, kd_tokens = 0.0, 0.0, 0.0, 0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.from_numpy(row.ids).long()[None]).logits[0, row.start - 1 : -1].double()
        labels = torch.from_numpy(row.completion_ids).long()
        ce_R = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        loss_R = ce_R
        if row.key in teacher:
            got = teacher.rows(row.key, row.completion_ids)
            q_RV = logits.softmax(1)
            top_RK = q_RV.gather(1, torch.from_numpy(got.ids_NK).long())
            student_RB = torch.cat([top_RK, 1 - top_RK.sum(1, keepdim=True)], 1).log()
            recorded_RB = torch.cat(
                [torch.from_numpy(got.logprobs_NK), torch.from_numpy(got.tail_N)[:, None]], 1
            ).double()
            kd_R, _ = jsd(recorded_RB.log_softmax(1), student_RB)
            loss_R = 0.7 * ce_R + 0.3 * kd_R
            kd_total, kd_tokens = kd_total + float(kd_R.sum()), kd_tokens + len(labels)
        total, ce_total, tokens = total + float(loss_R.sum()), ce_total + float(ce_R.sum()), tokens + len(labels)

    assert (record["tokens"], record["kd_tokens"]) == (tokens, kd_tokens)
    assert record["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert record["ce"] == pytest.approx(ce_total / tokens, rel=1e-5)
    assert record["kd"] == pytest.approx(kd_total / kd_tokens, rel=1e-4)
    assert 0 < record["covered"] < 1


class OwnLogits(TeacherLogits):
    """A teacher that is the student itself, computed with plain transformers; `shift` moves its rows."""

    def __init__(self, folder: Path, rows: list[Row], k: int, shift: int = 0) -> None:
        self.model, self.top_k, self.vocab_size, self.shift = load(folder), k, VOCAB, shift
        self.known = {row.key: row for row in rows}

    def __contains__(self, key: str) -> bool:
        return key in self.known

    def rows(self, key: str, completion_ids: Any) -> FoldedRows:
        row = self.known[key]
        with torch.no_grad():
            log_p = self.model(torch.from_numpy(row.ids).long()[None]).logits[0].double().log_softmax(1)
        log_p_NV = log_p[row.start - 1 : -1].roll(self.shift, 0).numpy()
        got = recorded(log_p_NV, completion_ids.tolist(), self.top_k)
        return FoldedRows(got.ids_NK, got.logprobs_NK, got.tail_N, got.present_N)


@pytest.mark.parametrize("name", plugins.names("students.losses"))
def test_self_distillation_through_the_trainer_is_zero_and_a_shift_by_one_is_large(
    tmp_path: Path, tiny_model: Path, name: str
) -> None:
    """The whole path, collator, padding and prompt mask included: every logit meets the row of its own token."""
    rows = rows_of(tiny_model, 6)
    by_shift = {}
    for shift in (-1, 0, 1):
        trainer = trainer_of(
            tmp_path, tiny_model, rows, OwnLogits(tiny_model, rows, K, shift), match=matching(name), micro=6
        )
        batch = trainer.data_collator([{"row": n} for n in range(6)])
        with torch.no_grad():
            sums = trainer._forward(batch)
        by_shift[shift] = float(sums.kd) / int(batch["teacher_present"].sum())
    assert abs(by_shift[0]) < 1e-6
    assert min(by_shift[-1], by_shift[1]) > 0.05


def test_padding_behind_a_row_changes_none_of_its_logits(tmp_path: Path, tiny_model: Path) -> None:
    """There is no attention mask: a padded row gives the loss it has alone, on both attention backends."""
    rows = rows_of(tiny_model, 6)
    for backend in ("sdpa", "eager"):
        model = load(tiny_model)
        model.set_attn_implementation(backend)
        trainer = trainer_of(tmp_path, tiny_model, rows, model=model)
        together = trainer._forward(trainer.data_collator([{"row": n} for n in range(6)])).ce
        alone = sum(trainer._forward(trainer.data_collator([{"row": n}])).ce for n in range(6))
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=0)


def test_gradient_checkpointing_changes_no_bit(tmp_path: Path, tiny_model: Path, teacher: TeacherLogits) -> None:
    rows, got = rows_of(tiny_model), []
    for on in (False, True):
        trainer = trainer_of(
            tmp_path / str(on), tiny_model, rows, teacher, match=matching(), activation_checkpointing=on, peft=lora(0.1)
        )
        trainer.run()
        got.append(weights(trainer))
    assert farthest(*got) == 0


def test_bf16_autocast_trains_float32_weights_close_to_float32(
    tmp_path: Path, tiny_model: Path, teacher: TeacherLogits
) -> None:
    rows, losses = rows_of(tiny_model), []
    for bf16 in (False, True):
        trainer = trainer_of(tmp_path / str(bf16), tiny_model, rows, teacher, match=matching(), bf16=bf16)
        losses.append([record["loss"] for record in trainer.run()])
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert losses[1] != losses[0]


def test_a_frozen_base_stays_as_it_was_and_padding_rows_of_the_head_are_no_teacher_mass(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", padded_vocab=384)
    rows = rows_of(folder)
    student = read_student(folder)
    path = tmp_path / "logits.safetensors"
    write_shard(path, [a_trace(student, n) for n in range(12)], VOCAB, tokenizer=student.fingerprint, k=K)
    teacher = TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=student.vocab_size, top_k=K)
    assert (student.vocab_size, teacher.vocab_size) == (384, VOCAB)
    trainer = trainer_of(tmp_path / "w", folder, rows, teacher, match=matching(), peft=lora())
    trainer.run()
    base = load(folder).state_dict()
    for name, value in trainer.core.state_dict().items():
        if "lora" not in name and (plain := name.replace(".base_layer", "")) in base:
            assert torch.equal(value, base[plain]), name


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("llama", {}),
        ("qwen2", {}),
        ("gemma2", {"final_logit_softcapping": 3.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 4.0}),
    ],
)
def test_heads_that_scale_their_logits_are_known(tmp_path: Path, architecture: str, config: dict[str, Any]) -> None:
    folder = make_tiny_model(tmp_path / "m", architecture=architecture, layers=1, **config)
    model = load(folder)
    finish = logit_finish(model.config)
    assert (finish is None) == (not config)
    prove_head(model, finish)
    if config:
        with pytest.raises(DistillError, match="changes its logits after the head"):
            prove_head(model, None)


def test_every_epoch_has_its_own_order_and_every_step_its_rows(tmp_path: Path, tiny_model: Path) -> None:
    rows, seen = rows_of(tiny_model), []
    trainer = trainer_of(tmp_path, tiny_model, rows, micro=2, accumulate=2, num_train_epochs=2, seed=3)
    inner = trainer.data_collator

    def spy(examples: list[dict[str, int]]) -> dict[str, Tensor]:
        seen.extend(example["row"] for example in examples)
        return inner(examples)

    trainer.data_collator = spy
    trainer.run()
    lengths = [len(row.ids) for row in rows]
    assert seen == [*epoch_order(lengths, 4, 3, 0), *epoch_order(lengths, 4, 3, 1)]
    assert seen[:12] != seen[12:]


def test_nothing_is_reported_and_stdout_stays_empty(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guard and proof that it guards: plain TRL would report."""
    sent: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys.modules["trl.trainer.base_trainer"], "send_telemetry", lambda **about: sent.append(about))
    trainer = trainer_of(tmp_path, tiny_model, rows_of(tiny_model, 4))
    trainer.run()
    assert sent == []
    assert capsys.readouterr().out == ""
    SFTTrainer._send_telemetry(trainer)
    assert len(sent) == 1


def test_the_models_forward_is_its_own_again_after_every_step(tmp_path: Path, tiny_model: Path) -> None:
    trainer = trainer_of(tmp_path, tiny_model, rows_of(tiny_model, 4))
    before = trainer.core.forward
    trainer.run()
    assert trainer.core.forward == before
    trainer._forward = lambda _: (_ for _ in ()).throw(RuntimeError("inside"))  # type: ignore[method-assign]  # a fault inside it
    with pytest.raises(RuntimeError, match="inside"):
        trainer.compute_loss(trainer.model, trainer.data_collator([{"row": 0}]))
    assert trainer.core.forward == before
    assert trainer.core(torch.tensor([[1, 2]])).logits.shape == (1, 2, VOCAB)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, tiny_model: Path) -> None:
    trainer = trainer_of(tmp_path, tiny_model, rows_of(tiny_model))
    with torch.no_grad():
        trainer.core.get_input_embeddings().weight[7] = torch.nan
    with pytest.raises(DistillError, match="loss is nan at step 1"):
        trainer.run()


def test_adapters_on_head_or_embeddings_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output head"):
        settings.Config.model_validate({"model": str(tiny_model), "adapter": {"targets": ["q_proj", "lm_head"]}})
    for name, what in (("embed_tokens", "embeddings"), ("model.embed_tokens", "embeddings")):
        student = settings.Config.model_validate({"model": str(tiny_model), "adapter": {"targets": [name]}})
        with pytest.raises(DistillError, match=what):
            adapter(student, load(tiny_model))


RANKS = """
import os
import subprocess
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.students.test_trainer import *
folder, out, rank, world = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
rows, student = rows_of(folder), read_student(folder)
path = out / f"logits-{rank}.safetensors"
write_shard(path, [a_trace(student, n) for n in range(9)], VOCAB, tokenizer=student.fingerprint, k=K)
teacher = TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=VOCAB, top_k=K)
trainer = trainer_of(
    out / rank, folder, rows, teacher, match=matching(), micro=4 // world, optim="sgd", learning_rate=0.1,
    peft=lora() if sys.argv[5] == "lora" else None,
)
trainer.run()
torch.save(weights(trainer), out / f"{rank}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("peft", ["full", "lora"])
def test_two_ranks_are_one(tmp_path: Path, tiny_model: Path, peft: str) -> None:
    """DDP on two gloo processes against one process on the joined batches: wrapper, normaliser and row split."""
    for name, world in (("one", 1), ("two", 2)):
        out = tmp_path / name
        out.mkdir()
        processes = []
        for rank in range(world):
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            if world > 1:
                environment |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(29_500 + os.getpid() % 1000), "ACCELERATE_USE_CPU": "true",
                }  # fmt: skip
            command = [sys.executable, "-c", RANKS, str(tiny_model), str(out), str(rank), str(world), peft]
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    one, first, second = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one/0.pt", "two/0.pt", "two/1.pt")
    )
    assert farthest(first, second) == 0
    assert farthest(one, first) < 1e-6
