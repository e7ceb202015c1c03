"""What a training needs, from the sections of an experiment: the settings in the terms of `distill.plan`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from distill.core.config import Settings
from distill.core.errors import ConfigError
from distill.plan.cost import Work
from distill.plan.gpus import Gpu
from distill.plan.memory import Adapter, Sharding, Training
from distill.plan.phases import Plan
from distill.plan.shapes import LINEAR, ModelShape, shape_of
from students import settings
from students.packing import Layout
from students.train import Config


def plan(
    sections: Mapping[str, Settings], gpu: Gpu, count: int, sharding: Sharding, rows: int | None, row_tokens: int | None
) -> Plan:
    """The training of one arm on `count` GPUs.

    `rows` of an epoch and `row_tokens`, their mean length, are as given, else the most that the settings allow.
    Raises ConfigError where the settings cannot be planned for.
    """
    config, student = cast(Config, sections["train"]), cast(settings.Config, sections["student"])
    shape = shape_of(student.model, student.revision)
    longest = config.max_length or shape.max_position_embeddings
    if longest > shape.max_position_embeddings:
        raise ConfigError(
            f"`train.max_length` is {longest}, but the context of `{student.model}` ends at "
            f"{shape.max_position_embeddings}; lower it, or name a copy of the model with a longer one"
        )
    if sharding == "zero3" and count > 1 and student.adapter is None:
        raise ConfigError(
            "under DeepSpeed's ZeRO-3 `train` refuses a trained output head; plan an adapter, or --sharding fsdp2"
        )
    matching = config.matching
    live = matching is not None and matching.vocabulary == "full"
    layout = Layout(config.micro_batch_tokens or (longest if config.packing else None), config.packing)
    own = max(config.batch_size // count, 1)  # rows of a step that one process has
    if layout.tokens is not None:
        tokens = max(layout.tokens, longest)  # a longer row passes alone
        several = own * (row_tokens or longest) > tokens
    else:
        micro = min(config.micro_batch_size or own, own)
        tokens, several = micro * longest, own > micro
    training = Training(
        shape=shape,
        adapter=_adapter(student.adapter, shape),
        half=student.dtype in ("bf16", "fp16") or (student.dtype == "auto" and not gpu.is_cpu),
        tokens=tokens,
        longest=tokens if config.packing else longest,
        checkpointing=config.gradient_checkpointing,
        accumulates=several,
        square_mask=config.packing and config.attention in (None, "sdpa", "eager"),
        top_k=0 if matching is None or live else matching.top_k,
        loss_temperature=1.0 if matching is None else matching.loss_temperature,
        live_teacher=_teacher(sections) if live else None,
        processes=count,
        sharding=sharding,
        cpu=gpu.is_cpu,
    )
    bound = rows is None or row_tokens is None
    work = Work(rows or _rows(sections), min(row_tokens or longest, longest), config.epochs, bound)
    return Plan(training, work, _remarks(config, training))


def _adapter(lora: settings.Lora | None, shape: ModelShape) -> Adapter | None:
    if lora is None:
        return None
    ends = LINEAR if lora.targets == "all-linear" else lora.targets
    targets = tuple(name for name in LINEAR if any(name == end.rpartition(".")[2] for end in ends))
    if not targets:
        raise ConfigError(
            f"`student.adapter.targets` names none of the linear layers of {shape.name}: {', '.join(LINEAR)}"
        )
    return Adapter(lora.rank, targets, dropout=lora.dropout > 0, dora=lora.dora, nf4=lora.nf4)


def _teacher(sections: Mapping[str, Any]) -> ModelShape:
    teacher = sections["teacher"]  # teachers.settings.Config, which this package must not import
    return shape_of(teacher.model, teacher.revision)


def _rows(sections: Mapping[str, Any]) -> int:
    """Most traces that the settings can keep: every problem answered, and every answer kept that may be."""
    problems = getattr(sections.get("problems"), "train", None)
    if not isinstance(problems, int):
        return 0
    return problems * min(_answers(sections), _at_most(sections))


def _answers(sections: Mapping[str, Any]) -> int:
    """Most answers that a problem is asked for."""
    sample = sections.get("sample")
    return 1 if sample is None else sum(most for _, most in sample.build_policy().bounds().values())


def _at_most(sections: Mapping[str, Any]) -> int:
    """Most traces of a problem that the filter keeps."""
    chosen = getattr(sections.get("filter"), "filters", ())
    limits = [choice.config.k for choice in chosen if choice.name == "at_most"]
    return min(limits, default=1 << 30)


def _remarks(config: Config, training: Training) -> tuple[str, ...]:
    remarks = []
    if training.square_mask:
        remarks.append(
            "packed on SDPA: every layer makes a mask of the square of the length; with flash attention it does not"
        )
    if config.dev is not None:
        spare = training.shape.cache_entries * (2 if training.half else 4) * config.dev.max_tokens
        remarks.append(
            f"dev answers of {config.dev.max_tokens:,} tokens take {spare / (1 << 30):.2f} GiB of cache each"
        )
    if training.adapter is not None and training.adapter.dropout:
        remarks.append("dropout of the adapter's inputs keeps a mask of each")
    return tuple(remarks)
