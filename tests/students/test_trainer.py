"""The trainer against plain TRL and plain autograd, and what it relies on in both libraries."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from distill.core import plugins
from distill.core.errors import DistillError
from distill.core.progress import Progress
from students import settings, trackers
from students.collate import AS_ROWS, IGNORED, Collator, epoch_order
from students.head_loss import HeadLoss, Matching
from students.model import adapter
from students.packing import Layout
from students.rows import Row, build_rows, read_student
from students.teacher_logits import FoldedRows, TeacherLogits
from students.trainer import DistillTrainer, arguments, logit_finish, prove_head, teacher_rows
from tests.students.made import a_trace, recorded, write_shard
from tests.tiny import make_tiny_model

VOCAB, K = 320, 8


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def rows_of(folder: Path, n: int = 12) -> Sequence[Row]:
    student = read_student(folder)
    return build_rows([a_trace(student, i) for i in range(n)], student, target="trace", max_length=None).rows


def told_apart(folder: Path, out: Path) -> tuple[Sequence[Row], TeacherLogits]:
    """12 rows whose keys differ at their beginning, which is what messages show, and a teacher of the first nine."""
    student = read_student(folder)
    traces = [a_trace(student, n, key=f"{n:02x}".ljust(64, "e")) for n in range(12)]
    write_shard(out, traces[:9], VOCAB, tokenizer=student.fingerprint, k=K)
    teacher = TeacherLogits([out], tokenizer=student.fingerprint, vocab_size=VOCAB, top_k=K)
    return build_rows(traces, student, target="trace", max_length=None).rows, teacher


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
    tmp_path: Path, folder: Path, rows: Sequence[Row], teacher: TeacherLogits | None = None, *, model: Any = None,
    match: Matching | None = None, micro: int = 4, accumulate: int = 1, peft: Any = None, layout: Layout = AS_ROWS,
    collator: type[Collator] = Collator, every_s: float = 1e9, **args: Any,
) -> DistillTrainer:  # fmt: skip
    settings_: dict[str, Any] = {
        "seed": 0, "num_train_epochs": 1, "learning_rate": 1e-3, "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate, "use_cpu": True, "bf16": False, "activation_checkpointing": False,
        "dataloader_pin_memory": False, "max_grad_norm": 1.0, **args,
    }  # fmt: skip
    return DistillTrainer(
        model=model or load(folder), args=arguments(tmp_path, **settings_),
        processing_class=read_student(folder).tokenizer, peft_config=peft,
        collator=collator(rows, teacher, layout), matching=match, work=tmp_path, plan="test",
        progress=Progress("train", 1, "steps"), checkpoint_every_s=every_s, logging_every=1,
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

    def __init__(self, folder: Path, rows: Sequence[Row], k: int, shift: int = 0) -> None:
        self.model, self.top_k, self.vocab_size, self.shift = load(folder), k, VOCAB, shift
        self.known = self._of = {row.key: row for row in rows}  # type: ignore[assignment]  # rows stand for shards
        self.mode, self.positions = "topk", "all"

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


class Poisoned(TeacherLogits):
    """A teacher whose rows of one sample are NaN, as a broken shard's would be."""

    key = ""

    def columns(self, rows: Any) -> dict[str, Any]:
        got = super().columns(rows)
        at = 0
        for row in rows:
            n = len(row.ids) - row.start
            if row.key == self.key:
                got["teacher_logprobs"] = got["teacher_logprobs"].copy()
                got["teacher_logprobs"][at + n // 2] = float("nan")
            at += n
        return got


@pytest.mark.parametrize("layout", [Layout(), Layout(200, packed=True)], ids=["padded", "packed"])
def test_a_poisoned_row_stops_the_run_by_name_and_leaves_the_last_checkpoint(
    tmp_path: Path, tiny_model: Path, layout: Layout
) -> None:
    """Healed, the run goes on from there to the bits of one that was never poisoned."""
    rows, teacher = told_apart(tiny_model, tmp_path / "logits.safetensors")
    of: dict[str, Any] = {"match": matching(), "layout": layout, "every_s": 0.0, "num_train_epochs": 2}
    expected = trainer_of(tmp_path / "clean", tiny_model, rows, teacher, **of)
    history = expected.run()
    order = list(expected._get_train_sampler())
    teacher.__class__ = Poisoned
    teacher.key = rows[next(n for n in order[4:8] if n < 9)].key  # type: ignore[attr-defined]  # a row of step 2
    poisoned = trainer_of(tmp_path / "work", tiny_model, rows, teacher, **of)
    with pytest.raises(DistillError, match=rf"step 2: the loss is nan .* in {teacher.key[:12]}; look at that trace"):  # type: ignore[attr-defined]  # as above
        poisoned.run()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["checkpoint-1"]
    assert poisoned.state.global_step == 1
    teacher.__class__ = TeacherLogits
    healed = trainer_of(tmp_path / "work", tiny_model, rows, teacher, **of)
    assert healed.run() == history
    assert farthest(weights(healed), weights(expected)) == 0


def test_a_gradient_that_is_not_finite_stops_the_run_before_anything_moves(tmp_path: Path, tiny_model: Path) -> None:
    """The loss may well be finite: a gradient whose squares overflow would make every weight NaN."""
    rows = [*rows_of(tiny_model, 3), Row("f" * 64, np.array([5, 6, 319, 7, 8], np.int32), 2)]
    trainer = trainer_of(tmp_path, tiny_model, rows)
    inner = trainer._forward

    def steep(batch: dict[str, Tensor]) -> HeadLoss:
        sums = inner(batch)
        factor = 1e30 if bool((batch["input_ids"] == 319).any()) else 1.0
        return sums._replace(loss=sums.loss.detach() + factor * (sums.loss - sums.loss.detach()))

    trainer._forward = steep  # type: ignore[method-assign]  # a row that explodes on its way back
    before = weights(trainer)
    with pytest.raises(DistillError, match=r"step 1: the loss is \d.* norm (inf|nan), in ffffffffffff; look at"):
        trainer.run()
    assert farthest(weights(trainer), before) == 0


def test_weights_that_are_not_finite_are_no_samples_fault(tmp_path: Path, tiny_model: Path) -> None:
    trainer = trainer_of(tmp_path, tiny_model, rows_of(tiny_model, 2))
    with torch.no_grad():
        trainer.core.get_input_embeddings().weight[7] = torch.nan
    with pytest.raises(DistillError, match="step 1: the loss is nan .* in each of 000000000000, 000000000000; lower"):
        trainer.run()


def test_adapters_on_head_or_embeddings_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="output head"):
        settings.Config.model_validate({"model": str(tiny_model), "adapter": {"targets": ["q_proj", "lm_head"]}})
    for name, what in (("embed_tokens", "embeddings"), ("model.embed_tokens", "embeddings")):
        student = settings.Config.model_validate({"model": str(tiny_model), "adapter": {"targets": [name]}})
        with pytest.raises(DistillError, match=what):
            adapter(student, load(tiny_model))


