"""TRL's SFTTrainer with our rows, our order, our loss and our checkpoints.

TRL brings adapters, devices, distribution and the loop. Everything of ours is in `Distilling`, so that the base class
is one line below it. What this relies on in TRL and transformers is held by tests/students/test_trainer.py.

Shapes: B sequences, T tokens, M most trained tokens of a sequence, R trained tokens of a forward pass, H hidden size.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import datasets
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from distill.core import files
from distill.core.errors import DistillError
from distill.core.progress import Progress
from students import checkpoints, isolation, trackers
from students.collate import IGNORED, NO_ROW, Collator, EpochSampler
from students.dev import Dev
from students.head_loss import HeadLoss, Matching, SampledRows, Signal, TeacherRows, head_loss
from students.history import History, mean, peak_memory_gib
from students.kept import Kept
from students.live_teacher import LiveTeacher
from students.processes import PATIENCE, Ranks
from students.sharded import is_sharded, plain_head, prepare, whole

if TYPE_CHECKING:
    Loop = Trainer
else:
    Loop = object  # mixed in before whichever trainer brings the loop

HISTORY = "history.json"

# peft still asks for the old name; nobody who trains can do anything about it.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)


class Distilling(Loop):
    """What this project adds to a transformers `Trainer`: mixed in before it.

    `matching` None trains by cross-entropy alone. `plan` names rows, settings and seed; checkpoints are kept in `work`.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        collator: Collator,
        matching: Matching | None,
        work: Path,
        plan: str,
        progress: Progress,
        checkpoint_every_s: float,
        logging_every: int,
        dev: Dev | None = None,
        kept: Kept | None = None,
        **trainer: Any,
    ) -> None:
        self.matching, self.work, self.plan, self.dev, self.kept = matching, work, plan, dev, kept
        self.live = collator.teacher if isinstance(collator.teacher, LiveTeacher) else None
        self._saving_in: Path | None = None
        self._lengths = [len(row.ids) for row in collator.rows]
        self.collator, self.layout = collator, collator.layout
        self._numbers: list[Tensor] = []  # rows of the step so far, a tensor a forward pass
        self.history = History(progress)
        rows = datasets.Dataset.from_dict({"row": [*range(len(collator.rows)), NO_ROW]})
        super().__init__(data_collator=cast(Any, collator), train_dataset=rows, **trainer)
        self.model_accepts_loss_kwargs = True  # count the trained tokens of a whole step, whatever the model takes
        self.processing_class = None  # its files are copied byte for byte; transformers would also edit the config
        self.remove_callback(PrinterCallback)  # prints to stdout, which belongs to answers
        self.add_callback(_Steps(self, checkpoint_every_s, logging_every))
        trackers.place(self.callback_handler.callbacks, work)
        if getattr(self, "aux_loss_enabled", False):
            raise DistillError("mixture-of-experts students are not supported yet; take a dense model")
        self.ranks = Ranks(self.args.process_index, self.args.world_size)
        self.core = _core(cast(nn.Module, self.model))
        self.finish = logit_finish(self.core.config)
        if self.ranks.leads:  # others may not have read their weights yet (FSDP2's sparing loading)
            with self.accelerator.autocast():
                prove_head(self.core, self.finish)
        self.sharded = is_sharded(self.accelerator)
        if self.sharded:
            prepare(self.accelerator, output_head(self.core))
        if self.layout.packed and self.layout.tokens is not None and self.ranks.leads:
            for core in [self.core] if self.live is None else [self.core, self.live.core]:
                isolation.check(core, self.layout.tokens)
                with self.accelerator.autocast():
                    isolation.prove(core)

    def _send_telemetry(self) -> None:
        """Nothing is sent; TRL would report the run on rank 0."""

    def _get_train_sampler(self, _: Any = None) -> EpochSampler:
        per_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSampler(
            self._lengths, per_step, self.args.seed, layout=self.layout, ranks=self.args.world_size,
            micro=self.args.per_device_train_batch_size,
        )  # fmt: skip

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """Trained tokens of the whole step, over all processes: every pass of it, however they are nested."""
        return super()._get_num_items_in_batch([one for batch in batch_samples for one in passes_of(batch)], device)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch, or of all passes of a step; gradients are exchanged after the last.

        Processes make equally many passes, the rest of them empty: a sharded model gathers its weights in each.
        """
        if "passes" not in inputs:
            return super().training_step(model, inputs, num_items_in_batch)
        passes = inputs["passes"]
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.gather(torch.tensor([len(passes)], device=self.args.device))
            passes = passes + [self.collator.nothing()] * (int(counts.max()) - len(passes))
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(passes, 1):
            last = number == len(passes)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                total = total + super().training_step(model, batch, num_items_in_batch)
        return total

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The micro-batch's share of the step's mean loss: its sum over the trained tokens of the whole step.

        Raises ValueError if outputs are asked for: there are no logits to give.
        """
        if return_outputs:
            raise ValueError("the chunked loss makes no logits; evaluate by generating")
        sums: HeadLoss = redirected(model, self.core, lambda held: self._forward(held.batch), _Held(inputs))
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        present = inputs["teacher_present"].sum() if "teacher_present" in inputs else torch.zeros_like(tokens)
        self.history.add(*(value.detach() for value in sums), tokens, present)
        self._numbers.append(inputs["rows"])
        normaliser = tokens if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=tokens.device)
        loss = sums.loss / normaliser.clamp(min=1)
        # The count is over all ranks, and DDP will divide the gradients by their number.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def _forward(self, batch: dict[str, Tensor]) -> HeadLoss:
        """Backbone, head and loss, inside the model's own forward, so that no wrapper is bypassed.

        Head and loss run inside the head's forward in turn: where weights are sharded it may be a group of its own,
        whose weights are there only while it is called.
        """
        with self.accelerator.autocast():
            places = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
            hidden_BTH = self.core.base_model(**places, use_cache=False).last_hidden_state
            trained_BT = batch["labels"][:, 1:] != IGNORED
            teacher: Signal | None = None
            if self.matching is not None:
                teacher = teacher_rows(batch) if self.live is None else self.live.rows(batch, trained_BT)
            labels_R, head = batch["labels"][:, 1:][trained_BT], output_head(self.core)

            def loss(hidden_RH: Tensor) -> HeadLoss:
                plain = plain_head(head) if self.sharded else head
                return head_loss(
                    hidden_RH, labels_R, plain, teacher=teacher, matching=self.matching, finish=self.finish
                )

            sums: HeadLoss = redirected(head, head, loss, hidden_BTH[:, :-1][trained_BT])
            return sums

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The gradient's length, with all that the step measured: the last look before the optimizer moves anything."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]  # transformers'
        if self.sharded and hasattr(norm, "full_tensor"):
            norm = norm.full_tensor()  # each process has a part of the sum of squares
        alone = self.accelerator.num_processes == 1
        got = self.history.read(norm, lambda sums: sums if alone else self.accelerator.reduce(sums, "sum"))
        # A loss scaler overflows now and then, skips the step itself and scales less: only the loss counts there.
        counted = [got["loss"]] if self.accelerator.scaler is not None else [got["loss"], got["grad_norm"]]
        if not all(map(math.isfinite, counted)):
            raise DistillError(self._not_finite(got))
        self._numbers.clear()
        return norm

    def _not_finite(self, got: Mapping[str, float]) -> str:
        """What to say of a step that must not be taken: which samples are at fault, and what to do."""
        mine = sorted({int(n) for part in self._numbers for n in part.flatten().tolist() if n >= 0})
        # Every process comes here: what they found is put together, as only the leader speaks.
        numbers = sorted(gather_object(mine))
        guilty = sorted(gather_object([n for n in mine if self._whole_here() and not self._finite_alone(n)]))
        advice = "lower `train.learning_rate`, or train in fp32"
        if 0 < len(guilty) < len(numbers) or len(guilty) == 1:
            where, advice = "in", f"look at that trace and its teacher rows, or {advice}"
        elif guilty:
            where = "in each of"
        else:
            where = "in the sum of" if self._whole_here() else "in one of"
        samples = _some([self.collator.rows[n].key[:12] for n in guilty or numbers])
        return (
            f"step {self.state.global_step + 1}: the loss is {got['loss'] / max(got['tokens'], 1):g} and the "
            f"gradient's norm {got['grad_norm']:g}, {where} {samples}; {advice} (the step was not taken, the last "
            "checkpoint stays)"
        )

    def _whole_here(self) -> bool:
        """Whether this process can run the model by itself: not where its weights are spread over several."""
        return self.accelerator.distributed_type.value in ("NO", "MULTI_CPU", "MULTI_GPU")

    def _finite_alone(self, number: int) -> bool:
        """Whether a row's own loss and gradient are finite."""
        batch = cast(dict[str, Tensor], self._prepare_inputs(self.collator.batch([[number]])))
        loss = self._forward(batch).loss
        learning = [p for p in self.core.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, learning, allow_unused=True)  # leaves no gradient anywhere
        norm = nn.utils.get_total_norm(gradient for gradient in gradients if gradient is not None)
        return bool(loss.isfinite()) and bool(norm.isfinite())

    def _get_output_dir(self, trial: Any = None) -> str:  # noqa: ARG002  # the base class's signature
        """Where the base class puts `checkpoint-N`: the scratch folder while one is being written."""
        return str(self._saving_in or self.work)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        with checkpoints.writing(self.work, step, self.plan, self.ranks, sharded=self.sharded) as scratch:
            self._saving_in = scratch
            Trainer._save_checkpoint(self, model, trial)  # TRL's own would write a model card besides
            if self.ranks.leads:
                files.write_json(scratch / f"checkpoint-{step}" / HISTORY, self.history.records)
                if self.dev is not None:
                    self.dev.save(scratch / f"checkpoint-{step}")
            self._saving_in = None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        files.crash_point("checkpoint.half-written")
        super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # FSDP2's loading asks the optimizer for one empty step, to learn what its state looks like; accelerate's takes
        # none while gradients are accumulated, and training would go on with a fresh AdamW in silence.
        self.accelerator.gradient_state._set_sync_gradients(True)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Weights of a checkpoint, in the precision that they learn in: peft widens a bf16 adapter that it loads."""
        learning = {name: p.dtype for name, p in cast(nn.Module, self.model).named_parameters() if p.requires_grad}
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in cast(nn.Module, self.model).named_parameters():
            if name in learning:
                parameter.data = parameter.data.to(learning[name])

    def run(self) -> list[dict[str, Any]]:
        """Train, from the newest complete checkpoint of the same plan if there is one; returns the history."""
        resume: Path | None = self.ranks.agreed(self._latest() if self.ranks.leads else None)
        if resume is not None:
            checkpoints.check_layout(resume, sharded=self.sharded)
            self.history.restore(files.read_json(resume / HISTORY))
            if self.dev is not None:
                self.dev.restore(resume)
        self.train(resume_from_checkpoint=str(resume) if resume else None)
        return self.history.records

    def _latest(self) -> Path | None:
        """The newest complete checkpoint, if the students that were to be kept before it are there."""
        found = checkpoints.latest(self.work, self.plan)
        if found is None or self.kept is None:
            return found
        return found if self.kept.complete(files.read_json(found / checkpoints.MANIFEST)["step"]) else None

    def keep(self, step: int) -> None:
        """Keep the student as it is after this step. All processes come here; the leader writes."""
        student = self.student()
        if student is not None and self.kept is not None:
            self.kept.add(step, *student)

    def student(self) -> tuple[Any, dict[str, Tensor] | None] | None:
        """The trained model in the leader, None in others; beside it the weights, where it has but parts of them."""
        if self.sharded:
            return whole(self.accelerator, self.model_wrapped, self.core)
        return (self.model, None) if self.ranks.leads else None


class DistillTrainer(Distilling, SFTTrainer):  # type: ignore[misc]  # trl ships no types
    """The trainer. Should a TRL release get in the way, transformers' Trainer takes its place in this line."""


