"""`train`: the student learns the kept traces, by cross-entropy and, where the teacher's logits are there, by matching.

Rows are made and checked first, then the model is built. Leaves `student/` (a complete model folder, or an adapter with
everything else beside it), `history.json` (one record an optimizer step), `report.json` and `timing.json`.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from distill import nf4
from distill.core import files, tables
from distill.core.config import Settings, Unkeyed, digest
from distill.core.device import Placement, place
from distill.core.errors import DistillError
from distill.core.fingerprint import identify
from distill.core.models import resolve, resolve_text
from distill.core.plugins import Choice, ChoiceOf
from distill.core.progress import Progress
from distill.core.stage import Report, StageRun
from distill.stages import verify
from students import contract, launch, live_teacher, processes, recorded, settings, text_side, trackers
from students.dev import Dev, DevSettings, check_whole, looks, refusal
from students.divergence import LossSettings
from students.kept import Kept
from students.live_teacher import LiveTeacher
from students.model import adapter, load, refuse, threads_for
from students.packing import Layout, Pass
from students.processes import Ranks
from students.rows import Rows, StudentText
from students.teacher_logits import TeacherLogits
from students.written import apart, write_student

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 2

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
    micro_batch_tokens: PositiveInt | None = None
    """Tokens a forward pass, in place of `micro_batch_size`: as many of the step's rows as fit, a longer row alone."""
    packing: bool = False
    """Lay the rows of a forward pass end to end instead of padding them. A step has the same number of rows either way;
    `micro_batch_tokens` is how long a packed sequence may get, as long as the longest row where it is not given."""
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
    plain_share: float | None = Field(default=None, ge=0, lt=1)
    """Largest share of rows without reasoning, which train in the no-think form; which of them go, a hash of their keys
    says. R1's own mixture has 0.25 (arXiv 2501.12948, section 2.3.3). None: all that are there."""
    target: Literal["trace", "answer"] = "trace"
    """`trace` learns reasoning and answer; `answer` drops the reasoning and learns the answer in the no-think form."""
    loss: Annotated[
        Annotated[Choice, ChoiceOf("students.losses", "name")] | None,
        BeforeValidator(lambda value: None if value == "none" else value),
    ] = None
    """`none` is cross-entropy alone; a divergence such as `{name: forward_kl, weight: 0.5, top_k: 16}` also matches the
    teacher's logits, where the traces have them."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = None
    """How attention is computed. None: what transformers takes, `sdpa` wherever the model has it."""
    gradient_checkpointing: Annotated[bool, Unkeyed] = False
    """Make activations again in the backward pass instead of keeping them: about a quarter slower, far less memory."""
    dev: Annotated[DevSettings | None, BeforeValidator(lambda value: None if value == "none" else value)] = None
    """Look at dev problems while it trains: `{every: 50, problems: 100}`. Keeps the best weights, may stop early."""
    keep_every: PositiveInt | None = None
    """Keep the student every so many steps as a folder of its own, `student@300` beside `student`, which can be
    evaluated by that name. None: only the final one."""
    seed: NonNegativeInt | None = None
    """Fixes order, dropout and adapter initialisation. None: the experiment's seed."""
    checkpoint_every_s: Annotated[NonNegativeFloat, Unkeyed] = 300.0
    """Seconds between checkpoints; a killed run goes on from the last one. 0: one after every step."""
    logging_every: Annotated[PositiveInt, Unkeyed] = 10
    """Steps between reports to trackers. The history has every step all the same."""
    report_to: Annotated[list[trackers.Tracker], Unkeyed] = Field(default_factory=list)
    """Trackers that are told of the training: `tensorboard`, `trackio`, `wandb`. Empty: nothing leaves this process."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`micro_batch_size` {self.micro_batch_size} does not divide `batch_size` {self.batch_size}"
            )
        if self.micro_batch_size is not None and (self.micro_batch_tokens is not None or self.packing):
            raise ValueError(
                "`micro_batch_size` counts the rows of a forward pass, `micro_batch_tokens` (which `packing` goes by) "
                "its tokens; give one of them"
            )
        if self.target == "answer" and self.plain_share is not None:
            raise ValueError("`target: answer` trains every row without reasoning; leave `plain_share` out")
        if self.target == "answer" and self.matching is not None and self.matching.vocabulary != "full":
            raise ValueError(
                "`target: answer` has no teacher logits to match (they follow the reasoning); add `loss: none`, or "
                "`vocabulary: full` with a live teacher"
            )
        return self

    def keyed(self) -> dict[str, Any]:
        """What the stage's key is made of; `keep_every` only where it is given, so that keys of before it hold."""
        kept = super().keyed()
        return kept if self.keep_every is not None else {n: v for n, v in kept.items() if n != "keep_every"}

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
    if (why := text_side.refusal(sections)) is not None:
        return ("student", "template"), why
    if config is not None and config.dev is not None and (why := refusal(config.dev, sections)) is not None:
        return ("train", "dev"), why
    if config is None or config.matching is None:
        return None
    key = ("train", "loss")
    if (why := contract.refusal(sections, fetch=False)) is not None:
        return key, why
    if config.matching.vocabulary == "full":
        why = live_teacher.refusal(sections)
        return None if why is None else (key, why)
    assert config.loss is not None
    why = recorded.refusal(config.loss, sections)
    return None if why is None else (key, why)