class Interrupted(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("layout", [Layout(), Layout(90, packed=True)], ids=["accumulated", "packed"])
def test_rows_meet_their_own_teacher_rows_after_a_resume_in_mid_epoch(
    tmp_path: Path, tiny_model: Path, teacher: TeacherLogits, layout: Layout
) -> None:
    """Shuffled, two epochs, three micro-batches a step, interrupted in the second: matched by sample, not by step."""
    rows = rows_of(tiny_model, 10)
    micro, accumulate = (1, 3) if layout.tokens is None else (3, 1)

    def start(work: str, stop_at: int | None = None) -> tuple[DistillTrainer, list[list[int]]]:
        trainer = trainer_of(
            tmp_path / work, tiny_model, rows, teacher, match=matching(), micro=micro, accumulate=accumulate,
            num_train_epochs=2, peft=lora(0.1), every_s=0.0 if stop_at else 1e9, layout=layout,
        )  # fmt: skip
        seen: list[list[int]] = []
        inner = trainer._forward

        def spy(batch: dict[str, Tensor]) -> HeadLoss:
            flat, at = teacher_rows(batch), 0
            numbers = [n for n in batch["rows"].flatten().tolist() if n >= 0]
            for n in numbers:
                row, span = rows[n], slice(at, at + len(rows[n].completion_ids))
                if row.key in teacher:
                    own = teacher.rows(row.key, row.completion_ids)
                    assert torch.equal(flat.logprobs_RK[span], torch.from_numpy(own.logprobs_NK))  # type: ignore[union-attr]
                at = span.stop
            assert at == len(flat.present_R)
            if trainer.state.global_step == stop_at:
                raise Interrupted
            seen.append(numbers)
            return inner(batch)

        trainer._forward = spy  # type: ignore[method-assign]  # looks at every batch on its way
        return trainer, seen

    straight, expected = start("straight")
    history = straight.run()
    assert len(history) == 8
    assert sorted(n for one in expected for n in one) == sorted([*range(10)] * 2)
    stopped, before = start("stopped", stop_at=5)
    with pytest.raises(Interrupted):
        stopped.run()
    resumed, after = start("stopped")
    assert resumed.run() == history
    assert before + after == expected
    assert farthest(weights(resumed), weights(straight)) == 0


@pytest.mark.parametrize("name", plugins.names("students.losses"))
@pytest.mark.parametrize(
    ("temperature", "weight", "layout"), [(1.0, 0.5, Layout()), (2.0, 0.3, Layout(200, packed=True))]
)
def test_the_printed_loss_is_the_one_that_is_optimised(
    tmp_path: Path, tiny_model: Path, name: str, temperature: float, weight: float, layout: Layout
) -> None:
    """The change of the recorded loss along the gradient that the optimizer got, through the whole step.

    Weights are float64; norms and rotations stay float32 in transformers, hence the tolerance.
    """
    student = read_student(tiny_model)
    path = tmp_path / "logits.safetensors"
    traces = [a_trace(student, n) for n in range(4)]
    write_shard(path, traces, VOCAB, tokenizer=student.fingerprint, k=K, temperatures=(1.0, 2.0))
    teacher = TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=VOCAB, top_k=K, temperature=temperature)
    module = plugins.load("students.losses", name)
    match = Matching(module.build(module.Config()), weight, temperature, VOCAB)
    whole = layout.tokens is not None

    def step(shift: float = 0.0, along: dict[str, Tensor] | None = None) -> tuple[float, dict[str, Tensor]]:
        model = load(tiny_model).double()
        with torch.no_grad():
            for part, direction in (along or {}).items():
                model.get_parameter(part).add_(direction, alpha=shift)
        trainer = trainer_of(
            tmp_path, tiny_model, rows_of(tiny_model, 6), teacher, model=model, match=match, layout=layout,
            micro=6 if whole else 2, accumulate=1 if whole else 3, optim="sgd", max_grad_norm=1e9,
        )  # fmt: skip
        got: dict[str, Tensor] = {}

        class Gradients(TrainerCallback):
            def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
                got.update({name: p.grad.clone() for name, p in model.named_parameters()})

        trainer.add_callback(Gradients)
        return trainer.run()[0]["loss"], got

    _, gradient = step()
    length = sum(float((part**2).sum()) for part in gradient.values()) ** 0.5
    along = {part: value / length for part, value in gradient.items()}
    slope = (step(1e-3, along)[0] - step(-1e-3, along)[0]) / 2e-3
    assert slope == pytest.approx(length, rel=1e-3)


