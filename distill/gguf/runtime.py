"""llama.cpp's server on one file, in a child process, so that a malformed file or a hang takes nothing else along.

The child listens on the loopback interface with a random key, writes what it has to say to a log file, and ends when
its parent closes it or dies. It ignores Ctrl-C; the parent decides.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill.core.device import usable_cores
from distill.core.errors import DistillError

START_TIMEOUT_S = 600.0
"""How long a model may take to load."""


SMALL_BYTES = 64 << 20
"""Files below this size run on one thread unless told otherwise."""


class ServerEnded(DistillError):
    """The child is gone; nothing more can be asked of it."""


@dataclass(frozen=True)
class RuntimeSettings:
    """How the server runs. `context` tokens for each of `slots` parallel answers.

    `threads` None is every core this process may use, and one for a small file: its operations are so short that
    threads would mostly wait for each other, and far longer where another process wants a core.
    `exact` turns flash attention and prompt reuse off and keeps keys and values in float32, which brings an F32 file's
    log-probabilities within 1e-4 of transformers'.
    """

    context: int
    slots: int = 1
    threads: int | None = None
    exact: bool = False


class Runtime:
    """A running server. Use as a context manager, or `close` it; `close` is safe to call twice and from any thread."""

    def __init__(
        self, model: Path, settings: RuntimeSettings, start_timeout_s: float = START_TIMEOUT_S, log: Path | None = None
    ) -> None:
        """Start the child and wait until the model is loaded. Its log is kept in `log`, if one is named.

        Raises ServerEnded with the last line of the child's log if it ends or takes longer than `start_timeout_s`.
        """
        self.model, self.settings = model, settings
        self._key = secrets.token_hex(16)
        opened = log.open("w+b") if log else tempfile.TemporaryFile(prefix="distill-llamacpp-")  # noqa: SIM115  close() does
        self._log = opened
        package = Path(__file__).resolve().parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "distill.gguf.runtime"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            # Without its own backtrace, which starts a debugger and holds an abort up for seconds.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "GGML_NO_BACKTRACE": "1"},
        )  # fmt: skip
        assert self._child.stdin is not None and self._child.stdout is not None
        try:
            asked = {"model": str(model.resolve()), "key": self._key, **asdict(settings)}
            self._child.stdin.write(json.dumps(asked).encode() + b"\n")
            self._child.stdin.flush()
            ready, _, _ = select.select([self._child.stdout], [], [], start_timeout_s)
            line = self._child.stdout.readline() if ready else b""
        except BrokenPipeError:
            ready, line = [self._child.stdout], b""
        except BaseException:  # Ctrl-C too: the child never outlives a failed start; raised again below
            self.close()
            raise
        if not line:
            reason = self._why() if ready else f"it was not loaded within {start_timeout_s:.0f} s"
            self.close()
            raise ServerEnded(f"{model}: llama.cpp cannot run it ({reason})")
        self.host, _, port = line.decode().strip().removeprefix("http://").rpartition(":")
        self.port = int(port)

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(BrokenPipeError):  # what was still to be written to a dead child
                    pipe.close()
        self._log.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def get(self, path: str) -> Any:
        """GET `path` and decode its JSON."""
        return self._json("GET", path, None, None)

    def post(self, path: str, body: dict[str, Any], timeout_s: float | None = None) -> Any:
        """POST JSON to `path` and decode the reply; any number of threads may ask at once.

        Raises DistillError with the server's own words for a refused request and for an answer that takes longer than
        `timeout_s`, ServerEnded with the end of its log if it has died.
        """
        return self._json("POST", path, body, timeout_s)

    def stream(self, path: str, body: dict[str, Any], timeout_s: float | None = None) -> Iterator[Any]:
        """POST JSON and yield the decoded server-sent events one by one. Leaving early ends the answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}), self._headers())
            reply = connection.getresponse()
            if reply.status != 200:
                raise DistillError(self._refusal(reply.status, reply.read()))
            for line in reply:
                if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                    yield json.loads(line.removeprefix(b"data: "))
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error, timeout_s) from error
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float | None) -> Any:
        # A connection a request: the server drops idle ones after a few seconds, which would look like its death.
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), self._headers())
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(error, timeout_s) from error
        finally:
            connection.close()
        if reply.status != 200:
            raise DistillError(self._refusal(reply.status, content))
        return json.loads(content)

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}", "Connection": "close"}

    def _refusal(self, status: int, content: bytes) -> str:
        try:
            message = json.loads(content)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = content[:200].decode(errors="replace")
        return f"{self.model}: llama.cpp's server refused a request ({status}: {message})"

    def _broken(self, error: Exception, timeout_s: float | None) -> DistillError:
        if isinstance(error, TimeoutError):
            return DistillError(f"{self.model}: llama.cpp gave no answer within {timeout_s} s")
        return ServerEnded(f"{self.model}: llama.cpp's server ended ({self._why()})")

    def _why(self) -> str:
        """The last line of the child's log, or how it ended."""
        try:
            code = self._child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            code = None
        if self._log.closed:
            return "it was closed"
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
        how = "" if code is None else f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return "; ".join(part for part in (lines[-1] if lines else "", how) if part) or "no word from it"


def _serve() -> None:
    """The child: read one line of settings, load, print the address, live until stdin closes or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    asked = json.loads(sys.stdin.readline())
    address = os.dup(1)
    os.dup2(2, 1)  # whatever llama.cpp prints goes to the log
    _load_openmp()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.api_keys = [asked["key"]]
    params.hostnames = ["127.0.0.1"]
    params.ui = False
    params.verbosity = 1
    params.warmup = False
    params.n_parallel = asked["slots"]
    params.n_ctx = asked["context"] * asked["slots"]
    params.n_threads_http = asked["slots"] + 4
    params.cache_ram_mib = 0
    params.cache_prompt = not asked["exact"]
    small = Path(asked["model"]).stat().st_size < SMALL_BYTES
    threads = asked["threads"] or (1 if small else usable_cores())
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if asked["exact"]:
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    os.write(address, f"{server.listening_address}\n".encode())
    while os.getppid() == parent:
        ready, _, _ = select.select([sys.stdin], [], [], 1.0)
        if ready and not sys.stdin.read(1):
            break
    os._exit(0)  # a clean shutdown would wait for answers in flight


def _load_openmp() -> None:
    """llama.cpp's libraries need OpenMP's runtime; where the system has none, torch brings one."""
    try:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        import torch  # noqa: F401 - loaded for its libgomp


if __name__ == "__main__":
    _serve()
