"""Functions run on several processes that meet over gloo, as torch elastic would start them.

The processes are forked from a server that has imported the libraries once and started no thread: a second each.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_S = 240
"""A process that hangs in a collective ends itself, and the test fails."""


def on_ranks(world: int, folder: Path, function: Callable[..., Any], *arguments: Any, **environment: str) -> list[Any]:
    """What `function(*arguments)` gives on each of `world` processes, by rank. It is a module's own function, and gives
    tensors and plain values. One process has no group and none of the environment that makes one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.students.test_trainer"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        about = {"OMP_NUM_THREADS": "1", **environment}
        if world > 1:
            about |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        process = context.Process(target=_one, args=(about, folder / f"{rank}.pt", function, arguments))
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * world
    import torch

    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _one(environment: dict[str, str], out: Path, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    faulthandler.dump_traceback_later(LONGEST_S, exit=True)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)
    try:
        torch.save(function(*arguments), out)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # at once: what this process leaves undone shall not hold up the others
    sys.stderr.flush()
    os._exit(0)