def arguments(work: Path, **settings: Any) -> SFTConfig:
    """TRL's arguments with what never varies here: nothing is printed, prepared or saved by TRL itself, and reported
    only where `report_to` asks for it.
    """
    return SFTConfig(
        output_dir=str(work), logging_strategy="no", save_strategy="no", eval_strategy="no", disable_tqdm=True,
        logging_nan_inf_filter=False, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        lr_scheduler_type="cosine", dataloader_num_workers=0, average_tokens_across_devices=True,
        ddp_find_unused_parameters=False, ddp_timeout=int(PATIENCE.total_seconds()),
        **{"report_to": "none", **settings},
    )  # fmt: skip


def teacher_rows(batch: dict[str, Tensor]) -> TeacherRows | SampledRows:
    """The batch's teacher rows in the order of its trained tokens, of the kind that its columns are.

    Raises ValueError if there are not as many as trained tokens.
    """
    rows_BM = batch["teacher_rows"]
    trained = (batch["labels"][:, 1:] != IGNORED).sum(1)
    if rows_BM.device.type == "cpu" and not torch.equal(rows_BM.sum(1), trained):  # on a GPU this would wait for it
        raise ValueError(f"{rows_BM.sum(1).tolist()} teacher rows for {trained.tolist()} trained tokens")
    flat = {name.removeprefix("teacher_"): batch[name][rows_BM] for name in batch if name.startswith("teacher_")}
    if "weights" in flat:
        return SampledRows(flat["ids"], flat["weights"], flat["entropy"], flat["present"])
    return TeacherRows(flat["ids"], flat["logprobs"], flat["tail"], flat["present"])


