"""Stages of an experiment as a plan sees them: what one GPU must hold, and whether it can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from distill.plan import memory
from distill.plan.cost import Work
from distill.plan.gpus import Gpu, reserve
from distill.plan.memory import Adapter, Training
from distill.plan.shapes import ModelShape

MARGIN = "context and fragments"


@dataclass(frozen=True)
class Phase:
    """Bytes on each GPU by what they hold, at the moment that needs most. `remarks` are for a person."""

    stage: str
    moment: str
    parts: Mapping[str, float]
    room: float
    remarks: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the GPU has room for it."""
        return self.total <= self.room


@dataclass(frozen=True)
class Plan:
    """The training of one arm: what one process is, what it is fed with, and how large rows may be told to be."""

    training: Training
    work: Work
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """A setting that lowers the need, what it costs, and the total with it and all changes before it."""

    setting: str
    harm: str
    total: float
    saves: float
    fits: bool


def training_phase(plan: Plan, gpu: Gpu) -> Phase:
    """The training on one GPU."""
    moment, parts = memory.peak(plan.training)
    return Phase("train", moment, parts | {MARGIN: reserve(sum(parts.values()))}, gpu.memory, plan.remarks)


def serving_phase(
    stage: str, shape: ModelShape, gpu: Gpu, *, longest: int, width: float = 2, share: float = 1.0, split: int = 1
) -> Phase:
    """A model that answers: its weights (`width` bytes each) and the cache of one answer of `longest` tokens.

    `share` is the part of the GPU that it may use, `split` the number of GPUs that hold it together.
    """
    kept = 4 if width == 4 else 2  # of a quantised model, embeddings and cache stay in 16 bits
    linear = width * shape.linear_weights
    weights = (linear + kept * (shape.parameters - shape.linear_weights)) / split
    one = kept * shape.cache_entries * longest / split
    parts = {"weights": weights, "cache of one answer": one}
    parts[MARGIN] = reserve(weights + one)
    room = gpu.memory * share
    side_by_side = int((room - weights - reserve(weights)) / (one * 1.04)) if one else 0
    remark = f"room for {max(side_by_side, 0):,} answers of {longest:,} tokens side by side"
    return Phase(stage, "one answer at full length", parts, room, (remark,) if side_by_side > 0 else ())


def advice(plan: Plan, gpu: Gpu, count: int) -> list[Change]:
    """What to change, least harm first, each change on top of those before it, until it fits (or nothing is left)."""
    changes: list[Change] = []
    training = plan.training
    total = training_phase(plan, gpu).total
    for setting, harm, change in _ways(training, count):
        changed = change(training)
        phase = training_phase(replace(plan, training=changed), gpu)
        if phase.total >= total - (1 << 20):
            continue  # saves nothing here
        changes.append(Change(setting, harm, phase.total, total - phase.total, phase.fits))
        if phase.fits:
            break
        training, total = changed, phase.total
    return changes


Way = tuple[str, str, Callable[[Training], Training]]


def _ways(training: Training, count: int) -> Sequence[Way]:
    shorter = training.longest // 2
    lora = training.adapter or Adapter(rank=16)
    ways: list[Way | None] = [
        _way(not training.checkpointing, "train.gradient_checkpointing=true", "same result, about a quarter slower",
             checkpointing=True),
        _way(training.tokens > training.longest, "train.micro_batch_size=1", "same result but for rounding",
             tokens=training.longest, accumulates=True),
        _way(training.square_mask, "train.packing=false", "same result but for rounding; padding costs time",
             square_mask=False),
        _way(training.live_teacher is not None, "train.loss.vocabulary=recorded", "the teacher is scored before, top-k",
             live_teacher=None, top_k=64),
        _way(count > 1 and not training.sharded, "sharding over the GPUs (FSDP2)", "same result; the links cost time",
             sharding="fsdp2", processes=count),
        _way(training.adapter is None, "student.adapter=lora", "an adapter learns less than full weights can",
             adapter=lora),
        _way(not lora.nf4, "student.adapter=qlora", "the base in 4 bits: slower, a little less exact",
             adapter=replace(lora, nf4=True)),
    ]  # fmt: skip
    length = shorter
    while length >= 1024:
        ways.append(
            _way(True, f"train.max_length={length}", "longer traces are dropped", tokens=length, longest=length)
        )
        length //= 2
    return [way for way in ways if way is not None]


def _way(possible: bool, setting: str, harm: str, **changes: object) -> Way | None:
    if not possible:
        return None

    def change(training: Training) -> Training:
        return replace(training, **changes)  # type: ignore[arg-type]  # one value a field

    return setting, harm, change
