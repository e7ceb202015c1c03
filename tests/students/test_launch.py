"""`--launch`: what it reads and refuses, what its processes are told, and the one line when something goes wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file

from distill.core import files
from distill.core.device import Placement
from distill.core.errors import ConfigError, DistillError
from students import launch, processes, sharded, train
from students.processes import DDP, FSDP2, ONE, ZERO3, Group, Ranks
from tests.students.made import stage_of

SHIPPED = Path(__file__).parent.parent.parent / "configs" / "accelerate"
CPU = Placement("cpu", "float32", "")


def accelerate_file(folder: Path, **changes: Any) -> Path:
    path = folder / "accelerate.yaml"
    config = {"distributed_type": "MULTI_GPU", "num_processes": 2, "mixed_precision": "no", **changes}
    path.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in config.items() if value is not None))
    return path


def test_a_number_is_ddp_and_one_is_no_launch() -> None:
    read = launch.read("4")
    assert read is not None and read.group == Group(4, DDP)
    assert str(read.group) == "4 processes with DDP"
    assert launch.read("1") is None


@pytest.mark.parametrize(("name", "group"), [("ddp", DDP), ("fsdp2", FSDP2), ("deepspeed_zero3", ZERO3)])
def test_the_shipped_files_are_read_by_us_and_by_accelerate(name: str, group: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = SHIPPED / f"{name}.yaml"
    if group == ZERO3 and importlib.util.find_spec("deepspeed") is None:
        with pytest.raises(ConfigError, match=r"zero3.yaml:\d+: DeepSpeed is not installed: pip install deepspeed"):
            launch.read(str(path))
    else:
        read = launch.read(str(path))
        assert read is not None and read.group == Group(8, group)
    assert load_config_from_file(str(path)).num_processes == 8
    assert {path.stem for path in SHIPPED.iterdir()} == {"ddp", "fsdp2", "deepspeed_zero3"}


@pytest.mark.parametrize(
    ("changes", "line", "what"),
    [
        ({"num_processes": None}, None, "`num_processes` is None; write how many"),
        ({"num_processes": 1}, 2, "one process; leave `--launch` out"),
        ({"distributed_type": "NO"}, 1, "`distributed_type: NO` starts no group here; take MULTI_GPU"),
        ({"distributed_type": "MULTI_CPU"}, 1, "`distributed_type: MULTI_CPU` starts no group here"),
        ({"distributed_type": "MEGATRON_LM"}, 1, "`distributed_type: MEGATRON_LM` starts no group here"),
        ({"num_machines": 2}, 4, "accelerate launch --config_file"),
        ({"mixed_precision": "bf16"}, 3, "`student.dtype` decides the precision"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, 4, "torch.compile is not supported"),
        ({"parallelism_config": {"parallelism_config_cp_size": 2}}, 4, "context parallelism is not supported"),
        ({"parallelism_config": {"parallelism_config_tp_size": 2}}, 4, "tensor parallelism is not supported"),
        ({"parallelism_config": {"parallelism_config_sp_size": 2}}, 4, "sequence parallelism is not supported"),
        ({"distributed_type": "FSDP", "fsdp_config": {}}, 4, "FSDP version 1 is not supported"),
        ({"distributed_type": "FSDP", "fsdp_config": {"fsdp_version": 2}}, 4, "TRANSFORMER_BASED_WRAP"),
        (
            {"distributed_type": "FSDP", "fsdp_config": {
                "fsdp_version": 2, "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_activation_checkpointing": True,
            }}, 4, "train.gradient_checkpointing: true",
        ),
        ({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": 2}}, 4, "DeepSpeed's stage 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_with_is_refused_with_its_line(
    tmp_path: Path, changes: dict[str, Any], line: int | None, what: str
) -> None:
    path = accelerate_file(tmp_path, **changes)
    with pytest.raises(ConfigError, match=re.escape(what)) as error:
        launch.read(str(path))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}:{line}: " if line else str(path))


@pytest.mark.parametrize(
    ("spec", "what"), [("0", "starts nothing"), ("two", "neither a number of processes nor a file")]
)
def test_a_launch_that_is_neither_number_nor_file(spec: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        launch.read(spec)


ELASTIC = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "group"),
    [
        ({}, Group(1, ONE)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Group(1, ONE)),  # a cluster's machines
        (ELASTIC, Group(2, DDP)),
        ({**ELASTIC, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, Group(2, FSDP2)),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, Group(1, FSDP2)),
        ({**ELASTIC, "ACCELERATE_USE_DEEPSPEED": "true"}, Group(2, ZERO3)),
        ({"MASTER_PORT": "1", "ACCELERATE_MIXED_PRECISION": "no"}, Group(0, DDP)),  # `accelerate launch` on CPUs
        ({**ELASTIC, "DISTILL_PROCESS_GROUP": "4 FSDP2"}, Group(4, FSDP2)),
    ],
)
def test_what_a_process_was_started_for(environment: dict[str, str], group: Group) -> None:
    assert processes.asked(environment) == group


@pytest.mark.parametrize(
    ("environment", "what"),
    [
        ({**ELASTIC, "ACCELERATE_USE_FSDP": "true"}, "FSDP version 1"),
        ({**ELASTIC, "ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM"),
        ({**ELASTIC, "PARALLELISM_CONFIG_CP_SIZE": "2"}, "context parallelism"),
        ({**ELASTIC, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "stage 1"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "started by mpirun"),
    ],
)
def test_what_a_process_cannot_be_started_for(environment: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        processes.asked(environment)


def test_weights_that_one_process_reads_are_refused_where_nobody_would_share_them() -> None:
    sparing = {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    processes.check_reading(nf4=False, live=False, environment=sparing)
    processes.check_reading(nf4=True, live=True, environment={})
    for nf4, what in ((True, "a 4-bit base"), (False, "a live teacher")):
        with pytest.raises(ConfigError, match=f"{what} has to be read by every process"):
            processes.check_reading(nf4=nf4, live=True, environment=sparing)


def formed(kind: str, count: int, **about: Any) -> Any:
    """What accelerate says of a group."""
    return SimpleNamespace(**{
        "distributed_type": SimpleNamespace(value=kind), "num_processes": count, "is_fsdp2": True,
        "device": SimpleNamespace(type="cpu"), "mixed_precision": "no", **about,
    })  # fmt: skip


def test_the_group_that_was_asked_for_passes() -> None:
    processes.check_group(Group(1, ONE), formed("NO", 1), CPU)
    processes.check_group(Group(2, DDP), formed("MULTI_CPU", 2), CPU)
    processes.check_group(Group(2, FSDP2), formed("FSDP", 2), CPU)
    processes.check_group(Group(1, ONE), formed("MULTI_CPU", 1), CPU)  # `torchrun --nproc-per-node 1`


@pytest.mark.parametrize(
    ("wanted", "found", "what"),
    [
        (Group(2, DDP), formed("NO", 1), "to form 2 processes with DDP, but formed one process"),
        (Group(0, DDP), formed("NO", 1), "to form several processes with DDP, but formed one process"),
        (Group(2, FSDP2), formed("MULTI_CPU", 2), "to form 2 processes with FSDP2, but formed 2 processes with DDP"),
        (
            Group(1, FSDP2),
            formed("NO", 1),
            "form 1 process with FSDP2, but formed one process .accelerate has no FSDP2",
        ),
        (Group(2, FSDP2), formed("FSDP", 2, is_fsdp2=False), "but formed 2 processes with FSDP 1"),
        (Group(4, DDP), formed("MULTI_GPU", 2), "to form 4 processes with DDP, but formed 2 processes with DDP"),
        (Group(1, ONE), formed("MULTI_CPU", 2), "to form one process, but formed 2 processes with DDP"),
        (Group(1, ONE), formed("NO", 1, device=SimpleNamespace(type="cuda")), "but accelerate took cuda"),
        (Group(1, ONE), formed("NO", 1, mixed_precision="bf16"), "write `mixed_precision: 'no'`"),
        (Group(2, FSDP2), formed("FSDP", 2, parallelism_config=SimpleNamespace(cp_size=2)), "context parallelism"),
    ],
)
def test_another_group_than_the_one_asked_for_is_refused_in_one_line(wanted: Group, found: Any, what: str) -> None:
    with pytest.raises(DistillError, match=what) as error:
        processes.check_group(wanted, found, CPU)
    assert "\n" not in str(error.value)


def test_a_head_that_cannot_be_taken_apart_is_refused() -> None:
    from torch import nn

    class Scaled(nn.Linear):
        def forward(self, hidden: Any) -> Any:
            return super().forward(hidden) * 2

    with pytest.raises(DistillError, match="output head is a Scaled, which cannot be spread"):
        sharded.prepare(formed("FSDP", 2), Scaled(2, 3))
    with pytest.raises(DistillError, match="under DeepSpeed's ZeRO-3 the gradient of a trained output head"):
        sharded.prepare(formed("DEEPSPEED", 2), nn.Linear(2, 3))


def test_a_stage_is_the_same_after_it_was_written(tmp_path: Path, tiny_model: Path) -> None:
    stage = stage_of(tmp_path, tiny_model, train_settings={"loss": {"forward_kl": {"top_k": 4}}, "epochs": 2})
    files.write_json(tmp_path / "stage.json", launch._written(stage))
    assert launch._stage(files.read_json(tmp_path / "stage.json")) == stage


def test_what_this_machine_cannot_form_is_refused_before_anything_starts(tmp_path: Path, tiny_model: Path) -> None:
    stage = stage_of(tmp_path, tiny_model, train_settings={})
    with pytest.raises(DistillError, match="accelerate has FSDP2 on GPUs only, and the student trains on a CPU"):
        train.run(replace(stage, launch=str(SHIPPED / "fsdp2.yaml")))
    assert list(stage.out.iterdir()) == []


def failed(folder: Path, rank: int, at: float, error: str, exit_code: int | None) -> None:
    about = {"rank": rank, "time": at, "error": error, "exit_code": exit_code, "traceback": f"Traceback of {rank}\n"}
    files.write_json(folder / launch.FAILED.format(rank), about)


def test_what_is_told_is_the_fault_and_not_what_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fault that a person can mend, then a kill, then the first bug; the other processes only lost their peer."""
    killed = SimpleNamespace(failures={0: SimpleNamespace(exitcode=1), 1: SimpleNamespace(exitcode=-9)})
    ended = SimpleNamespace(failures={0: SimpleNamespace(exitcode=-signal.SIGTERM)})

    failed(tmp_path, 0, 2.0, "RuntimeError: connection closed by peer", None)
    told = launch._failure(tmp_path, Group(2, DDP), killed)  # type: ignore[arg-type]  # stands for torch's
    assert str(told).startswith("process 1 of 2 was killed by SIGKILL (out of memory?); the same command goes on")

    failed(tmp_path, 1, 1.0, "KeyError: 'x'", None)
    told = launch._failure(tmp_path, Group(2, DDP), ended)  # type: ignore[arg-type]
    assert str(told) == "process 1 of 2 failed, see above: KeyError: 'x'"
    assert capsys.readouterr().err == "Traceback of 1\n"

    failed(tmp_path, 0, 3.0, "no such column", 2)
    told = launch._failure(tmp_path, Group(2, DDP), killed)  # type: ignore[arg-type]
    assert (str(told), told.exit_code) == ("no such column", 2)
    assert str(launch._failure(tmp_path / "none", Group(2, DDP), None)) == "2 processes with DDP ended without a result"


