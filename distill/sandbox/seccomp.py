"""The system calls that a sandboxed program may not make, as a filter for the kernel (seccomp, classic BPF).

A program is one process: threads may be started, processes may not. That alone ends fork bombs, daemons and zombies,
and makes the limits on memory and CPU time, which hold for a process, hold for the program. Sockets, memory outside
the address space (shared segments, memory files), other processes and the kernel's rarer doors are refused as well.
A refused call fails with EPERM; a call in a foreign convention (32-bit on x86-64) ends the process.
"""

from __future__ import annotations

import struct

_ERRNO, _KILL, _ALLOW = 0x00050000, 0x80000000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_SHARED = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434,
    "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
"""Calls with one number on every machine."""

_MACHINES: dict[str, tuple[int, int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        56,
        {
            "fork": 57, "vfork": 58, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
            "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
            "name_to_handle_at": 303, "open_by_handle_at": 304, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250, "memfd_create": 319, "shmget": 29,
            "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "mq_open": 240, "socket": 41, "fanotify_init": 300,
            "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "swapon": 167,
            "reboot": 169, "personality": 135, "quotactl": 179, "acct": 163, "syslog": 103, "iopl": 172,
            "ioperm": 173, "modify_ldt": 154,
        },
    ),
    "aarch64": (
        0xC00000B7,
        220,
        {
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "mount": 40, "umount2": 39,
            "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "name_to_handle_at": 264,
            "open_by_handle_at": 265, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "add_key": 217,
            "request_key": 218, "keyctl": 219, "memfd_create": 279, "shmget": 194, "shmat": 196, "shmctl": 195,
            "semget": 190, "msgget": 186, "mq_open": 180, "socket": 198, "fanotify_init": 262, "init_module": 105,
            "finit_module": 273, "delete_module": 106, "kexec_load": 104, "swapon": 224, "reboot": 142,
            "personality": 92, "quotactl": 60, "acct": 89, "syslog": 116,
        },
    ),
}  # fmt: skip
"""Machine -> (its audit architecture, number of `clone`, numbers of the refused calls)."""


def known(machine: str) -> bool:
    """Whether there is a filter for `platform.machine()`."""
    return machine in _MACHINES


def program(machine: str) -> bytes:
    """The filter, as the kernel and `bwrap --seccomp` take it: struct sock_filter, one after another.

    Raises KeyError for a machine that is not `known`.
    """
    architecture, clone, refused = _MACHINES[machine]
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture of this call
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # its number
    ]
    if machine == "x86_64":
        steps += [(_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    steps += [
        (_JUMP_EQUAL, 0, 1, 435),  # clone3 hides its flags in memory; without it the C library uses clone
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_JUMP_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, 16),  # low half of its first argument: the flags
        (_JUMP_SET, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
    ]
    for number in (*_SHARED.values(), *refused.values()):
        steps += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
