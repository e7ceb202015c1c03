"""First thing inside: take on the limits, give up root, and read what is to be done. Nothing foreign has run yet."""

from __future__ import annotations

import marshal
import os
import resource
import sys

TYPE_CHECKING = False  # mypy knows this name; importing `typing` would cost every program milliseconds
if TYPE_CHECKING:
    from typing import Any

READY = b"ready\n"
"""Written to stderr before anything foreign runs: its absence is a fault of the installation, never of an answer."""


def begin() -> dict[str, Any]:
    """Apply the limits that the setup names and return the setup: in the file whose number is argv[1], marshalled.

    Keys it reads: `cpu_s` (hard limit), `memory_mib`, `threads`, `uid` (None: stay), `packages` (folders for sys.path),
    `filter` (a system call filter as hex, None where the sandbox has set it already).
    """
    with os.fdopen(int(sys.argv[1]), "rb") as file:
        setup: dict[str, Any] = marshal.loads(file.read())  # the host's own
    sys.path[:] = [path for path in sys.path if path not in ("", setup["home"])] + setup["packages"]
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_FSIZE", 0)
    _limit("RLIMIT_MEMLOCK", 0)
    _limit("RLIMIT_MSGQUEUE", 0)
    _limit("RLIMIT_NOFILE", 64)
    _limit("RLIMIT_CPU", max(1, int(setup["cpu_s"])), spare=1)  # SIGXCPU ends it; SIGKILL if it will not hear that
    _limit("RLIMIT_AS", setup["memory_mib"] << 20)
    if setup["threads"] is not None:
        _limit("RLIMIT_NPROC", setup["threads"])
    if setup["uid"] is not None:
        os.setgroups([])
        os.setresgid(setup["uid"], setup["uid"], setup["uid"])
        os.setresuid(setup["uid"], setup["uid"], setup["uid"])
    if setup["filter"] is not None:
        _filter(bytes.fromhex(setup["filter"]))
    os.write(2, READY)
    return setup


def more_cpu(seconds: float) -> None:
    """Let this process use `seconds` of CPU time from now on, within its hard limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime + seconds + 0.999)
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard - 1), hard))


def _limit(name: str, most: int, spare: int = 0) -> None:
    kind = getattr(resource, name, None)
    if kind is None:
        return
    hard = resource.getrlimit(kind)[1]
    top = most + spare if hard == resource.RLIM_INFINITY else min(most + spare, hard)
    try:
        resource.setrlimit(kind, (min(most, top), top))
    except (ValueError, OSError):
        if sys.platform == "linux":
            raise  # elsewhere some limits are known and refused; the others remain


def _filter(program: bytes) -> None:
    """Set a system call filter on this process (Linux), and have it end with its parent: no way back."""
    import ctypes

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    parent_death, no_new_privileges, set_seccomp, mode_filter, kill = 1, 38, 22, 2, 9
    libc.prctl(parent_death, kill, 0, 0, 0)
    given = Filter(len(program) // 8, program)
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, mode_filter, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), "no system call filter")
