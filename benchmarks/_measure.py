"""Run a command and account for it: wall and CPU seconds, peak memory of its process tree, load of the machine."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Usage:
    """What one command took. `peak_gib`: largest sum of resident memory over its process tree, 10 looks a second."""

    code: int
    wall_s: float
    cpu_s: float
    peak_gib: float
    load_before: float
    load_after: float
    output: str


def measure(command: Sequence[str], cwd: str | None = None, env: dict[str, str] | None = None) -> Usage:
    """Run to the end. CPU seconds are those of the process and all its children, from the system's own accounting."""
    before, load = os.times(), os.getloadavg()[0]
    began_s = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    wall_s = time.perf_counter() - began_s
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Usage(process.returncode, wall_s, cpu_s, peak[0] / 2**30, load, os.getloadavg()[0], output)


def _watch(pid: int, peak: list[int]) -> None:
    while True:
        try:
            root = psutil.Process(pid)
            tree = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(_resident(process) for process in tree))
        except psutil.NoSuchProcess:
            return
        time.sleep(0.1)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # it ended between the two looks
        return 0
