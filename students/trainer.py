"""TRL's SFTTrainer with our rows, our order, our loss and our checkpoints.

TRL brings adapters, devices, distribution and the loop. Everything of ours is in `Distilling`, so that the base class
is one line below it. What this relies on in TRL and transformers is held by tests/students/test_trainer.py.

Shapes: B rows, T tokens, M longest completion, R trained tokens of a micro-batch, H hidden size, K teacher ids.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from distill.core import files
from distill.core.errors import DistillError
from distill.core.progress import Progress
from students import checkpoints
from students.collate import IGNORED, Collator, EpochSampler
from students.head_loss import HeadLoss, Matching, TeacherRows, head_loss
from students.history import History

if TYPE_CHECKING:
    Loop = Trainer
else:
    Loop = object  # mixed in before whichever trainer brings the loop

HISTORY = "history.json"


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
        **trainer: Any,
    ) -> None:
        self.matching, self.work, self.plan = matching, work, plan
        self._saving_in: Path | None = None
        self._lengths = [len(row.ids) for row in collator.rows]
        self.history = History(progress, logging_every)
        super().__init__(data_collator=cast(Any, collator), **trainer)
        self.model_accepts_loss_kwargs = True  # count the trained tokens of a whole step, whatever the model takes
        self.processing_class = None  # its files are copied byte for byte; transformers would also edit the config
        self.remove_callback(PrinterCallback)  # prints to stdout, which belongs to answers
        self.add_callback(_Steps(self.history, checkpoint_every_s))
        if getattr(self, "aux_loss_enabled", False):
            raise DistillError("mixture-of-experts students are not supported yet; take a dense model")
        self.core = _core(cast(nn.Module, self.model))
        self.finish = logit_finish(self.core.config)
        prove_head(self.core, self.finish)

    def _send_telemetry(self) -> None:
        """Nothing is sent; TRL would report the run on rank 0."""

    def _get_train_sampler(self, _: Any = None) -> EpochSampler:
        per_step = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSampler(self._lengths, per_step, self.args.seed)

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
        sums: HeadLoss = redirected(model, self.core, self._forward, inputs)
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        present = inputs["teacher_present"].sum() if "teacher_present" in inputs else torch.zeros_like(tokens)
        self.history.add(*(value.detach() for value in sums), tokens, present)
        normaliser = tokens if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=tokens.device)
        loss = sums.loss / normaliser.clamp(min=1)
        # The count is over all ranks, and DDP will divide the gradients by their number.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def _forward(self, batch: dict[str, Tensor]) -> HeadLoss:
        """Backbone, head and loss, inside the model's own forward, so that no wrapper is bypassed."""
        with self.accelerator.autocast():
            hidden_BTH = self.core.base_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
            trained_BT = batch["labels"][:, 1:] != IGNORED
            return head_loss(
                hidden_BTH[:, :-1][trained_BT],
                batch["labels"][:, 1:][trained_BT],
                output_head(self.core),
                teacher=teacher_rows(batch) if self.matching is not None else None,
                matching=self.matching,
                finish=self.finish,
            )

    def _get_output_dir(self, trial: Any = None) -> str:  # noqa: ARG002  # the base class's signature
        """Where the base class puts `checkpoint-N`: the scratch folder while one is being written."""
        return str(self._saving_in or self.work)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        with checkpoints.writing(self.work, step, self.plan) as scratch:
            self._saving_in = scratch
            Trainer._save_checkpoint(self, model, trial)  # TRL's own would write a model card besides
            files.write_json(scratch / f"checkpoint-{step}" / HISTORY, self.history.records())
            self._saving_in = None

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        files.crash_point("checkpoint.half-written")
        super()._save_optimizer_and_scheduler(output_dir)

    def run(self) -> list[dict[str, Any]]:
        """Train, from the newest complete checkpoint of the same plan if there is one; returns the history."""
        resume = checkpoints.latest(self.work, self.plan)
        if resume is not None:
            self.history.restore(files.read_json(resume / HISTORY))
        self.train(resume_from_checkpoint=str(resume) if resume else None)
        return self.history.records()


class DistillTrainer(Distilling, SFTTrainer):  # type: ignore[misc]  # trl ships no types
    """The trainer. Should a TRL release get in the way, transformers' Trainer takes its place in this line."""


def arguments(work: Path, **settings: Any) -> SFTConfig:
    """TRL's arguments with what never varies here: nothing is reported, printed, prepared or saved by TRL itself."""
    return SFTConfig(
        output_dir=str(work), logging_strategy="no", save_strategy="no", eval_strategy="no", report_to="none",
        disable_tqdm=True, remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None,
        lr_scheduler_type="cosine", dataloader_num_workers=0, average_tokens_across_devices=True, **settings,
    )  # fmt: skip


def teacher_rows(batch: dict[str, Tensor]) -> TeacherRows:
    """The batch's teacher rows in the order of its trained tokens. Raises ValueError if there are not as many."""
    rows_BM = batch["teacher_rows"]
    trained = (batch["labels"][:, 1:] != IGNORED).sum(1)
    if rows_BM.device.type == "cpu" and not torch.equal(rows_BM.sum(1), trained):  # on a GPU this would wait for it
        raise ValueError(f"{rows_BM.sum(1).tolist()} teacher rows for {trained.tolist()} trained tokens")
    return TeacherRows(
        ids_RK=batch["teacher_ids"][rows_BM],
        logprobs_RK=batch["teacher_logprobs"][rows_BM],
        tail_R=batch["teacher_tail"][rows_BM],
        present_R=batch["teacher_present"][rows_BM],
    )


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
    """Closes each step's record, and asks for a checkpoint when it is time."""

    def __init__(self, history: History, checkpoint_every_s: float) -> None:
        self.history, self.checkpoint_every_s = history, checkpoint_every_s
        self._lr, self._saved_s = 0.0, time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._saved_s = time.monotonic()

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        self._lr = float(kwargs["lr_scheduler"].get_last_lr()[0])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  # the base's names
        self.history.step(state.global_step, state.global_step * state.num_train_epochs / state.max_steps, self._lr)
        due = time.monotonic() - self._saved_s >= self.checkpoint_every_s
        control.should_save = due and state.global_step < state.max_steps
        if control.should_save:
            self._saved_s = time.monotonic()


def world_size() -> int:
    """Processes that train together, as torchrun and accelerate tell them."""
    return int(os.environ.get("WORLD_SIZE", "1"))