def passes_of(batch: Mapping[str, Any]) -> Sequence[Any]:
    """The forward passes of what the collator gave: one batch, or those of a whole step."""
    return cast(Sequence[Any], batch["passes"]) if "passes" in batch else [batch]


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8:,} more" if len(keys) > 8 else "")


class _Held:
    """A batch that no wrapper looks into: FSDP2 would cast the teacher's log-probabilities to half precision."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch


def redirected(wrapper: nn.Module, core: nn.Module, method: Callable[[Any], Any], argument: Any) -> Any:
    """Call `wrapper` with `core.forward` being `method(argument)` this once; what wraps the model runs as ever."""
    own = core.__dict__.get("forward")

    def restore() -> None:
        if own is None:
            core.__dict__.pop("forward", None)
        else:
            core.__dict__["forward"] = own

    def once(*_: Any, **kwargs: Any) -> Any:
        restore()
        return method(kwargs["batch"])

    core.__dict__["forward"] = once
    try:
        return wrapper(batch=argument)
    finally:
        restore()


def logit_finish(config: Any) -> Callable[[Tensor], Tensor] | None:
    """What a model does to its head's output (a scale, a soft cap), from its configuration; None for nothing."""
    text = config.get_text_config()
    scale = getattr(text, "logit_scale", None)
    if scale is None:
        scale = getattr(text, "lm_head_multiplier", None)
    if scale is None and getattr(text, "logits_scaling", None) is not None:
        scale = 1 / text.logits_scaling  # Granite divides
    cap = getattr(text, "final_logit_softcapping", None)
    if cap is None and scale in (None, 1.0):
        return None

    def finish(logits: Tensor) -> Tensor:
        scaled = logits if scale is None else logits * scale
        return scaled if cap is None else cap * torch.tanh(scaled / cap)

    return finish


