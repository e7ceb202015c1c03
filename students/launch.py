"""Training on several processes: `distill train --launch N|CONFIG.yaml` starts them, `-m students.launch` is one.

accelerate's own launcher does the starting (torch elastic underneath); this module hands it the stage, takes the
leader's report back, and turns whatever ends a process into one line. The process that was typed by a person trains
nothing: it holds the stage's lock and writes its manifest, as it does for every other stage.

    launch.json        the stage and where it lives         written before the start
    report.json        what `train` says at its end         by process 0
    failed-1.json      what ended process 1                 by process 1
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from distill.core import files, rundir
from distill.core.config import Settings
from distill.core.device import place, usable_cores
from distill.core.errors import ConfigError, DistillError
from distill.core.stage import Report, StageRun, Workspace
from distill.core.yaml import load as load_yaml
from students import processes, settings
from students.processes import DDP, FSDP2, ZERO3, Group

STAGE, REPORT, FAILED = "launch.json", "report.json", "failed-{}.json"

KINDS = {"MULTI_GPU": DDP, "FSDP": FSDP2, "DEEPSPEED": ZERO3}
"""accelerate's `distributed_type` and what it is called here."""

WATCH_S = 0.5
"""How often a process looks whether its launcher still lives."""


@dataclass(frozen=True)
class Launch:
    """What `--launch` asks for: the group, and accelerate's configuration of it."""

    group: Group
    config: dict[str, Any]


def read(spec: str) -> Launch | None:
    """`--launch` as a number of processes, or as an accelerate configuration file. None: this process alone.

    Raises ConfigError, with file and line, for what cannot be trained with, or what accelerate would not start.
    """
    if spec.isdecimal():
        if int(spec) == 0:
            raise ConfigError("`--launch 0` starts nothing; give the number of processes, usually that of your GPUs")
        plain: dict[str, Any] = {"distributed_type": "MULTI_GPU", "num_processes": int(spec), "mixed_precision": "no"}
        return Launch(Group(int(spec), DDP), plain) if int(spec) > 1 else None
    path = Path(spec)
    if not path.is_file():
        raise ConfigError(f"--launch {spec}: neither a number of processes nor a file; see configs/accelerate/")
    document = load_yaml(path)
    config = document.data

    def refuse(why: str, *key: str) -> ConfigError:
        return ConfigError(f"{document.where(key)}: {why}")

    kind, number = str(config.get("distributed_type", "NO")), config.get("num_processes")
    if not isinstance(number, int) or number < 1:
        raise refuse(f"`num_processes` is {number!r}; write how many there shall be", "num_processes")
    if kind not in KINDS:
        raise refuse(f"`distributed_type: {kind}` starts no group here; take {', '.join(KINDS)}", "distributed_type")
    if number == 1:
        raise refuse("`num_processes: 1` is one process; leave `--launch` out, or raise it", "num_processes")
    if config.get("num_machines", 1) != 1:
        how = f"on each of them: accelerate launch --config_file {spec} -m distill train EXPERIMENT.yaml"
        raise refuse(f"`--launch` starts processes on this machine only; for several run, {how}", "num_machines")
    if str(config.get("mixed_precision", "no")) != "no":
        raise refuse("`student.dtype` decides the precision; write `mixed_precision: 'no'`", "mixed_precision")
    if str(config.get("dynamo_config") or {}) != "{}":
        raise refuse("torch.compile is not supported; take `dynamo_config` out", "dynamo_config")
    for name in ("cp", "sp", "tp"):
        sizes = config.get("parallelism_config") or {}
        if any(sizes.get(key, 1) != 1 for key in (f"{name}_size", f"parallelism_config_{name}_size")):
            raise refuse(processes.no_split(name), "parallelism_config")
    if kind == "FSDP":
        sharding = config.get("fsdp_config") or {}
        if sharding.get("fsdp_version", 1) != 2:
            raise refuse(processes.NO_FSDP1, "fsdp_config")
        if sharding.get("fsdp_auto_wrap_policy") != "TRANSFORMER_BASED_WRAP":
            raise refuse("write `fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP`, a group a layer", "fsdp_config")
        if sharding.get("fsdp_activation_checkpointing", False):
            raise refuse("write `train.gradient_checkpointing: true` instead", "fsdp_config")
    if kind == "DEEPSPEED":
        about = config.get("deepspeed_config") or {}
        if about.get("zero_stage") != 3:
            raise refuse(processes.no_stage(about.get("zero_stage", "unnamed")), "deepspeed_config")
        if importlib.util.find_spec("deepspeed") is None:
            raise refuse("DeepSpeed is not installed: pip install deepspeed", "distributed_type")
    return Launch(Group(number, KINDS[kind]), config)