def keyed(sections: Mapping[str, Settings]) -> dict[str, Any]:
    """The settings that count. The teacher's do not: a live one counts by what it is, in `externals`.

    The verifier's do where the student's answers to dev problems steer.
    """
    idle = {"teacher", *(() if _has_dev(sections) else ("verify",))}
    return {name: section.keyed() for name, section in sections.items() if name not in idle}


def unread(sections: Mapping[str, Settings]) -> set[str]:
    """Inputs that these settings leave alone: what they hold is no part of the key."""
    return set() if _has_dev(sections) else {"problems"}


def _has_dev(sections: Mapping[str, Settings]) -> bool:
    return cast(Config, sections["train"]).dev is not None


def externals(sections: Mapping[str, Settings]) -> dict[str, str]:
    """The base model's identity: another base is another student. The live teacher's, where there is one."""
    student, loss = cast(settings.Config, sections["student"]), cast(Config, sections["train"]).matching
    found = {"student": identify(resolve(student.model, student.revision)).id}
    found |= text_side.externals(student, sections.get("teacher"))
    if loss is not None and loss.vocabulary == "full":
        teacher = cast(Any, sections["teacher"])  # teachers.settings.Config, which this package must not import
        found["teacher"] = identify(resolve(teacher.model, teacher.revision)).id
    return found | (verify.externals(sections) if _has_dev(sections) else {})


def run(stage: StageRun) -> Report:
    """Make and check the rows, train, write the student: here, or in the processes that `--launch` asks for."""
    if stage.launch is not None:
        return launch.run(stage)  # each of them comes back here
    ranks = processes.here()
    with processes.own_folder(stage, ranks) as own:
        return _run(own, stage.out / "work", ranks)


