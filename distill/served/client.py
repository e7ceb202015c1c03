"""One try over HTTP: sent once, read whole or as a stream of events, timed, and every fault given its name."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from distill.served.faults import Fault, masked, refused
from distill.served.wire import Api, Stream, decoded

if TYPE_CHECKING:
    import httpx2

CONNECTIONS = 32
"""Connections that one client holds: the library's pool looks through all of them for every request."""


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a connection, for the first event of a stream (and each next one), for the whole answer."""

    connect_s: float = 10.0
    first_token_s: float = 600.0
    total_s: float = 3600.0


def is_loopback(url: str) -> bool:
    """Whether the URL means this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")


class Client:
    """HTTP connections. Lives in one event loop."""

    def __init__(
        self, headers: Mapping[str, str], secrets: Sequence[str], timeouts: Timeouts, concurrency: int = 1
    ) -> None:
        self._headers = {"content-type": "application/json", "accept-encoding": "gzip, deflate", **headers}
        self._secrets, self._timeouts = secrets, timeouts
        self._width = -(-concurrency // CONNECTIONS)
        self._clients: dict[str, list[httpx2.AsyncClient]] = {}
        self._turn = 0

    async def close(self) -> None:
        """Close all connections."""
        for client in [client for clients in self._clients.values() for client in clients]:
            await client.aclose()
        self._clients = {}

    def _client(self, url: str) -> httpx2.AsyncClient:
        """The next of the clients that are kept for this URL."""
        import httpx2

        if url not in self._clients:
            timeouts = self._timeouts
            self._clients[url] = [
                httpx2.AsyncClient(
                    headers=self._headers,
                    timeout=httpx2.Timeout(None, connect=timeouts.connect_s),
                    limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
                    trust_env=not is_loopback(url),  # a proxy of the environment is for the world outside
                )
                for _ in range(self._width)
            ]
        self._turn += 1
        return self._clients[url][self._turn % self._width]

    async def get(self, url: str) -> Any:
        """GET and decode JSON. Raises Fault."""
        async with self._named():
            reply = await self._client(url).get(url)
        return self._whole(reply)

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """POST JSON and decode the whole reply. Raises Fault."""
        content = json.dumps(body).encode()
        async with self._named():
            reply = await self._client(url).post(url, content=content)
        return self._whole(reply)

    async def stream(self, url: str, body: dict[str, Any], api: Api) -> Any:
        """POST JSON and put the events of the reply together. A server that does not stream is read whole."""
        content = json.dumps(body).encode()
        whole = Stream(api)
        async with self._named(), self._client(url).stream("POST", url, content=content) as reply:
            if reply.status_code != 200 or "event-stream" not in reply.headers.get("content-type", ""):
                await reply.aread()
                return self._whole(reply)
            async for event in self._events(reply):
                whole.add(event)
        if not whole.finished:
            raise Fault("half body", "the stream ended before the answer did", at_endpoint=True)
        return whole.reply()

    async def _events(self, reply: httpx2.Response) -> AsyncIterator[dict[str, Any]]:
        """The JSON of each server-sent event up to `[DONE]`. Comments (keep-alives) do not count as a sign of life."""
        loop = asyncio.get_running_loop()
        silent_s = self._timeouts.first_token_s
        chunks = reply.aiter_bytes()
        left = b""
        try:
            async with asyncio.timeout(silent_s) as patience:
                async for chunk in chunks:
                    *lines, left = (left + chunk).split(b"\n")
                    for line in lines:
                        if not line.startswith(b"data:"):
                            continue
                        data = line[5:].strip()
                        if data == b"[DONE]":
                            return
                        patience.reschedule(loop.time() + silent_s)
                        try:
                            yield json.loads(data)
                        except ValueError as error:
                            raise Fault("bad JSON", f"an event is no JSON ({error})", at_endpoint=True) from error
        except TimeoutError as error:
            if not patience.expired():
                raise
            text = f"no token within {silent_s:g} s"
            raise Fault("timeout", text, at_endpoint=True) from error

    def _whole(self, reply: httpx2.Response) -> Any:
        if reply.status_code != 200:
            raise refused(reply.status_code, dict(reply.headers), reply.content, self._secrets)
        return decoded(reply.content, reply.headers.get("content-type", ""))

    @contextlib.asynccontextmanager
    async def _named(self) -> AsyncIterator[None]:
        """Give the library's faults, and waits that were too long, their names."""
        import httpx2

        try:
            async with asyncio.timeout(self._timeouts.total_s):
                yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            text = masked(f"cannot connect ({_why(error)})", self._secrets)
            raise Fault("connect", text, at_endpoint=True, unreachable=True, bill="nothing") from error
        except httpx2.RemoteProtocolError as error:
            kind = "half body" if "incomplete" in str(error) or "without sending complete" in str(error) else "reset"
            raise Fault(kind, _why(error), at_endpoint=True) from error
        except httpx2.DecodingError as error:
            raise Fault("bad body", f"the reply cannot be decompressed ({_why(error)})", at_endpoint=True) from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
            raise Fault("url", _why(error), again=False, ends_run=True, bill="nothing") from error
        except httpx2.TransportError as error:
            raise Fault("reset", f"the connection broke ({_why(error)})", at_endpoint=True) from error
        except TimeoutError as error:
            text = f"no whole answer within {self._timeouts.total_s:g} s"
            raise Fault("timeout", text, at_endpoint=True) from error


def _why(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
