"""What a program in the sandbox sees and may do; what becomes of a sandbox that does not start."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.sandbox import box as box_module
from distill.sandbox.box import Box, Broken, Limits, Unavailable, open_box

LIMITS = Limits(cpu_s=2, wall_s=20, memory_mib=300, output_mib=1)


def run(box: Box, program: str, limits: Limits = LIMITS, stdin: bytes = b"") -> tuple[str, str]:
    """What a program printed and how it ended."""
    guest = box.start("candidate", {"style": "script", "program": program}, limits, stdin)
    printed = guest.output()
    return printed.decode(), guest.end().reason()


def value(box: Box, expression: str) -> Any:
    printed, reason = run(box, f"import os, sys, resource\nprint(repr({expression}))")
    assert not reason
    return ast.literal_eval(printed)


def test_the_root_holds_python_and_nothing_of_the_users(box: Box):
    seen = set(value(box, "os.listdir('/')"))

    assert "proc" not in seen and "sys" not in seen
    assert value(box, "sorted(os.listdir('/dev'))") == ["null", "random", "urandom", "zero"]
    assert value(box, "os.path.exists('/etc/passwd')") is False
    places = "('/', '/dev', '/usr/lib', os.path.dirname(os.__file__))"
    assert value(box, f"[f for f in {places} if os.access(f, os.W_OK)]") == []
    assert value(box, f"all(os.statvfs(f).f_flag & os.ST_RDONLY for f in {places})") is True


def test_the_environment_is_not_inherited(box: Box, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")

    assert set(value(box, "dict(os.environ)")) == {*box_module._ENVIRONMENT, "PWD"}


def test_it_is_nobody_with_nothing(box: Box):
    assert value(box, "os.getuid()") == os.getuid() or os.getuid() == 0
    if box.mode == "root":
        assert value(box, "os.getuid()") >= 0x70000000
    assert value(box, "os.getppid()") == 1
    assert value(box, "[resource.getrlimit(k) for k in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)]") == [(0, 0)] * 2
    assert value(box, "resource.getrlimit(resource.RLIMIT_AS)") == (300 << 20, 300 << 20)


def test_each_box_of_root_has_a_user_id_of_its_own(box: Box):
    if box.mode != "root":
        pytest.skip("root only")
    assert value(box, "os.getuid()") != value(box, "os.getuid()")


def test_the_standard_library_is_there_and_packages_only_on_request(box: Box):
    program = "import json, re, decimal, ctypes, sqlite3, zlib\nimport numpy\nprint(int(numpy.arange(3).sum()))"

    assert run(box, program) == ("", "raised ModuleNotFoundError")
    assert run(Box("bubblewrap", box.mode, packages=True), program, Limits(20, 60, 2048, 1)) == ("3\n", "")


def test_stdin_stdout_and_exit(box: Box):
    assert run(box, "print(input()[::-1])\nexit()", stdin=b"abc\n") == ("cba\n", "")
    assert run(box, "import sys; sys.exit(3)")[1] == "ended with status 3"
    assert run(box, "1/0") == ("", "raised ZeroDivisionError")
    assert run(box, "import threading as t; x = t.Thread(target=print, args=(5,)); x.start(); x.join()") == ("5\n", "")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("while True: pass", "over 1 s of CPU time"),
        ("import time; time.sleep(100)", "over 2 s"),
        ("while True: print('x' * 10**5)", "over 1 MiB of output"),
        ("bytearray(10 << 30)", "raised MemoryError"),
        ("open('/tmp/x', 'w')", "raised"),  # not there, or read-only where this package lies below it
        ("open('/x', 'w')", "raised"),
        ("import os; os.fork()", "raised PermissionError"),
        ("import socket; socket.socket()", "raised PermissionError"),
    ],
)
def test_limits(box: Box, program: str, reason: str):
    start = time.monotonic()

    assert run(box, program, Limits(1, 2 if "sleep" in program else 20, 300, 1))[1].startswith(reason)
    assert time.monotonic() - start < 25


def test_in_a_user_namespace_too(box: Box):
    """Root has two ways; an ordinary user has this one."""
    inner = Box("bubblewrap", "user namespace")

    if box_module._fault(inner) is not None:
        pytest.skip(f"no user namespaces here: {box_module._fault(inner)}")
    assert run(inner, "import os\ntry: os.kill(1, 9)\nexcept OSError: pass\nprint(os.listdir('/dev/'))")[0]
    assert run(inner, "import os; os.setuid(12345)")[1].startswith("raised")


def test_as_an_ordinary_user(box: Box):
    python = Path(f"/usr/bin/python3.{sys.version_info[1]}")
    root = Path(box_module.__file__).parents[2]
    if os.geteuid() != 0 or not python.exists():
        pytest.skip("needs root, to become another user, and a Python that all may read")
    program = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from distill.sandbox.box import open_box, Limits\n"
        "box = open_box('bubblewrap')\n"
        "setup = {'style': 'script', 'program': 'import os; print(os.getuid())'}\n"
        "guest = box.start('candidate', setup, Limits(2, 20, 300, 1), b'')\n"
        "print(box.mode, guest.output())"
    )

    done = subprocess.run(
        [python, "-B", "-c", program], user=65534, group=65534, cwd="/", capture_output=True, text=True
    )

    if "PermissionError" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("that user may not read this checkout")
    assert done.stdout == "user namespace b'65534\\n'\n", done.stderr


def test_a_bare_subprocess_has_the_limits_too_and_leaves_no_folder():
    bare = open_box("subprocess")

    assert set(value(bare, "dict(os.environ)")) <= {*box_module._ENVIRONMENT, "LC_CTYPE"}
    folder = value(bare, "os.getcwd()")
    assert "distill-answer-" in folder and not Path(folder).exists()
    assert run(bare, "while True: pass", Limits(1, 30, 300, 1))[1] == "over 1 s of CPU time"
    silent = "import os, time\nfor n in range(64):\n    try: os.close(n)\n    except OSError: pass\ntime.sleep(100)"
    assert run(bare, silent, Limits(1, 2, 300, 1))[1] == "over 2 s"
    if sys.platform == "linux":
        assert run(bare, "import os; os.fork()")[1] == "raised PermissionError"


def test_without_bubblewrap_it_refuses_with_the_install_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box_module.shutil, "which", lambda name: None)

    with pytest.raises(Unavailable, match="apt-get install bubblewrap"):
        open_box("bubblewrap")


def test_a_bubblewrap_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box_module.shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(box_module.sys, "platform", "linux")

    with pytest.raises(Unavailable, match="cannot make a sandbox here"):
        open_box("bubblewrap")


def test_a_sandbox_that_does_not_begin_is_a_fault_of_the_machine(box: Box, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(box_module, "_python", lambda: "/nowhere/python")

    with pytest.raises(Broken, match="did not begin"):
        run(box, "print(1)")


def test_a_guest_can_be_killed_from_another_thread(box: Box):
    guest = box.start("candidate", {"style": "script", "program": "while True: pass"}, LIMITS, b"")
    threading.Timer(0.5, guest.kill).start()
    start = time.monotonic()

    guest.output()

    assert time.monotonic() - start < 10
    assert guest.end().status == 128 + signal.SIGKILL


@pytest.mark.parametrize("kind", ["bubblewrap", "subprocess"])
def test_a_program_dies_with_a_caller_that_is_killed(box: Box, kind: str, tmp_path: Path):
    if sys.platform != "linux":
        pytest.skip("Linux only")
    program = (
        "from distill.sandbox.box import open_box, Limits\n"
        "setup = {'style': 'script', 'program': 'import time; time.sleep(1000)'}\n"
        f"guest = open_box({kind!r}).start('candidate', setup, Limits(60, 600, 300, 1), b'')\n"
        "guest._read(__import__('time').monotonic() + 60)\n"
        "print(guest._process.pid, flush=True)\n"
        "input()"
    )
    root = Path(box_module.__file__).parents[2]
    caller = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # whoever is killed leaves an empty folder behind
    )
    assert caller.stdin is not None and caller.stdout is not None
    with caller.stdin, caller.stdout:
        guest = psutil.Process(int(caller.stdout.readline()))
        family = [guest, *guest.children(recursive=True)]
        caller.kill()
        caller.wait()

        gone, alive = psutil.wait_procs(family, timeout=10)

    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    assert len(gone) + len(alive) >= (3 if kind == "bubblewrap" else 1)