@torch.no_grad()
def prove_head(core: PreTrainedModel, finish: Callable[[Tensor], Tensor] | None) -> None:
    """Show on 8 positions that backbone, head and `finish` give the model's own logits.

    Raises DistillError otherwise: the model does something to its logits that is not known here.
    """
    training = core.training
    core.train(False)
    ids_BT = torch.arange(1, 9, device=core.device)[None] % core.config.get_text_config().vocab_size
    expected = core(input_ids=ids_BT, use_cache=False).logits.float()
    logits = output_head(core)(core.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state)
    got = (logits if finish is None else finish(logits)).float()
    core.train(training)
    if got.shape != expected.shape or not torch.allclose(got, expected, rtol=1e-2, atol=1e-3):
        raise DistillError(
            f"{type(core).__name__} changes its logits after the head in a way that is not known here; "
            "take another student"
        )


def _core(model: Any) -> PreTrainedModel:
    """The transformers model under an adapter."""
    core: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return core


def output_head(core: Any) -> nn.Module:
    """The module that makes logits of hidden states."""
    head: nn.Module = core.get_output_embeddings()
    return head


class _Steps(TrainerCallback):
    """Closes each step's record, reports it to trackers, and asks for a checkpoint when it is time."""

    def __init__(self, trainer: Distilling, checkpoint_every_s: float, logging_every: int) -> None:
        self.trainer, self.checkpoint_every_s, self.logging_every = trainer, checkpoint_every_s, logging_every
        self._lr, self._saved_s, self._reported_s = 0.0, time.monotonic(), time.monotonic()
        self._unreported: list[dict[str, Any]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._saved_s = self._reported_s = time.monotonic()

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        self._lr = float(kwargs["lr_scheduler"].get_last_lr()[0])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch = state.global_step * state.num_train_epochs / state.max_steps
        self._unreported.append(self.trainer.history.step(state.global_step, epoch, self._lr))
        if state.global_step % self.logging_every == 0 or state.global_step == state.max_steps:
            if args.report_to:
                self.trainer.log(self._figures())
            self._unreported.clear()
            self._reported_s = time.monotonic()
        dev, last = self.trainer.dev, state.global_step == state.max_steps
        if dev is not None and dev.look(self.trainer, state.global_step, last=last):
            control.should_training_stop = last = True  # no checkpoint: one before it comes to the same end
        if self.trainer.kept is not None and self.trainer.kept.due(state.global_step):
            self.trainer.keep(state.global_step)  # before the checkpoint that may be written of this step
        due = self.checkpoint_every_s == 0 or self.trainer.ranks.agreed(  # clocks differ, and all write together
            time.monotonic() - self._saved_s >= self.checkpoint_every_s
        )
        control.should_save = due and not last
        if control.should_save:
            self._saved_s = time.monotonic()

    def _figures(self) -> dict[str, float]:
        """Means over the tokens of the steps since the last report, under the names that trackers show."""
        records = self._unreported
        seconds = max(time.monotonic() - self._reported_s, 1e-9)
        figures = {
            "loss": mean(records, "loss"),
            "ce": mean(records, "ce"),
            "kl": mean(records, "kd", "kd_tokens"),
            "covered": mean(records, "covered", "kd_tokens"),
            "grad_norm": records[-1]["grad_norm"],
            "learning_rate": records[-1]["lr"],
            "tokens_per_second": sum(record["tokens"] for record in records) / seconds,
            "peak_memory_gib": peak_memory_gib(),
        }
        return {name: value for name, value in figures.items() if value is not None}