def test_only_one_process_decides_where_disks_and_clocks_differ() -> None:
    assert Ranks().agreed("mine") == "mine"
    Ranks().wait()
    assert (Ranks(0, 2).leads, Ranks(1, 2).leads) == (True, False)


def test_who_follows_writes_into_a_folder_that_goes(tmp_path: Path, tiny_model: Path) -> None:
    stage = stage_of(tmp_path, tiny_model, train_settings={})
    with processes.own_folder(stage, Ranks(0, 2)) as own:
        assert own is stage
    with processes.own_folder(stage, Ranks(1, 2)) as own:
        (own.work / "x").write_text("x")
        assert own.inputs == stage.inputs and tmp_path not in own.out.parents
    assert not own.out.exists()
    assert list(stage.out.iterdir()) == []


# ---- processes that are started


SETTINGS = {"batch_size": 4, "epochs": 2, "checkpoint_every_s": 0.0, "learning_rate": 1e-3}
STUDENT = {"adapter": {"lora": {"rank": 4, "dropout": 0.1}}}


def launched(stage: Any, **environment: str) -> subprocess.Popen[str]:
    """A process that trains a stage on two processes, as the command line does."""
    folder = stage.out.parent
    files.write_json(folder / "stage.json", launch._written(stage))
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path; from distill.core import files\n"
        "from distill.core.errors import DistillError\nfrom students import launch, train\n"
        f"stage = replace(launch._stage(files.read_json(Path({str(folder / 'stage.json')!r}))), launch='2')\n"
        "try:\n    train.run(stage)\n"
        "except DistillError as error:\n    print(f'distill: {error}', file=sys.stderr); sys.exit(error.exit_code)\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    _, told = process.communicate(timeout=200)
    return process.returncode, told.splitlines()