def test_padding_of_any_length_and_a_row_without_a_trained_token_change_nothing(
    tmp_path: Path, tiny_model: Path, teacher: TeacherLogits
) -> None:
    rows = [*rows_of(tiny_model, 4), Row("e" * 64, np.array([5, 6, 7], np.int32), 3)]
    trainer = trainer_of(tmp_path, tiny_model, rows, teacher, match=matching())
    end = read_student(tiny_model).end_id

    def learned(numbers: list[int], padding: int) -> tuple[float, dict[str, Tensor]]:
        trainer.model.zero_grad()
        batch = trainer.collator.batch([[n] for n in numbers])
        batch["input_ids"] = torch.nn.functional.pad(batch["input_ids"], (0, padding), value=end)
        batch["labels"] = torch.nn.functional.pad(batch["labels"], (0, padding), value=IGNORED)
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=100)
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in trainer.model.named_parameters()}

    loss, gradient = learned([0, 1, 2, 3], 0)
    for numbers, padding in (([0, 1, 2, 3], 37), ([0, 1, 4, 2, 3], 0)):
        again, same = learned(numbers, padding)
        assert again == pytest.approx(loss, rel=1e-6)
        assert farthest(same, gradient) < 1e-6
    nothing, none = learned([4], 0)
    assert nothing == 0
    assert all(not part.any() for part in none.values())


