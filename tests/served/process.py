"""The fault server as tests and benchmarks hold it: started, told its plans, asked what it saw, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class FaultServer:
    """A running server. Each name is an endpoint of its own, with its own plan and counts."""

    process: subprocess.Popen[str]
    address: str

    @classmethod
    def start(cls, seed: int = 0, *more: str) -> FaultServer:
        """Start one on a free port."""
        command = [sys.executable, "-m", "tests.served.fault_server", "--seed", str(seed), *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return cls(process, process.stdout.readline().strip())

    def close(self) -> None:
        """End it, so that it writes its figures."""
        self.process.terminate()
        self.process.wait(timeout=30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def url(self, name: str) -> str:
        """Base URL of an endpoint, as clients of such servers are given it."""
        return f"{self.address}/{name}/v1"

    def plan(self, name: str, **plan: Any) -> str:
        """Set an endpoint's plan, with counts at zero; returns its URL."""
        self._call("PUT", f"/{name}/plan", plan)
        return self.url(name)

    def stats(self, name: str, *, full: bool = False) -> dict[str, Any]:
        """What the endpoint saw so far, and `cpu_s` of the whole server."""
        return self._call("GET", f"/{name}/stats" + ("?full" if full else ""))

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as reply:
            result: dict[str, Any] = json.loads(reply.read())
        return result