@pytest.mark.slow
def test_a_fault_in_the_processes_is_one_line(tmp_path: Path, tiny_model: Path) -> None:
    stage = stage_of(tmp_path, tiny_model, train_settings={**SETTINGS, "batch_size": 5})
    code, told = ended(launched(stage))
    assert code == 1
    assert [line for line in told if "5" in line] == [
        "distill: `train.batch_size` 5 is not a multiple of 2 rows x 2 processes; take 8, or another `--launch` or "
        "micro-batch"
    ]
    assert not any("Traceback" in line for line in told)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["checkpoint.half-written:2", "checkpoint.before-rename:2"])
def test_a_kill_of_processes_and_another_run_change_no_bit(tmp_path: Path, tiny_model: Path, point: str) -> None:
    """The first point is passed by both, the second by the leader alone, while the other waits for it."""
    whole = stage_of(tmp_path / "whole", tiny_model, train_settings=SETTINGS, student_settings=STUDENT)
    assert ended(launched(whole))[0] == 0
    stage = stage_of(tmp_path / "killed", tiny_model, train_settings=SETTINGS, student_settings=STUDENT)
    code, told = ended(launched(stage, DISTILL_CRASH_AT=point))
    assert code == 1
    assert re.fullmatch(r"distill: process [01] of 2 was killed by SIGKILL .*last checkpoint", told[-1])
    assert not any("Traceback" in line for line in told)
    assert [path.name for path in (stage.out / "work").glob("checkpoint-*")] == ["checkpoint-1"]

    assert ended(launched(stage))[0] == 0
    for name in ("history.json", "student/adapter_model.safetensors"):
        assert files.sha256_file(stage.out / name) == files.sha256_file(whole.out / name), name
    assert [path.name for path in (stage.out / "work").iterdir() if "partial" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_nobody_is_left_when_the_launcher_goes(
    tmp_path: Path, tiny_model: Path, number: signal.Signals, exit_code: int
) -> None:
    stage = stage_of(tmp_path, tiny_model, train_settings={**SETTINGS, "epochs": 2000}, student_settings=STUDENT)
    process = launched(stage)
    deadline = time.monotonic() + 120
    while not list((stage.out / "work").glob("checkpoint-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2
    process.send_signal(number)
    code, _ = ended(process)
    assert code == exit_code
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.slow
def test_what_two_processes_write_is_what_one_writes(tmp_path: Path, tiny_model: Path) -> None:
    """Packed too: the same files, weights apart by rounding only."""
    settings = {**SETTINGS, "packing": True, "loss": {"forward_kl": {"top_k": 4}}}
    one = stage_of(tmp_path / "one", tiny_model, train_settings=settings)
    train.run(one)
    two = stage_of(tmp_path / "two", tiny_model, train_settings=settings)
    assert ended(launched(two))[0] == 0
    names = [sorted(p.relative_to(s.out).as_posix() for p in (s.out / "student").rglob("*")) for s in (one, two)]
    assert names[0] == names[1]
    mine, theirs = (load_file(stage.out / "student" / "model.safetensors") for stage in (one, two))
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-5
