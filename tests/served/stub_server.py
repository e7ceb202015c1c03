"""A tiny OpenAI-compatible server in a thread: it answers as it is told to and keeps what it was asked.

For tests of one behaviour at a time; `fault_server` is the big one, in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from distill.core.protocols import Request
from distill.core.records import Message, Sampling

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


def good(text: str = "42", **more: Any) -> Answer:
    """A plain answer."""
    whole = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13},
    }
    return 200, {"content-type": "application/json"}, json.dumps(whole).encode()


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    """An error in OpenAI's form."""
    body = json.dumps({"error": {"message": message}}).encode()
    return status, {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}, body


@dataclass
class Stub:
    """A running server. `answer` gets the path and the decoded body; `asked` holds both, with the headers."""

    answer: Callable[[str, Any], Answer]
    delay_s: float = 0.0
    asked: list[tuple[str, Any, dict[str, str]]] = field(default_factory=list)
    port: int = 0
    most_at_once: int = 0
    _at_once: int = 0

    @property
    def url(self) -> str:
        """Base address of the API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def bodies(self) -> list[Any]:
        """What was asked of the two APIs that answer."""
        return [body for path, body, _ in self.asked if path.endswith("/completions")]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                path = first.split()[1]
                body = json.loads(content) if content else None
                self.asked.append((path, body, headers))
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                await asyncio.sleep(self.delay_s)
                status, more, reply = self.answer(path, body)
                self._at_once -= 1
                more = {"content-length": str(len(reply)), **more}
                writer.write(f"HTTP/1.1 {status} X\r\n".encode())
                writer.write("".join(f"{name}: {value}\r\n" for name, value in more.items()).encode() + b"\r\n" + reply)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()


@contextmanager
def serving(answer: Callable[[str, Any], Answer] = lambda path, body: good(), delay_s: float = 0.0) -> Iterator[Stub]:
    """A stub that runs while the block does."""
    stub = Stub(answer, delay_s)
    ready, loop = threading.Event(), asyncio.new_event_loop()

    async def run() -> None:
        server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, limit=1 << 22)
        stub.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await stop.wait()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    ready.wait()
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def requests(n: int, **sampling: Any) -> list[Request]:
    """Requests with keys as the ledger makes them."""
    from distill.core.config import digest

    asked = Sampling(**{"max_tokens": 64, **sampling})
    return [Request(digest(["stub", i]), (Message("user", f"What is {i}*7?"),), asked) for i in range(n)]