def _run(stage: StageRun, work: Path, ranks: Ranks) -> Report:
    """One process's part. Checkpoints go into `work`, which all share; `stage` is the leader's, or a folder to throw
    away.
    """
    start_s = time.monotonic()
    config, student = cast(Config, stage.sections["train"]), cast(settings.Config, stage.sections["student"])
    trackers.check(config.report_to)
    if config.dev is not None:
        check_whole(processes.asked())
    folder = resolve(student.model, student.revision)
    refuse(student, folder)
    if student.adapter is not None and student.adapter.nf4:
        nf4.require()
    made = _contract(stage, config, student, folder, stage.work / "text")
    text, rows = made.side.text, made.rows
    stage.say(f"{len(rows.rows):,} rows, {rows.trained_tokens:,} trained tokens{_listed(rows)}")
    placement = place(student.device, student.dtype)
    processes.meet(ranks, placement, work)
    processes.check_reading(
        nf4=student.adapter is not None and student.adapter.nf4,
        live=config.matching is not None and config.matching.vocabulary == "full",
    )
    stage.say(str(placement) + (f", {processes.asked()}" if ranks.count > 1 else ""))
    teacher = _teacher(stage, config, text, rows, placement)
    page = contract.page(made, kl_rows=_kl_rows(config, rows, teacher))
    stage.say(page.summary)
    files.write_json(stage.out / "contract.json", page.data)
    seed = config.seed if config.seed is not None else stage.seed
    job = _Job(config, student, folder, made.side, rows, teacher, placement, seed)
    trained, history, dev, kept = _train(job, stage, work, ranks)
    if trained is None:
        return Report("the leader's")
    model, weights = trained
    files.crash_point("train.before-final")
    write_student(stage.out / "student", model, student, text, job.placement, weights)
    report = _report(job, history)
    if kept is not None:
        report["snapshots"] = kept.put(stage.out)
    if dev is not None:
        files.write_json(stage.out / "dev.json", dev.results())
        report["dev"] = {name: dev.results()[name] for name in ("best", "kept", "stopped_early")}
    files.write_json(stage.out / "history.json", history)
    files.write_json(stage.out / "report.json", report)
    seconds = time.monotonic() - start_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)
    files.write_json(
        stage.out / "timing.json",
        {"seconds": round(seconds, 2), "peak_rss_mib": round(peak_mib, 1), "processes": ranks.count},
    )
    files.crash_point("train.final-written")
    kd = "" if report["kd_last"] is None else f", KL {report['kd_first']:.3f} to {report['kd_last']:.3f}"
    looks = dev.outcome() if dev else ""
    return Report(
        summary=(
            f"{len(rows.rows):,} rows, {report['steps']:,} steps, "
            f"CE {report['ce_first']:.3f} to {report['ce_last']:.3f}{kd}{looks}, {seconds:,.0f} s"
        ),
        data={**report, "seconds": seconds, "peak_rss_mib": peak_mib},
    )


@dataclass(frozen=True)
class _Job:
    """Everything that is decided before a model is built."""

    config: Config
    student: settings.Config
    folder: Path
    side: text_side.TextSide
    rows: Rows
    teacher: TeacherLogits | LiveTeacher | None
    placement: Placement
    seed: int

    @property
    def text(self) -> StudentText:
        """What rows are made with."""
        return self.side.text

    def plan(self) -> str:
        """What a checkpoint must have been made for."""
        return digest([self.rows.digest(), self.config.keyed(), self.student.keyed(), self.seed, VERSION])


def _contract(
    stage: StageRun, config: Config, student: settings.Config, folder: Path, scratch: Path
) -> contract.Contract:
    """The rows of a stage's traces, checked."""
    chosen = "control.parquet" if config.traces == "control" else "traces.parquet"
    traces = recorded.Traces(stage.inputs["filter"] / chosen, stage.inputs.get("score"))
    return contract.make(
        traces, student, folder, stage.sections.get("teacher"), scratch,
        target=config.target, max_length=config.max_length, plain_share=config.plain_share,
    )  # fmt: skip


def dry_run(stage: StageRun) -> tuple[Report, list[contract.Sample]]:
    """The data contract of a training that is not run: its page and samples. Loads no weights, writes nothing."""
    config, student = cast(Config, stage.sections["train"]), cast(settings.Config, stage.sections["student"])
    with TemporaryDirectory() as scratch:
        folder = resolve_text(student.model, student.revision)
        made = _contract(stage, config, student, folder, Path(scratch) / "text")
        reads = config.matching is not None and config.matching.vocabulary == "recorded"
        teacher = _recorded(stage, config, made.side.text, made.rows)[0] if reads else None
        page = contract.page(made, kl_rows=_kl_rows(config, made.rows, teacher))
        return page, contract.samples(made)


def _kl_rows(config: Config, rows: Rows, teacher: TeacherLogits | LiveTeacher | None) -> int | None:
    """Rows on which a divergence counts; None where none is asked for. A live teacher reads every row."""
    if config.matching is None:
        return None
    return (
        len(rows.rows)
        if teacher is None or isinstance(teacher, LiveTeacher)
        else sum(1 for _ in _matched(rows, teacher))
    )