def test_the_base_classes_still_call_what_is_overridden(tmp_path: Path, tiny_model: Path) -> None:
    """An override of a method that a release renamed would never be called, in silence."""
    called: list[str] = []
    trainer = trainer_of(tmp_path, tiny_model, rows_of(tiny_model, 4), every_s=0.0, micro=2)
    names = (
        "_get_train_sampler", "_get_num_items_in_batch", "training_step", "compute_loss", "_get_grad_norm",
        "_save_checkpoint", "_get_output_dir", "_save_optimizer_and_scheduler",
    )  # fmt: skip

    def spied(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (called.append(name), inner(*args, **kwargs))[1]

    for name in names:
        assert any(name in vars(base) for base in SFTTrainer.__mro__), name
        setattr(trainer, name, spied(name, getattr(trainer, name)))
    trainer.create_optimizer()
    assert trainer.optimizer is not None
    trainer.optimizer.step = spied("optimizer", trainer.optimizer.step)  # type: ignore[method-assign]  # as above
    trainer.run()
    assert set(names) <= set(called)
    assert called.index("_get_num_items_in_batch") < called.index("compute_loss") < called.index("_get_grad_norm")
    assert called.index("_get_grad_norm") < called.index("optimizer") < called.index("_save_checkpoint")


GOLDEN = Path(__file__).parents[1] / "golden" / "twenty_steps.json"


def test_twenty_steps_of_loss_are_what_they_were(
    tmp_path: Path, tiny_model: Path, request: pytest.FixtureRequest
) -> None:
    """What must not drift: order, loss, clipping, schedule and optimizer together. Recorded anew by --update-golden."""
    student = read_student(tiny_model)
    path = tmp_path / "logits.safetensors"
    write_shard(path, [a_trace(student, n) for n in range(30)], VOCAB, tokenizer=student.fingerprint, k=K)
    teacher = TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=VOCAB, top_k=K)
    runs = {}
    for name, layout in {"padded": Layout(), "packed": Layout(250, packed=True)}.items():
        trainer = trainer_of(
            tmp_path / name, tiny_model, rows_of(tiny_model, 40), teacher, match=matching(), micro=8,
            num_train_epochs=4, warmup_steps=0.1, weight_decay=0.01, layout=layout,
        )  # fmt: skip
        runs[name] = [
            {key: float(f"{record[key]:.6g}") for key in ("loss", "ce", "kd", "lr", "grad_norm")}
            for record in trainer.run()
        ]
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(runs, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert [len(steps) for steps in expected.values()] == [20, 20]
    for name, steps in runs.items():
        for mine, theirs in zip(steps, expected[name], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3), name  # another processor rounds otherwise


TRACKIO = """
import json
from types import SimpleNamespace

said = []
context_vars = SimpleNamespace(current_space_id=SimpleNamespace(get=lambda: None))


class Config(dict):
    def update(self, *values, allow_val_change):
        super().update(*values)


config = Config()


def init(**about):
    said.append(("init", about))


def log(figures):
    said.append(("log", json.loads(json.dumps(figures))))


def finish():
    said.append(("finish", None))
"""


def test_trackers_are_told_what_the_terminal_shows(
    tmp_path: Path, tiny_model: Path, teacher: TeacherLogits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through transformers' own callback, into a module that stands for trackio."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trackio.py").write_text(TRACKIO)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    trackers.check(["trackio"])
    trainer = trainer_of(
        tmp_path / "w", tiny_model, rows_of(tiny_model), teacher, match=matching(), report_to=["trackio"],
        run_name="r/t",
    )  # fmt: skip
    history = trainer.run()
    said = importlib.import_module("trackio").said
    monkeypatch.delitem(sys.modules, "trackio")
    assert said[0][0] == "init"
    assert (said[0][1]["name"], said[0][1]["space_id"]) == ("r/t", None)
    steps = [figures for what, figures in said if what == "log" and "train/ce" in figures]
    assert [figures["train/global_step"] for figures in steps] == [1, 2, 3]
    for figures, record in zip(steps, history, strict=True):
        assert figures["train/loss"] == pytest.approx(record["loss"])
        assert figures["train/kl"] == pytest.approx(record["kd"])
        assert {
            "train/ce", "train/covered", "train/grad_norm", "train/learning_rate", "train/tokens_per_second",
            "train/peak_memory_gib",
        } < set(figures)  # fmt: skip
    assert said[-1][0] == "finish"


def test_a_tracker_that_is_not_there_is_named_with_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DistillError, match=r"names tensorboard, which is not installed: pip install tensorboard"):
        trackers.check(["tensorboard"])
    trackers.check([])


def test_tensorboard_writes_beside_the_runs_and_not_into_a_stage() -> None:
    class TensorBoardCallback:
        logging_dir: str | None = None

    set_, unset = TensorBoardCallback(), TensorBoardCallback()
    set_.logging_dir = "/elsewhere"
    trackers.place([object(), set_, unset], Path("/runs/maths/train-12/work"))
    assert (set_.logging_dir, unset.logging_dir) == ("/elsewhere", "/runs/tensorboard/maths/train-12")