def run(stage: StageRun) -> Report:
    """Train a stage on the processes that `stage.launch` asks for. Raises DistillError if one of them fails."""
    assert stage.launch is not None
    if (launch := read(stage.launch)) is None:
        raise ValueError("nothing to launch")
    _check_here(launch, stage)
    with tempfile.TemporaryDirectory(prefix="distill-launch-") as temporary:
        folder = Path(temporary)
        files.write_json(folder / STAGE, _written(stage))
        stage.say(f"starts {launch.group}")
        try:
            _start(launch, folder)
        except Exception as error:  # torch elastic's and subprocess's own: what is told is what ended the process
            raise _failure(folder, launch.group, error) from error
        if not (folder / REPORT).exists():
            raise _failure(folder, launch.group, None)
        return Report(**files.read_json(folder / REPORT))


def _check_here(launch: Launch, stage: StageRun) -> None:
    """Refuse before anything starts what this machine cannot form."""
    student = stage.sections["student"]
    assert isinstance(student, settings.Config)
    placement = place(student.device, student.dtype)
    if placement.device == "cpu" and launch.group.kind in (FSDP2, ZERO3):
        raise DistillError(
            f"--launch {stage.launch}: accelerate has {launch.group.kind} on GPUs only, and the student trains on a "
            "CPU; take `--launch N` (DDP)"
        )
    if launch.group.kind == ZERO3 and student.adapter is None:
        raise DistillError(
            f"--launch {stage.launch}: ZeRO-3 trains adapters only here; set `student.adapter: lora`, or use FSDP2 "
            "(configs/accelerate/fsdp2.yaml)"
        )
    if placement.device == "mps":
        raise DistillError("--launch: one process is all that MPS has; leave it out")
    if placement.device == "cuda":
        import torch

        if (there := torch.cuda.device_count()) < launch.group.processes:
            raise DistillError(
                f"--launch {stage.launch}: {launch.group.processes} processes need as many GPUs, and there are {there}"
            )