def _teacher(
    stage: StageRun, config: Config, text: StudentText, rows: Rows, placement: Placement
) -> TeacherLogits | LiveTeacher | None:
    """Open the shards of the scoring stage, else of the sampling stage, and prove that they fit these rows; or load the
    teacher itself."""
    if config.matching is None:
        return None
    if config.matching.vocabulary == "full":
        teaching = cast(Any, stage.sections["teacher"])
        live = LiveTeacher(
            teaching.model, teaching.revision, text=text, placement=placement, longest=int(rows.rows.lengths.max()),
            positions=config.matching.positions,
        )  # fmt: skip
        stage.say(f"teacher {teaching.model} loaded beside the student")
        return live
    teacher, mean = _recorded(stage, config, text, rows)
    matched = sum(1 for _ in _matched(rows, teacher))
    stage.say(f"{matched:,} rows have teacher logits, aligned (mean log-probability of their tokens {mean:.2f})")
    return teacher


def _recorded(stage: StageRun, config: Config, text: StudentText, rows: Rows) -> tuple[TeacherLogits, float]:
    """The recorded teacher rows, and the mean log-probability of the tokens that they belong to."""
    matching = cast(LossSettings, config.matching)
    source = stage.inputs.get("score") or stage.inputs.get("sample")
    paths = sorted(source.glob("logits*.safetensors")) if source is not None else []
    if not paths:
        raise DistillError(
            "`train.loss` matches the teacher's logits, but none were recorded; set `sample.top_logprobs`, add "
            "`score:`, or set `train.loss: none`"
        )
    teacher = TeacherLogits(
        paths, tokenizer=text.fingerprint, vocab_size=text.vocab_size, top_k=matching.top_k,
        temperature=matching.loss_temperature, positions=matching.positions, same=text.same_tokenizers,
    )  # fmt: skip
    if teacher.mode == "sampled" and config.loss is not None and config.loss.name != recorded.SAMPLED_LOSS:
        raise DistillError(f"{source}: {recorded.only_sampled(config.loss)}")
    if not any(teacher.belongs(row) for row in rows.rows):
        raise DistillError(
            f"`train.loss` matches the teacher's logits, but no row has any (of {len(rows.rows):,}, rendered from "
            f"text: {dict(rows.rendered)}); set `train.loss: none`"
        )
    return teacher, teacher.prove_alignment(_matched(rows, teacher))


def _matched(rows: Rows, teacher: TeacherLogits) -> Iterator[tuple[str, NDArray[np.int32]]]:
    """Keys and trained tokens of the rows that have teacher rows."""
    return ((row.key, row.completion_ids) for row in rows.rows if teacher.belongs(row))


def _listed(rows: Rows) -> str:
    """Counts of what was rendered and dropped, by reason."""
    parts = [f"{n:,} rendered ({why})" for why, n in rows.rendered.items()]
    parts += [f"{n:,} dropped ({why})" for why, n in rows.dropped.items()]
    return "".join(f", {part}" for part in parts)


