"""The test Hub as tests hold it: started, told its faults, asked what it saw, ended; and commands run against it."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import small

ROOT = Path(__file__).resolve().parents[2]
WRITER, READER = "hf_WriterOfTests0123456789abcdefghij", "hf_ReaderOfTests0123456789abcdefghij"
"""Tokens of the owner `you`."""


@dataclass
class HubProcess:
    """A running server."""

    process: subprocess.Popen[str]
    hub: str
    storage: str
    folder: Path
    warm: subprocess.Popen[str] | None = None

    @classmethod
    def start(cls, folder: Path, *more: str) -> HubProcess:
        """Start one on free ports; its blobs lie in `folder`."""
        tokens = [f"--token={WRITER}=you:write", f"--token={READER}=you:read"]
        command = [sys.executable, "-m", "tests.publish.hub_server", str(folder), *tokens, *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        return cls(process, said["hub"], said["storage"], folder)

    def close(self) -> None:
        """End it."""
        if self.warm is not None:
            self.warm.communicate()
        self.process.kill()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def fail(self, *plans: Mapping[str, Any]) -> None:
        """What goes wrong from now on; see `hub_server`."""
        self._call("PUT", "/_control/faults", plans)

    def log(self) -> list[dict[str, Any]]:
        """All requests since `forget`."""
        found: list[dict[str, Any]] = self._call("GET", "/_control/log")
        return found

    def forget(self) -> None:
        """Empty the log, and plan no faults."""
        self.fail()
        self._call("DELETE", "/_control/log")

    def state(self, id: str, kind: str = "model") -> dict[str, Any]:
        """Files of the head with their SHA-256, commits from the newest on, tags, visibility."""
        found = self._call("GET", f"/_control/repo/{kind}/{id}")
        assert found is not None, f"no {kind} {id}"
        state: dict[str, Any] = found
        return state

    def has(self, id: str, kind: str = "model") -> bool:
        """Whether there is such a repository."""
        return self._call("GET", f"/_control/repo/{kind}/{id}") is not None

    def make(self, id: str, files: Mapping[str, bytes | None], kind: str = "model", **more: Any) -> str:
        """Add a commit to a repository (made where it is not there), as somebody else would; returns its hash."""
        coded = {path: None if text is None else base64.b64encode(text).decode() for path, text in files.items()}
        made: str = self._call("PUT", "/_control/repo", {"id": id, "kind": kind, "files": coded, **more})["sha"]
        return made

    def back(self, id: str, sha: str, kind: str = "model") -> None:
        """Make this commit the head again."""
        self._call("PUT", "/_control/head", {"id": id, "kind": kind, "sha": sha})

    def content(self, id: str, path: str, kind: str = "model") -> bytes:
        """A file of the head."""
        return (self.folder / "objects" / self.state(id, kind)["files"][path]["sha256"]).read_bytes()

    def sent(self) -> int:
        """Bytes of large files that came into storage since `forget`, whole or not."""
        return sum(note["bytes"] for note in self.log() if note["storage"] and note["asked"].startswith("PUT"))

    def environment(self, home: Path, token: str | None = WRITER, **more: str) -> dict[str, str]:
        """What the command line needs to talk to this Hub and to nobody else."""
        return {
            "HF_ENDPOINT": self.hub, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", **more,
        }  # fmt: skip

    def run(
        self, folder: Path, *words: str, token: str | None = WRITER, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """`distill WORDS` in `folder` with this Hub, whole: start-up, our own waits and all."""
        return small.run(folder, *words, env=self.environment(folder / "hf-home", token, **more))

    def quickly(self, folder: Path, *words: str, token: str | None = WRITER) -> subprocess.CompletedProcess[str]:
        """As `run`, without the start-up and the waits between our own tries; see `warm`."""
        if self.warm is None:
            environment = {**small.environment(self.environment(self.folder / "hf-home")), "PYTHONPATH": str(ROOT)}
            self.warm = subprocess.Popen(
                [sys.executable, "-m", "tests.publish.warm"],
                cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self.warm.stdin is not None and self.warm.stdout is not None
        out, err = folder / "last.out", folder / "last.err"
        task = {"argv": words, "cwd": str(folder), "env": {"HF_TOKEN": token or ""}, "out": str(out), "err": str(err)}
        self.warm.stdin.write(json.dumps(task) + "\n")
        self.warm.stdin.flush()
        code = int(self.warm.stdout.readline())
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.hub + path, data=data, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return json.loads(reply.read())