def _start(launch: Launch, folder: Path) -> None:
    """Run accelerate's launcher in this process until all of its own have ended.

    Raises what it raises, and KeyboardInterrupt on Ctrl-C.
    """
    import logging

    from accelerate.commands.launch import launch_command, launch_command_parser

    local = {
        "compute_environment": "LOCAL_MACHINE", "num_machines": 1, "machine_rank": 0, "use_cpu": False, "debug": False,
        "gpu_ids": "all", "main_process_port": 0,
    }  # fmt: skip
    # A file of ours is always named: without one accelerate takes what lies in the user's cache.
    files.write_json(folder / "accelerate.json", {**local, **launch.config})
    threads = [] if "OMP_NUM_THREADS" in os.environ else [str(max(usable_cores() // launch.group.processes, 1))]
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(folder / "accelerate.json"), "--log_dir", str(folder / "logs"),
         *(["--num_cpu_threads_per_process", *threads] if threads else []), "-m", "students.launch", str(folder)]
    )  # fmt: skip
    with _told(f"{launch.group.processes} {launch.group.kind}"), _signals():
        logging.disable(logging.CRITICAL)  # torch elastic logs in many lines what is told in one
        try:
            launch_command(arguments)
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def _told(group: str) -> Iterator[None]:
    os.environ[processes.ASKED] = group
    try:
        yield
    finally:
        del os.environ[processes.ASKED]


@contextmanager
def _signals() -> Iterator[None]:
    """Torch elastic takes the signals over and raises an exception of its own: give them back, and say it as usual."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    taken = [number for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if (number := getattr(signal, name, None))]
    before = {number: signal.getsignal(number) for number in taken}
    got: signal.Signals | None = None
    try:
        yield
    except SignalException as error:
        got = signal.Signals(error.sigval)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if sys.stderr.isatty() and got is not None:
        print("\x1b[?25h", end="", file=sys.stderr)  # the bar that was killed had hidden the cursor
    if got == signal.SIGINT:
        raise KeyboardInterrupt
    if got is not None:
        raise SystemExit(128 + got)  # as a shell tells it; locks and temporary folders go on the way out


def _failure(folder: Path, group: Group, error: Exception | None) -> DistillError:
    """The one line about what ended the processes: the fault itself, and none that only followed from it."""
    told = [files.read_json(path) for path in folder.glob(FAILED.format("*"))]
    ours = [record for record in told if record["exit_code"] is not None]
    if ours:
        first = min(ours, key=lambda record: record["time"])
        return _with_code(first["error"], first["exit_code"])
    for rank, failed in sorted(getattr(error, "failures", {}).items()):
        code = getattr(failed, "exitcode", 0)
        if code < 0 and -code not in (signal.SIGTERM, signal.SIGINT):
            name, memory = signal.Signals(-code).name, " (out of memory?)" if -code == signal.SIGKILL else ""
            return DistillError(
                f"process {rank} of {group.processes} was killed by {name}{memory}; "
                "the same command goes on from the last checkpoint"
            )
    if told:
        first = min(told, key=lambda record: record["time"])
        print(first["traceback"], end="", file=sys.stderr)
        return DistillError(f"process {first['rank']} of {group.processes} failed, see above: {first['error']}")
    why = "" if error is None else f": {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return DistillError(f"{group} ended without a result{why}")


def _with_code(text: str, code: int) -> DistillError:
    error = ConfigError(text) if code == ConfigError.exit_code else DistillError(text)
    error.exit_code = code
    return error


def _written(stage: StageRun) -> dict[str, Any]:
    """A stage as JSON: `_stage` makes the same of it."""
    return {
        "name": stage.name,
        "out": str(stage.out.absolute()),
        "inputs": {name: str(folder.absolute()) for name, folder in stage.inputs.items()},
        "sections": {
            name: {"class": f"{type(section).__module__}:{type(section).__qualname__}", "settings": section.dump()}
            for name, section in stage.sections.items()
        },
        "seed": stage.seed,
        "workspace": str(stage.workspace.root.absolute()),
    }


def _stage(written: dict[str, Any]) -> StageRun:
    sections: dict[str, Settings] = {}
    for name, section in written["sections"].items():
        module, _, kind = section["class"].partition(":")
        sections[name] = getattr(importlib.import_module(module), kind).model_validate(section["settings"])
    inputs = {name: Path(folder) for name, folder in written["inputs"].items()}
    workspace = Workspace(Path(written["workspace"]))
    return StageRun(written["name"], Path(written["out"]), inputs, sections, written["seed"], workspace)


class _Planned(Protocol):
    """What is asked of the pipeline's Runner, which this package does not import."""

    def planned(self, name: str) -> Iterator[StageRun]: ...


def follow(runner: _Planned) -> None:
    """Train along with process 0, which `torchrun -m distill train` started beside this one: nothing is written here.

    A stage that is missing stays so until this process has trained its share, so both walk over the same ones.
    """
    with _silent():
        for stage in runner.planned("train"):
            if not (stage.out / rundir.MANIFEST).exists():
                importlib.import_module("students.train").run(stage)


def main(folder: Path) -> None:
    """One of the processes: train, and leave behind a report or what went wrong."""
    me = processes.here()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a process that waits in a collective would never hear Python's handler
    _end_with(os.getppid())
    try:
        stage = _stage(files.read_json(folder / STAGE))
        with ExitStack() as quiet:
            if not me.leads:
                quiet.enter_context(_silent())
            report = importlib.import_module("students.train").run(stage)
        if me.leads:
            files.write_json(folder / REPORT, asdict(report))
    except Exception as error:
        code = error.exit_code if isinstance(error, DistillError) else None
        about = {
            "rank": me.index,
            "time": time.time(),
            "error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}" if code is None else str(error),
            "exit_code": code,
            "traceback": traceback.format_exc(),
        }
        files.write_json(folder / FAILED.format(me.index), about)
        sys.stderr.flush()
        os._exit(code or 1)  # at once: a slow exit would let the others fail before this one is seen


@contextmanager
def _silent() -> Iterator[None]:
    """What the leader says need not be said twice; errors are told through the launcher."""
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


def _end_with(parent: int) -> None:
    """End when the launcher is gone, killed: nobody would stop these processes, and a second run may start."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