def _train(
    job: _Job, stage: StageRun, work: Path, ranks: Ranks
) -> tuple[tuple[Any, dict[str, Any] | None] | None, list[dict[str, Any]], Dev | None, Kept | None]:
    """Build the model and train it; gives the trained model in the leader. Torch and TRL are imported here."""
    from transformers.utils.logging import disable_progress_bar

    from students import isolation
    from students.collate import Collator, planned
    from students.head_loss import Matching
    from students.trainer import DistillTrainer, arguments

    config, text, loss = job.config, job.text, job.config.matching
    disable_progress_bar()  # type: ignore[no-untyped-call]  # loading bars: core/progress is what a person sees
    half = job.placement.dtype != "float32"
    model = load(job.student, job.folder, job.placement)
    text_side.adopt_tokens(model, job.side)
    isolation.use(model, config.attention)
    use_cache = model.config.use_cache
    layout, world = _layout(job, stage), ranks.count
    micro = config.micro_batch_size or max(config.batch_size // world, 1)
    if config.batch_size % (micro * world):
        raise DistillError(
            f"`train.batch_size` {config.batch_size} is not a multiple of {micro} rows x {world} processes; "
            f"take {-(-config.batch_size // (micro * world)) * micro * world}, or another `--launch` or micro-batch"
        )
    matching = None
    if loss is not None and config.loss is not None and job.teacher is not None:
        divergence = config.loss.module().build(loss)
        matching = Matching(divergence, loss.weight, loss.loss_temperature, job.teacher.vocab_size)
    if layout.tokens is not None:
        tables.write(
            stage.out / "passes.parquet",
            planned(job.rows.rows, config.batch_size, job.seed, config.epochs, layout, world),
            Pass,
        )
    steps = -(-len(job.rows.rows) // config.batch_size) * config.epochs
    kept = None if config.keep_every is None else Kept(config.keep_every, work, job.plan(), _writer(job, use_cache))
    if kept is not None and kept.every > steps:
        stage.say(f"`train.keep_every` {kept.every:,} keeps nothing: there are {steps:,} steps")
    looking = looks(config.dev, stage, text, target=config.target, seed=job.seed, placement=job.placement, ranks=ranks)
    with Progress("train", steps, "steps") as progress, looking as dev:
        trainer = DistillTrainer(
            model=model,
            args=arguments(
                work, seed=job.seed, num_train_epochs=config.epochs, learning_rate=config.learning_rate,
                per_device_train_batch_size=micro, gradient_accumulation_steps=config.batch_size // (micro * world),
                warmup_steps=config.warmup_ratio, weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm,
                bf16=half and job.placement.dtype == "bfloat16", fp16=half and job.placement.dtype == "float16",
                use_cpu=job.placement.device == "cpu", activation_checkpointing=config.gradient_checkpointing,
                dataloader_pin_memory=job.placement.device == "cuda", report_to=list(config.report_to) or "none",
                run_name=f"{stage.out.parent.name}/{stage.out.name}",
            ),
            processing_class=text.tokenizer,
            peft_config=adapter(job.student, model, sorted(job.side.new_tokens)),
            collator=Collator(job.rows.rows, job.teacher, layout),
            matching=matching,
            work=work,
            plan=job.plan(),
            progress=progress,
            checkpoint_every_s=config.checkpoint_every_s,
            logging_every=config.logging_every,
            dev=dev,
            kept=kept,
        )  # fmt: skip
        processes.check_group(processes.asked(), trainer.accelerator, job.placement)
        began_s = time.monotonic()
        with threads_for(model, job.placement):
            history = trainer.run()
        if dev is not None:
            if ranks.leads:
                dev.finish(trainer.model)
            history = dev.into(history)
            stage.say(dev.cost(time.monotonic() - began_s))
    model.config.use_cache = use_cache  # TRL turns it off; the student that is written shall have it as its base
    return trainer.student(), history, dev, kept


def _writer(job: _Job, use_cache: bool) -> Callable[[Path, Any, Any], None]:
    """What writes the student in the middle of its training."""

    def write(target: Path, model: Any, weights: Any) -> None:
        whole = model if job.student.adapter is not None else apart(model, job.placement, use_cache=use_cache)
        write_student(target, whole, job.student, job.text, job.placement, weights)

    return write


def _layout(job: _Job, stage: StageRun) -> Layout:
    """How rows pass the model; says how many rows are longer than a pass and so make one alone."""
    config, rows = job.config, job.rows.rows
    tokens = config.micro_batch_tokens
    if config.packing and tokens is None:
        tokens = int(rows.lengths.max())
    if tokens is not None and (longer := int((rows.lengths > tokens).sum())):
        stage.say(f"{longer:,} rows are longer than `train.micro_batch_tokens` {tokens:,}; each passes alone")
    return Layout(tokens, config.packing)


def _report(job: _Job, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and losses, without clock figures. CE and KD are means over the first and last steps' tokens."""
    from students.history import mean

    rows, epochs = job.rows, job.config.epochs
    matched = [record for record in history if record["kd_tokens"]]
    return {
        "target": job.config.target,
        "rows": len(rows.rows),
        "rendered": dict(rows.rendered),
        "dropped": dict(rows.dropped),
        "epochs": epochs,
        "steps": len(history),
        "trained_tokens": rows.trained_tokens,
        "kd_tokens": sum(record["kd_tokens"] for record in history if record["epoch"] <= 1),
        "covered_mass": mean(history, "covered", "kd_tokens"),
        "ce_first": mean(history[:ENDS], "ce"),
        "ce_last": mean(history[-ENDS:], "ce"),
        "kd_first": mean(matched[:ENDS], "kd", "kd_tokens"),
        "kd_last": mean(matched[-ENDS:], "kd", "kd_tokens"),
        "seed": job.seed,
        "device": job.placement.device,
        "dtype": job.placement.dtype,
        "stop_ids": sorted(job.text.stop_ids),
    }
