"""`train`: the student learns the kept traces, by cross-entropy and, where the teacher's logits are there, by matching.

Rows are made and checked first, then the model is built. Leaves `student/` (a complete model folder, or an adapter with
everything else beside it), `history.json` (one record an optimizer step), `report.json` and `timing.json`.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill.core import files, tables
from distill.core.config import Settings, Unkeyed, digest
from distill.core.device import Placement, place
from distill.core.errors import DistillError
from distill.core.fingerprint import identify
from distill.core.models import resolve
from distill.core.plugins import Choice, ChoiceOf
from distill.core.progress import Progress
from distill.core.records import Trace
from distill.core.stage import Report, StageRun
from students import settings
from students.divergence import LossSettings
from students.model import adapter, load, threads_for
from students.rows import Rows, StudentText, build_rows, read_student
from students.teacher_logits import TeacherLogits
from students.written import write_student

VERSION = 1

ENDS = 10
"""Steps whose mean is called the first and the last loss."""


class Config(Settings):
    """Settings of `train:`."""

    epochs: PositiveInt = 3
    """How often each row is seen."""
    learning_rate: PositiveFloat = 1e-5
    """Peak rate of AdamW, reached at the end of warm-up; it falls to 0 along a cosine."""
    batch_size: PositiveInt = 64
    """Sequences an optimizer step, over all processes."""
    micro_batch_size: PositiveInt | None = None
    """Sequences a forward pass; it divides `batch_size`. None: all of them. Less memory, and other rounding."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the rate rises."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decay of matrices; norms and biases have none."""
    max_grad_norm: PositiveFloat = 1.0
    """Longest gradient of a step; a longer one is scaled down."""
    max_length: PositiveInt | None = None
    """Longest row in tokens, prompt included; longer ones are dropped and counted, never cut. None: the context."""
    traces: Literal["kept", "control"] = "kept"
    """Which of the filter's traces: those it kept, or its control set (`filter: {control: true}`), unfiltered and of
    as many tokens."""
    target: Literal["trace", "answer"] = "trace"
    """`trace` learns reasoning and answer; `answer` drops the reasoning and learns the answer in the no-think form."""
    loss: Annotated[
        Annotated[Choice, ChoiceOf("students.losses", "name")] | None,
        BeforeValidator(lambda value: None if value == "none" else value),
    ] = None
    """`none` is cross-entropy alone; a divergence such as `{name: forward_kl, weight: 0.5, top_k: 16}` also matches the
    teacher's logits, where the traces have them."""
    gradient_checkpointing: Annotated[bool, Unkeyed] = False
    """Make activations again in the backward pass instead of keeping them: about a quarter slower, far less memory."""
    seed: NonNegativeInt | None = None
    """Fixes order, dropout and adapter initialisation. None: the experiment's seed."""
    checkpoint_every_s: Annotated[NonNegativeFloat, Unkeyed] = 300.0
    """Seconds between checkpoints; a killed run goes on from the last one. 0: one after every step."""
    logging_every: Annotated[PositiveInt, Unkeyed] = 10
    """Steps between looks at the loss. The history has every step all the same."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`micro_batch_size` {self.micro_batch_size} does not divide `batch_size` {self.batch_size}"
            )
        if self.target == "answer" and self.loss is not None:
            raise ValueError(
                "`target: answer` has no teacher logits to match (they follow the reasoning); add `loss: none`"
            )
        return self

    @property
    def matching(self) -> LossSettings | None:
        """The chosen divergence's settings."""
        return None if self.loss is None else cast(LossSettings, self.loss.config)


def check(sections: Mapping[str, Settings]) -> tuple[tuple[str, ...], str] | None:
    """Refuse what other sections do not provide, a control set or logits: (key, what is wrong), or None."""
    config = cast(Config, sections["train"]) if "train" in sections else None
    if config is not None and config.traces == "control" and not getattr(sections.get("filter"), "control", False):
        return (
            ("train", "traces"),
            "`train.traces` is control, but the filter writes no control set; "
            "write `filter: {control: true, filters: [...]}`",
        )
    if config is None or config.matching is None:
        return None
    wanted, key = config.matching.top_k, ("train", "loss")
    if config.matching.loss_temperature != 1:
        return (
            key,
            f"`loss_temperature` {config.matching.loss_temperature:g} needs a tail term that no stage records yet; "
            "leave it at 1",
        )
    if (score := sections.get("score")) is not None:
        made, source = int(getattr(score, "top_k", 0)), "score.top_k"
    elif (sample := sections.get("sample")) is not None:
        made, source = int(getattr(sample, "top_logprobs", 0)), "sample.top_logprobs"
    else:
        return (
            key,
            "`train.loss` matches the teacher's logits, but nothing records them; add `score:` or set `loss: none`",
        )
    if made < wanted:
        return (
            key,
            f"`train.loss.top_k` is {wanted}, but `{source}` is {made}; raise it to {wanted}, or set `loss: none`",
        )
    return None


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The base model's identity: another base is another student."""
    student = cast(settings.Config, sections["student"])
    return {"student": identify(resolve(student.model, student.revision)).id}


