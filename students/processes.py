"""The processes that train one student together: which one leads, how they wait for each other, and the proof that the
group which came up is the one that was asked for.

Process 0 leads: it alone locks, writes and speaks. Torch elastic (`torchrun`, `accelerate launch`, `distill train
--launch`) numbers the processes in their environment; accelerate then forms the group, and where it cannot form what
its configuration says it forms something smaller without a word (FSDP on CPUs becomes DDP, a launcher that starts one
process becomes training on one). So what is there is compared with what was asked for before anything is trained.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from distill.core.device import Placement
from distill.core.errors import ConfigError, DistillError
from distill.core.stage import StageRun

ASKED = "DISTILL_PROCESS_GROUP"
"""Environment variable in which `--launch` tells its processes what it asked for: `2 FSDP2`."""

ONE, DDP, FSDP2, ZERO3 = "one process", "DDP", "FSDP2", "ZeRO-3"

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others: for the leader to hash a large checkpoint, say. A process that dies ends the
others at once, through its launcher."""


@dataclass(frozen=True)
class Group:
    """So many processes, tied together in one way: `Group(2, FSDP2)`."""

    processes: int
    kind: str

    def __str__(self) -> str:
        if self.kind == ONE:
            return ONE
        return f"{self.processes or 'several'} process{'' if self.processes == 1 else 'es'} with {self.kind}"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.index == 0

    def wait(self) -> None:
        """Return when all have come here."""
        if self.count > 1:
            from accelerate.state import PartialState

            PartialState().wait_for_everyone()

    def agreed(self, value: Any) -> Any:
        """The leader's value, in every process: where clocks or disks could make them differ."""
        if self.count == 1:
            return value
        import torch.distributed

        together = [value]
        torch.distributed.broadcast_object_list(together, src=0)
        return together[0]

    def gathered(self, items: list[Any]) -> list[Any]:
        """The items of all processes, in every process, by rank."""
        if self.count == 1:
            return items
        import torch.distributed

        parts: list[list[Any]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(parts, items)
        return [item for part in parts for item in part]


def here(environment: Mapping[str, str] = os.environ) -> Ranks:
    """This process's number and how many there are, as torch elastic tells them.

    Raises ConfigError for processes that mpirun started: they have no such numbers, and each would train alone.
    """
    if "LOCAL_RANK" in environment:
        return Ranks(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if any(int(environment.get(f"{mpi}_SIZE", "1")) > 1 for mpi in ("OMPI_COMM_WORLD", "PMI", "MV2_COMM_WORLD")):
        raise ConfigError("started by mpirun, which numbers no processes; use `--launch` or torchrun")
    return Ranks()  # a cluster may set RANK and WORLD_SIZE for its machines: they say nothing of processes


def asked(environment: Mapping[str, str] = os.environ) -> Group:
    """The group that this process was started for, from what its launcher left in the environment.

    Raises ConfigError for what cannot be trained with here, each with the way out.
    """
    if (told := environment.get(ASKED)) is not None:
        count, _, kind = told.partition(" ")
        return Group(int(count), kind)

    def on(name: str) -> bool:
        return environment.get(name, "false").lower() in ("true", "1")

    processes = here(environment).count
    if on("ACCELERATE_USE_MEGATRON_LM"):
        raise ConfigError("Megatron-LM is not supported; use configs/accelerate/fsdp2.yaml")
    for name in ("CP", "SP", "TP"):
        if int(environment.get(f"PARALLELISM_CONFIG_{name}_SIZE", "1")) > 1:
            raise ConfigError(no_split(name.lower()))
    if on("ACCELERATE_USE_DEEPSPEED"):
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
        if stage != "3":
            raise ConfigError(no_stage(stage))
        return Group(processes, ZERO3)
    if on("ACCELERATE_USE_FSDP"):
        if environment.get("FSDP_VERSION", "1") != "2":
            raise ConfigError(NO_FSDP1)
        return Group(processes, FSDP2)
    # `accelerate launch` sets an address for several processes also where it goes on to start a single one.
    if "LOCAL_RANK" not in environment and {"MASTER_PORT", "ACCELERATE_MIXED_PRECISION"} <= environment.keys():
        return Group(0, DDP)
    return Group(processes, DDP if processes > 1 else ONE)


NO_FSDP1 = "FSDP version 1 is not supported; write `fsdp_version: 2` (see configs/accelerate/fsdp2.yaml)"


def no_split(name: str) -> str:
    """Why a sequence or a matrix cannot be spread over processes."""
    what = {"cp": "context", "sp": "sequence", "tp": "tensor"}[name]
    return (
        f"{what} parallelism is not supported: the loss needs whole rows and whole matrices on a device; set "
        f"`{name}_size: 1`, and use FSDP2, gradient checkpointing or a shorter `train.max_length` for memory"
    )


def no_stage(stage: object) -> str:
    """Why only one of DeepSpeed's stages is taken."""
    return f"DeepSpeed's stage {stage} is not supported; use FSDP2, or `zero_stage: 3` (unverified)"


def check_reading(*, nf4: bool, live: bool, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse FSDP's sparing loading, in which only the leader reads weights, for models that FSDP does not then fill.

    Raises ConfigError for a 4-bit base and for a live teacher: the other processes would train with noise.
    """
    sparing = all(
        environment.get(name, "false").lower() in ("true", "1")
        for name in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
    )
    if sparing and (nf4 or live):
        what = "a 4-bit base" if nf4 else "a live teacher"
        raise ConfigError(f"{what} has to be read by every process; set `fsdp_cpu_ram_efficient_loading: false`")


def came_up(accelerator: Any) -> Group:
    """The group that accelerate formed."""
    kind = accelerator.distributed_type.value
    if kind == "FSDP":
        kind = FSDP2 if accelerator.is_fsdp2 else "FSDP 1"
    elif kind == "DEEPSPEED":
        kind = f"ZeRO-{accelerator.state.deepspeed_plugin.zero_stage}"
    elif kind.startswith("MULTI_") and accelerator.num_processes > 1:
        kind = DDP
    elif kind == "NO" or kind.startswith("MULTI_"):
        kind = ONE
    return Group(int(accelerator.num_processes), kind)


def check_group(wanted: Group, accelerator: Any, placement: Placement) -> None:
    """Show that the group, its device and its precision are the ones that were asked for; else DistillError."""
    found = came_up(accelerator)
    if found != wanted:
        why = (
            "accelerate has no FSDP2 and no DeepSpeed on CPUs"
            if placement.device == "cpu" and wanted.kind in (FSDP2, ZERO3)
            else "its launcher started something else than its configuration says"
        )
        raise DistillError(
            f"accelerate was to form {wanted}, but formed {found} ({why}); start with `distill train --launch N`, or "
            "with a file of configs/accelerate/ on as many GPUs as it names"
        )
    if accelerator.device.type != placement.device:
        raise DistillError(
            f"the student trains on {placement.device}, but accelerate took {accelerator.device.type}; set "
            "`student.device`, or take `use_cpu` out of accelerate's configuration"
        )
    precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(accelerator.mixed_precision)
    if precision != placement.dtype:
        raise DistillError(
            f"the student trains in {placement.dtype}, but accelerate is configured for "
            f"{accelerator.mixed_precision}; write `mixed_precision: 'no'` there: `student.dtype` decides"
        )
    parallel = getattr(accelerator, "parallelism_config", None)
    for name in ("cp", "sp", "tp"):
        if parallel is not None and getattr(parallel, f"{name}_size", 1) > 1:
            raise DistillError(no_split(name))


def meet(ranks: Ranks, placement: Placement, work: Path) -> None:
    """Bring the processes in touch, until they end, before the first of them has to wait for another; make `work`.

    Raises DistillError where they do not share the run's folder.
    """
    if ranks.leads:
        work.mkdir(exist_ok=True)
    if ranks.count == 1:
        return
    import torch.distributed
    from accelerate.state import PartialState

    if not torch.distributed.is_initialized():
        PartialState(cpu=placement.device == "cpu", timeout=PATIENCE)
        atexit.register(torch.distributed.destroy_process_group)
    ranks.wait()
    if not work.is_dir():
        why = f"process {ranks.index} does not see it; use a file system that all machines share"
        raise DistillError(f"{work.parent}: {why}")


@contextmanager
def own_folder(stage: StageRun, ranks: Ranks) -> Iterator[StageRun]:
    """The stage as this process may write into it: as it is for the leader, with a folder to throw away for others."""
    if ranks.leads:
        yield stage
        return
    with tempfile.TemporaryDirectory(prefix="distill-process-") as folder:
        yield replace(stage, out=Path(folder))
