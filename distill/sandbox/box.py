"""Starts a program in a sandbox: bubblewrap, or (only where it is asked for by name) a bare subprocess.

In bubblewrap a program has its own process ids, network (none), IPC, host name and mounts. Its root is read-only and
holds Python's standard library, the C libraries and four devices: no /proc, no /etc, nothing that can be written. Its
environment is four fixed variables. As an ordinary user it lives in a user namespace of its own; started by root it
gives root up for a user id that nobody else has. System calls that it does not need are refused
(`distill.sandbox.seccomp`), so a program is one process. `inside/confine.py` sets the limits.

A bare subprocess has the same limits, environment and system call filter, but sees (and may remove) the user's files.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import marshal
import os
import platform
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from distill.core.errors import DistillError
from distill.sandbox import seccomp
from distill.sandbox.inside.confine import READY

Kind = Literal["bubblewrap", "subprocess"]
Role = Literal["candidate", "judge"]

INSTALL = "apt-get install bubblewrap (Debian, Ubuntu), dnf install bubblewrap (Fedora)"
START_S = 60.0
"""A sandbox that has not begun by then will not."""
STDERR_BYTES = 4096
"""Of what a program writes to stderr, this much of the end is kept."""
THREADS = 64
_FIRST_UID = 0x70000000
_ROOT = Path(__file__).parents[2]
_LIBRARIES = ("lib", "lib32", "lib64", "libx32")
_BASE = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
"""Where Python itself is, which a virtual environment is not."""
_INSIDE = "distill/sandbox/inside"
_ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}


class Unavailable(DistillError):
    """The sandbox cannot be used here."""

    exit_code = 2


class Broken(Exception):
    """A sandbox did not start: a fault of the machine, not of the program in it."""


@dataclass(frozen=True)
class Limits:
    """What one program may use. CPU seconds are whole (rounded up); wall time is the backstop for one that sleeps."""

    cpu_s: float
    wall_s: float
    memory_mib: int
    output_mib: float


@dataclass(frozen=True)
class Ended:
    """How a program ended: within its limits (`over` is empty), or over which."""

    over: str
    status: int
    """Exit status; 128 + n where signal n ended it."""
    stderr: bytes

    def reason(self) -> str:
        """In words; empty for a program that ran to its end."""
        if self.over:
            return self.over
        last = self.stderr.rstrip().rpartition(b"\n")[2].decode(errors="replace")
        if self.status == 1 and last.startswith("raised "):
            return f"raised {word(last.removeprefix('raised '))}"
        if self.status > 128:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(self.status - 128).name}"
        return f"ended with status {self.status}" if self.status else ""


def word(name: object) -> str:
    """A name that a program gave, fit to be shown."""
    return name[:80] if isinstance(name, str) and name.isidentifier() and name.isascii() else "something"


class Box:
    """A way to start sandboxed programs. Thread-safe. `packages`: whether they may import what is installed here."""

    def __init__(self, kind: Kind, mode: Literal["user namespace", "root", "bare"], packages: bool = False) -> None:
        self.kind, self.mode, self.packages = kind, mode, packages
        self._uids = itertools.count(_FIRST_UID + secrets.randbelow(1 << 24))
        self._filter = seccomp.program(platform.machine()) if seccomp.known(platform.machine()) else b""

    @functools.cached_property
    def _command(self) -> tuple[str, ...]:
        return _bubblewrap(self.mode == "root", self.packages)

    def start(
        self, role: Role, setup: dict[str, Any], limits: Limits, stdin: bytes | None = None, cases: int = 1
    ) -> Guest:
        """Start `role` with its setup. `stdin`: what it reads there; None for a conversation (`say`, `line`).

        `cases`: how many times `limits.cpu_s` it may use in all, where it deals with several.

        Raises Broken if the operating system refuses.
        """
        drop = self.mode == "root"
        own = {
            "home": str(_ROOT),
            "cpu_s": int(limits.cpu_s * cases + 0.999),
            "memory_mib": limits.memory_mib,
            "threads": None if self.mode == "bare" else THREADS,
            "uid": next(self._uids) if drop else None,
            "packages": _package_folders() if self.packages else [],
            "filter": self._filter.hex() if self.mode == "bare" and sys.platform == "linux" and self._filter else None,
        }
        folder: str | None = None
        with contextlib.ExitStack() as files:
            try:
                told = files.enter_context(_file(marshal.dumps(setup | own)))
                given = None if stdin is None else files.enter_context(_file(stdin))
                if self.mode == "bare":
                    folder = tempfile.mkdtemp(prefix="distill-answer-")
                    command, passed = [_python(), *_flags(role, _ROOT), str(told.fileno())], [told.fileno()]
                else:
                    rules = files.enter_context(_file(self._filter))
                    command = [*self._command, "--seccomp", str(rules.fileno())]
                    command += ["--", _python(), *_flags(role, _ROOT), str(told.fileno())]
                    passed = [told.fileno(), rules.fileno()]
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE if given is None else given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=passed,
                    env=_ENVIRONMENT,
                    cwd=folder or "/",
                    start_new_session=True,
                )
            except OSError as error:
                if folder:
                    shutil.rmtree(folder, ignore_errors=True)
                raise Broken(f"a sandbox cannot be started: {error}") from error
        return Guest(process, limits, folder)


class Guest:
    """A started program. One thread talks to it; any thread may `kill` it."""

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits, folder: str | None) -> None:
        self._process, self._limits, self._folder = process, limits, folder
        self._heard, self._errors = bytearray(), bytearray()
        self._began = False
        self._over = ""
        self._ended: Ended | None = None
        self._lock = threading.Lock()
        assert process.stdout is not None and process.stderr is not None
        self._selector = selectors.DefaultSelector()
        for pipe in (process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)

    @property
    def ended(self) -> Ended | None:
        """How it ended; None while nobody has seen it end."""
        return self._ended

    def output(self) -> bytes:
        """All that it prints until it ends, as far as its limits let it. Then `ended` says how."""
        self.begin()
        deadline = time.monotonic() + self._limits.wall_s
        while self._read(deadline):
            pass
        self.end()
        return bytes(self._heard)

    def begin(self) -> None:
        """Wait until it is about to run what is foreign: its own time starts then, however slow the machine is.

        Raises Broken if it does not come to that.
        """
        deadline = time.monotonic() + START_S
        while not self._began and self._read(deadline):
            pass
        if not self._began:
            self.end()

    def say(self, line: bytes, deadline: float) -> bool:
        """Send a line. False if it ended, or reads nothing until `deadline` (time.monotonic)."""
        pipe = self._process.stdin
        assert pipe is not None
        left = memoryview(line)
        while left and self._ended is None:
            try:
                left = left[os.write(pipe.fileno(), left) :]
            except BlockingIOError:
                if not _writable(pipe, deadline):
                    self._stop(f"over {self._limits.wall_s:g} s")
            except OSError:
                break
        return not left

    def line(self, deadline: float) -> bytes | None:
        """Its next line, with the line end. None if it ended without one, or said none before `deadline`."""
        searched = 0
        while True:
            found = self._heard.find(b"\n", searched)
            if found >= 0:
                line = bytes(self._heard[: found + 1])
                del self._heard[: found + 1]
                return line
            searched = len(self._heard)
            if not self._read(deadline):
                self.end()
                return None

    def end(self) -> Ended:
        """End it, and all that it started, if it has not ended by itself; say how it ended. Safe to call twice.

        Raises Broken if it never began.
        """
        with self._lock:
            if self._ended is not None:
                return self._ended
            if self._selector.get_map():
                self._kill()
            try:
                status = self._process.wait(self._limits.wall_s)
            except subprocess.TimeoutExpired:  # it closed its pipes and stayed
                self._over = f"over {self._limits.wall_s:g} s"
                self._kill()
                status = self._process.wait()
            self._drain()
            self._selector.close()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            if self._folder is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)  # what it left behind in its group
                shutil.rmtree(self._folder, ignore_errors=True)
            if not self._began:
                said = self._errors.decode(errors="replace").strip().rpartition("\n")[2]
                self._ended = Ended("", status, b"")
                raise Broken(f"a sandbox did not begin (status {status}): {said[:200] or 'no message'}")
            over = self._over
            if not over and status in (128 + signal.SIGXCPU, -signal.SIGXCPU):
                over = f"over {self._limits.cpu_s:g} s of CPU time"
            self._ended = Ended(over, 128 - status if status < 0 else status, bytes(self._errors))
            return self._ended

    def kill(self) -> None:
        """End it from another thread: whoever talks to it finds it ended."""
        self._kill()

    def _stop(self, over: str) -> None:
        self._over = over
        with contextlib.suppress(Broken):  # whoever asks next is told so by `end`
            self.end()

    def _kill(self) -> None:
        if self._process.poll() is not None:
            return  # its number may be another's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # bubblewrap's init dies with it, and the namespace with that
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _drain(self) -> None:
        """Until every process of it has let go of its pipes, a short while at most."""
        deadline = time.monotonic() + 5.0
        while self._selector.get_map() and time.monotonic() < deadline:
            for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
                try:
                    chunk = os.read(key.fd, 1 << 16)
                except BlockingIOError:
                    continue
                if not chunk:
                    self._selector.unregister(key.fileobj)
                elif key.fileobj is self._process.stderr:
                    self._note(chunk)
                elif len(self._heard) <= self._most_bytes:
                    self._heard += chunk

    @property
    def _most_bytes(self) -> int:
        return int(self._limits.output_mib * (1 << 20))

    def _note(self, chunk: bytes) -> None:
        self._errors += chunk
        if not self._began and READY in self._errors:
            self._began = True
            del self._errors[: self._errors.index(READY) + len(READY)]
        del self._errors[:-STDERR_BYTES]

    def _read(self, deadline: float) -> bool:
        """Take in what there is. False when it has ended, or was ended for a limit."""
        if self._ended is not None or not self._selector.get_map():
            return False
        ready = self._selector.select(max(0.0, deadline - time.monotonic()))
        if not ready and time.monotonic() >= deadline:
            if self._began:
                self._over = f"over {self._limits.wall_s:g} s"
            return False
        for key, _ in ready:
            try:
                chunk = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            if not chunk:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._process.stderr:
                self._note(chunk)
            else:
                self._heard += chunk
                if len(self._heard) > self._most_bytes:
                    self._over = f"over {self._limits.output_mib:g} MiB of output"
                    return False
        return True


def open_box(kind: Kind, *, packages: bool = False) -> Box:
    """A box that has been seen to work.

    Raises Unavailable where bubblewrap is missing (with its install line) or may not make namespaces here.
    """
    if kind == "subprocess":
        return Box("subprocess", "bare", packages)
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        raise Unavailable(
            f"the code verifier runs programs in bubblewrap, and there is no `bwrap` here; install it: {INSTALL}; or "
            "set `sandbox: subprocess`, which lets model-written programs touch your files"
        )
    if not seccomp.known(platform.machine()):
        raise Unavailable(f"there is no system call filter for {platform.machine()}; the code verifier cannot run here")
    faults = []
    modes: list[Literal["root", "user namespace"]] = (
        ["root", "user namespace"] if os.geteuid() == 0 else ["user namespace"]
    )
    for mode in modes:
        box = Box("bubblewrap", mode, packages)
        fault = _fault(box)
        if fault is None:
            return box
        faults.append(f"as {mode}: {fault}")
    raise Unavailable(
        f"bubblewrap is installed but cannot make a sandbox here ({'; '.join(faults)}); inside a container it needs "
        "leave to create namespaces"
    )


def _fault(box: Box) -> str | None:
    """Why the box does not work; None if a program in it answers."""
    setup = {"style": "script", "program": "print(6 * 7)"}
    try:
        guest = box.start("candidate", setup, Limits(5, 30, 512, 1), stdin=b"")
        said = guest.output()
    except Broken as error:
        return str(error)
    return None if said == b"42\n" else f"a program printed {said[:80]!r} ({guest.end().reason()})"


def _python() -> str:
    return str(Path(sys.executable).resolve())


def _flags(role: Role, root: Path) -> list[str]:
    start = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from {_INSIDE.replace('/', '.')}.{role} import main; main()"
    )
    return ["-P", "-s", "-S", "-c", start]


def _bubblewrap(drop: bool, packages: bool) -> tuple[str, ...]:
    """The command line up to the system call filter."""
    command = ["bwrap", "--die-with-parent", "--new-session"]
    command += ["--unshare-ipc", "--unshare-net", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if drop else ["--unshare-user"]
    command[0] = shutil.which("bwrap") or "bwrap"
    made: set[Path] = {Path("/")}
    seen: list[str] = []

    def bind(source: Path, how: str = "--ro-bind") -> None:
        parents = [parent for parent in reversed(source.parents) if parent not in made]
        for parent in parents:
            made.add(parent)
            seen.extend(["--dir", str(parent)])  # readable by all, whatever the outer folder is
        seen.extend([how, str(source), str(source)])

    for path in (Path("/", name) for name in _LIBRARIES):
        if path.is_symlink():
            seen.extend(["--symlink", str(path.readlink()), str(path)])
            made.add(path)
    for path in _needed_files():
        bind(path)
    hidden: list[str] = []
    for folder in _package_folders():
        within = any(Path(folder).is_relative_to(path) for path in _needed_files())
        if within and not packages:
            hidden.append(folder)
            seen.extend(["--tmpfs", folder])
        elif packages and not within:
            bind(Path(folder))
    bind(_ROOT / _INSIDE)
    for device in ("null", "zero", "random", "urandom"):
        bind(Path("/dev", device), "--dev-bind")
    for folder in (*hidden, "/"):
        seen.extend(["--remount-ro", folder])
    return (*command, *seen, "--chdir", "/")


def _needed_files() -> list[Path]:
    """Python itself, its standard library, and the C libraries; none inside another."""
    paths = [Path(_python()), *(Path(sysconfig.get_path(name, vars=_BASE)) for name in ("stdlib", "platstdlib"))]
    library = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        paths += sorted(library.glob("libpython3*.so*"))
    paths += [Path("/usr", name) for name in _LIBRARIES]
    paths += [Path("/", name) for name in _LIBRARIES if not Path("/", name).is_symlink()]
    paths.append(Path("/etc/ld.so.cache"))
    paths = sorted({path for path in paths if path.exists()})
    return [path for path in paths if not any(other != path and path.is_relative_to(other) for other in paths)]


def _package_folders() -> list[str]:
    """Where this environment's packages are."""
    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    folders += [sysconfig.get_path(name, vars=_BASE) for name in ("purelib", "platlib")]
    return [folder for folder in dict.fromkeys(folders) if Path(folder).is_dir()]


def _file(content: bytes) -> IO[bytes]:
    """A file without a name that holds `content`, ready to be read."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(content)
    file.flush()
    file.seek(0)
    return file


def _writable(pipe: IO[bytes], deadline: float) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_WRITE)
        return bool(selector.select(max(0.0, deadline - time.monotonic())))
