"""The filter is a program that the kernel takes, for the machines it knows."""

from __future__ import annotations

import struct

import pytest

from distill.sandbox import seccomp

KILL, ALLOW, EPERM, ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026


def run(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """What the filter says of one call: a tiny machine for the few instructions it uses."""
    data = struct.pack("=IIQQ", number, architecture, 0, argument)
    steps = list(struct.iter_unpack("=HBBI", program))
    place = value = 0
    while True:
        code, yes, no, k = steps[place]
        place += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x06:
            return int(k)
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            place += yes if holds else no


@pytest.mark.parametrize(
    ("machine", "architecture", "clone"), [("x86_64", 0xC000003E, 56), ("aarch64", 0xC00000B7, 220)]
)
def test_threads_may_start_and_processes_may_not(machine: str, architecture: int, clone: int):
    program = seccomp.program(machine)

    assert run(program, architecture, clone, 0x3D0F00) == ALLOW  # what pthread_create asks for
    assert run(program, architecture, clone, 17) == EPERM
    assert run(program, architecture, 435) == ENOSYS


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        (0, ALLOW),
        (1, ALLOW),
        (231, ALLOW),
        (57, EPERM),
        (58, EPERM),
        (41, EPERM),
        (101, EPERM),
        (272, EPERM),
        (321, EPERM),
        (0x40000000 + 57, KILL),
    ],
)
def test_calls_on_x86_64(number: int, verdict: int):
    assert run(seccomp.program("x86_64"), 0xC000003E, number) == verdict


def test_a_foreign_convention_ends_the_process():
    assert run(seccomp.program("x86_64"), 0x40000003, 2) == KILL


def test_says_which_machines_it_knows():
    assert seccomp.known("x86_64") and seccomp.known("aarch64") and not seccomp.known("sparc")