def run(stage: StageRun) -> Report:
    """Make and check the rows, train, write the student."""
    start_s = time.monotonic()
    config, student = cast(Config, stage.sections["train"]), cast(settings.Config, stage.sections["student"])
    folder = resolve(student.model, student.revision)
    if not folder.is_dir():
        raise DistillError(
            f"student `{student.model}`: {folder.name} is no model folder; a .gguf file cannot be trained"
        )
    text = read_student(folder)
    chosen = "control.parquet" if config.traces == "control" else "traces.parquet"
    traces = tables.read(stage.inputs["filter"] / chosen, Trace)
    rows = build_rows(traces, text, target=config.target, max_length=_longest(config, text))
    teacher = _teacher(stage, config, text, rows)
    stage.say(f"{len(rows.rows):,} rows, {rows.trained_tokens:,} trained tokens{_listed(rows)}")
    placement = place(student.device, student.dtype)
    stage.say(str(placement))
    job = _Job(
        config, student, folder, text, rows, teacher, placement, config.seed if config.seed is not None else stage.seed
    )
    model, history = _train(job, stage)
    write_student(stage.out, model, student, folder, text, job.placement)
    report = _report(job, history)
    files.write_json(stage.out / "history.json", history)
    files.write_json(stage.out / "report.json", report)
    seconds = time.monotonic() - start_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    files.write_json(stage.out / "timing.json", {"seconds": round(seconds, 2), "peak_rss_mib": round(peak_mib, 1)})
    files.crash_point("train.final-written")
    kd = "" if report["kd_last"] is None else f", KL {report['kd_first']:.3f} to {report['kd_last']:.3f}"
    return Report(
        summary=(
            f"{len(rows.rows):,} rows, {report['steps']:,} steps, "
            f"CE {report['ce_first']:.3f} to {report['ce_last']:.3f}{kd}, {seconds:,.0f} s"
        ),
        data={**report, "seconds": seconds, "peak_rss_mib": peak_mib},
    )


@dataclass(frozen=True)
class _Job:
    """Everything that is decided before a model is built."""

    config: Config
    student: settings.Config
    folder: Path
    text: StudentText
    rows: Rows
    teacher: TeacherLogits | None
    placement: Placement
    seed: int

    def plan(self) -> str:
        """What a checkpoint must have been made for."""
        return digest([self.rows.digest(), self.config.keyed(), self.student.keyed(), self.seed, VERSION])


def _longest(config: Config, text: StudentText) -> int | None:
    if config.max_length is not None and text.context is not None and config.max_length > text.context:
        raise DistillError(
            f"`train.max_length` is {config.max_length}, but the student's context ends at {text.context}"
        )
    return config.max_length if config.max_length is not None else text.context


def _teacher(stage: StageRun, config: Config, text: StudentText, rows: Rows) -> TeacherLogits | None:
    """Open the shards of the scoring stage, else of the sampling stage, and prove that they fit these rows."""
    if config.matching is None:
        return None
    source = stage.inputs.get("score") or stage.inputs.get("sample")
    paths = sorted(source.glob("logits*.safetensors")) if source is not None else []
    if not paths:
        raise DistillError(
            "`train.loss` matches the teacher's logits, but none were recorded; set `sample.top_logprobs`, add "
            "`score:`, or set `train.loss: none`"
        )
    teacher = TeacherLogits(
        paths, tokenizer=text.fingerprint, vocab_size=text.vocab_size, top_k=config.matching.top_k,
        temperature=config.matching.loss_temperature,
    )  # fmt: skip
    matched = [(row.key, row.completion_ids) for row in rows.rows if not row.rendered and row.key in teacher]
    if not matched:
        raise DistillError(
            f"`train.loss` matches the teacher's logits, but no row has any (of {len(rows.rows):,}, rendered from "
            f"text: {dict(rows.rendered)}); set `train.loss: none`"
        )
    mean = teacher.prove_alignment(matched)
    stage.say(f"{len(matched):,} rows have teacher logits, aligned (mean log-probability of their tokens {mean:.2f})")
    return teacher


def _listed(rows: Rows) -> str:
    """Counts of what was rendered and dropped, by reason."""
    parts = [f"{n:,} rendered ({why})" for why, n in rows.rendered.items()]
    parts += [f"{n:,} dropped ({why})" for why, n in rows.dropped.items()]
    return "".join(f", {part}" for part in parts)


def _train(job: _Job, stage: StageRun) -> tuple[Any, list[dict[str, Any]]]:
    """Build the model and train it. Torch and TRL are imported here."""
    import datasets
    from transformers.utils.logging import disable_progress_bar

    from students.collate import Collator
    from students.head_loss import Matching
    from students.trainer import DistillTrainer, arguments, world_size

    config, text, loss = job.config, job.text, job.config.matching
    disable_progress_bar()  # type: ignore[no-untyped-call]  # loading bars: core/progress is what a person sees
    half = job.placement.dtype != "float32"
    model = load(job.student, job.folder, job.placement)
    use_cache = model.config.use_cache
    micro, world = config.micro_batch_size or config.batch_size, world_size()
    if config.batch_size % (micro * world):
        raise DistillError(
            f"`train.batch_size` {config.batch_size} is not a multiple of {micro} rows x {world} processes"
        )
    matching = None
    if loss is not None and config.loss is not None and job.teacher is not None:
        divergence = config.loss.module().build(loss)
        matching = Matching(divergence, loss.weight, loss.loss_temperature, job.teacher.vocab_size)
    steps = -(-len(job.rows.rows) // config.batch_size) * config.epochs
    with Progress("train", steps, "steps") as progress:
        trainer = DistillTrainer(
            model=model,
            args=arguments(
                stage.work, seed=job.seed, num_train_epochs=config.epochs, learning_rate=config.learning_rate,
                per_device_train_batch_size=micro, gradient_accumulation_steps=config.batch_size // (micro * world),
                warmup_steps=config.warmup_ratio, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
                bf16=half and job.placement.dtype == "bfloat16", fp16=half and job.placement.dtype == "float16",
                use_cpu=job.placement.device == "cpu", activation_checkpointing=config.gradient_checkpointing,
                dataloader_pin_memory=job.placement.device == "cuda",
            ),
            train_dataset=datasets.Dataset.from_dict({"row": list(range(len(job.rows.rows)))}),
            processing_class=text.tokenizer,
            peft_config=adapter(job.student, model),
            collator=Collator(job.rows.rows, job.teacher),
            matching=matching,
            work=stage.work,
            plan=job.plan(),
            progress=progress,
            checkpoint_every_s=config.checkpoint_every_s,
            logging_every=config.logging_every,
        )  # fmt: skip
        with threads_for(model, job.placement):
            history = trainer.run()
    model.config.use_cache = use_cache  # TRL turns it off; the student that is written shall have it as its base
    return trainer.model, history


def _report(job: _Job, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and losses, without clock figures. CE and KD are means over the first and last steps' tokens."""
    rows, epochs = job.rows, job.config.epochs
    matched = [record for record in history if record["kd_tokens"]]
    covered = (
        sum(r["covered"] * r["kd_tokens"] for r in matched) / sum(r["kd_tokens"] for r in matched) if matched else None
    )
    return {
        "target": job.config.target,
        "rows": len(rows.rows),
        "rendered": dict(rows.rendered),
        "dropped": dict(rows.dropped),
        "epochs": epochs,
        "steps": len(history),
        "trained_tokens": rows.trained_tokens,
        "kd_tokens": sum(record["kd_tokens"] for record in history) // epochs,
        "covered_mass": covered,
        "ce_first": _mean(history[:ENDS], "ce", "tokens"),
        "ce_last": _mean(history[-ENDS:], "ce", "tokens"),
        "kd_first": _mean(matched[:ENDS], "kd", "kd_tokens"),
        "kd_last": _mean(matched[-ENDS:], "kd", "kd_tokens"),
        "seed": job.seed,
        "device": job.placement.device,
        "dtype": job.placement.dtype,
        "stop_ids": sorted(job.text.stop_ids),
    }


def _mean(records: Sequence[Mapping[str, Any]], name: str, weight: str) -> float | None:
    """Mean of one figure over tokens; None if there are none."""
    tokens = sum(record[weight] for record in records)
    return sum(record[name] * record[weight] for record in records) / tokens if tokens else None
