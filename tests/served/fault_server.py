"""A served teacher that misbehaves by plan: an OpenAI-compatible server in a process of its own, on bare sockets.

    python -m tests.served.fault_server --port 0 --seed 0 --plan plans.json --stats stats.json

The first line it prints is its address. It serves any number of endpoints, `/NAME/v1/chat/completions`,
`/NAME/v1/completions` and `/NAME/v1/models`, each with a `Plan` of its own (`PUT /NAME/plan`, or from the file
{name: plan}; `default` is that of a name without one). Answers depend on messages and seed alone. Which fault a call
meets depends on the server's seed, the request's key (messages and seed) and how often that key was asked before, so
that a plan is the same in any order. What happened is at `GET /NAME/stats` (`?full` with every call) and, when the
server ends, in the file: it outlives any number of clients, so it knows what they paid twice.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import logging
import math
import resource
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.served import answers
from tests.served.answers import Answer

READ_LIMIT = 1 << 20
DRIP_PIECES = 8
STREAM_CHARS = 96

REFUSALS = {
    "400": (400, None),
    "401": (401, None),
    "403": (403, None),
    "404": (404, None),
    "408": (408, None),
    "429": (429, None),
    "429 seconds": (429, "seconds"),
    "429 date": (429, "date"),
    "429 past date": (429, "past"),
    "429 absurd": (429, "absurd"),
    "429 for years": (429, "years"),
    "500": (500, None),
    "502": (502, None),
    "503": (503, None),
    "503 seconds": (503, "seconds"),
    "503 date": (503, "date"),
    "529": (529, None),
}
"""Answers that cost nothing: status, and the form of the Retry-After."""

MESSAGES = {
    400: "this model does not take the parameter `top_p`",
    401: "Incorrect API key provided: sk-wrong",
    403: "Your organisation may not use this model",
    404: "The model `unknown` does not exist",
    429: "Rate limit reached",
    503: "The server is overloaded",
}

BREAKS = (
    "reset before",
    "close before",
    "reset inside",
    "half body",
    "bad json",
    "html",
    "empty",
    "no choices",
    "error in 200",
    "bad chunks",
    "bad gzip",
    "two lengths",
    "huge headers",
    "hang",
)
"""Replies that were made, and so are paid for, but cannot be used."""

ODDITIES = ("slow first", "drip", "gzip", "chunked", "twice a header", "long header")
"""Replies that are good, and come in an unusual way."""

KINDS = ("good", *REFUSALS, *BREAKS, *ODDITIES)


@dataclass(frozen=True)
class Plan:
    """How one endpoint behaves."""

    faults: dict[str, float] = field(default_factory=dict)
    """Share of the calls that meet each of `KINDS`; the rest is good."""
    in_a_row: int | None = 3
    """A key that met so many faults in a row is answered; None: never."""
    dialect: str = "inline"
    delay_s: tuple[float, float] = (0.0, 0.0)
    """Bounds of the time that an answer takes, drawn for each call: replies come in another order than requests."""
    slow_s: float = 0.5
    """How much longer a slow first byte takes; a `drip` takes it over its pieces."""
    hang_s: float = 60.0
    retry_after_s: float = 1.0
    """What a Retry-After asks for, in seconds; as a date it is the next whole second after that."""
    usage: float = 1.0
    """Share of the keys whose replies say what they cost."""
    right: float = 0.7
    thought_chars: int = 160
    context: int | None = None
    model: str = "acme/teacher-7b"
    api_key: str | None = None
    seeded: bool = True
    """False: the seed is ignored, and all samples of a question are alike."""
    refuse: str | None = None
    """A question that is answered with 400, always."""
    vocab: int = 320
    """Entries of the vocabulary when given tokens are scored (`prompt_logprobs`)."""
    max_logprobs: int = 20
    """More log-probabilities a token than this are refused, as vLLM does."""
    most_at_once: int | None = None
    """More calls than this at one time are refused with 429."""
    log: bool = True
    """Keep the time and kind of every call."""


@dataclass
class Endpoint:
    """What became of the calls to one name."""

    plan: Plan
    tries: Counter[str] = field(default_factory=Counter)
    """Calls by key."""
    good: Counter[str] = field(default_factory=Counter)
    """Good answers by key, counted when they are asked for: a caller that is killed has paid."""
    delivered: Counter[str] = field(default_factory=Counter)
    """Good answers by key that were written whole to a caller who was still there."""
    row: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    """Completion tokens that were billed, those of broken replies too."""
    prompt_tokens: int = 0
    at_once: int = 0
    most_at_once: int = 0
    scored_at_once: int = 0
    most_scored_at_once: int = 0
    """Given tokens that are being scored, and the most there were."""
    connections: int = 0
    first_s: float | None = None
    last_s: float = 0.0
    """Monotonic seconds of the first call and of the last delivery."""
    log: list[tuple[float, str, str]] = field(default_factory=list)
    """Of each call: monotonic seconds, key, kind."""

    def stats(self, *, full: bool) -> dict[str, Any]:
        """Plain figures; `full` adds every call."""
        figures = {
            "calls": self.tries.total(),
            "keys": len(self.tries),
            "answered": len(self.good),
            "good": self.good.total(),
            "paid_twice": self.good.total() - len(self.good),
            "delivered": self.delivered.total(),
            "delivered_twice": self.delivered.total() - len(self.delivered),
            "kinds": dict(sorted(self.kinds.items())),
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "at_once": self.at_once,
            "most_at_once": self.most_at_once,
            "most_scored_at_once": self.most_scored_at_once,
            "connections": self.connections,
            "seconds": 0.0 if self.first_s is None else self.last_s - self.first_s,
        }
        return figures | ({"log": self.log, "good_by_key": dict(self.good)} if full else {})


@dataclass(frozen=True)
class Call:
    """One HTTP request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Reply:
    """One answer on its way out: events are what is streamed, body what is sent whole."""

    writer: asyncio.StreamWriter
    plan: Plan
    stream: bool
    body: bytes
    events: list[bytes]
    accepts_gzip: bool

    async def whole(self, status: int = 200, body: bytes | None = None, **headers: str) -> None:
        """A body with its length."""
        body = self.body if body is None else body
        self.writer.write(_head(status, {"Content-Length": str(len(body)), **_dashed(headers)}) + body)
        await self.writer.drain()

    async def good(self) -> None:
        """The answer, as it was asked for: whole, or as events."""
        if not self.stream:
            await self.whole()
            return
        await self.chunks(self.events)

    async def chunks(self, pieces: list[bytes], pause_s: float = 0.0, **headers: str) -> None:
        """Pieces in chunked transfer coding."""
        self.open_chunks(**headers)
        for piece in pieces:
            self.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if pause_s:
                await self.writer.drain()
                await asyncio.sleep(pause_s)
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def open_chunks(self, **headers: str) -> None:
        """The head of a reply in chunks."""
        kind = "text/event-stream" if self.stream else "application/json"
        more = {"Transfer-Encoding": "chunked", "Content-Type": kind, **_dashed(headers)}
        self.writer.write(_head(200, more))

    def reset(self) -> None:
        """End the connection with RST."""
        transport = self.writer.transport
        if transport.is_closing():  # the caller has left already
            return
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def half(self) -> None:
        """Half of what was promised."""
        if self.stream:
            self.open_chunks()
            for event in self.events[: len(self.events) // 2]:
                self.writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        else:
            self.writer.write(_head(200, {"Content-Length": str(len(self.body))}) + self.body[: len(self.body) // 2])
        await self.writer.drain()


async def _reset_before(reply: Reply) -> bool:
    reply.reset()
    return False


async def _close_before(reply: Reply) -> bool:
    return False


async def _reset_inside(reply: Reply) -> bool:
    await reply.half()
    await asyncio.sleep(0.01)  # or the reset overtakes the half
    reply.reset()
    return False


async def _half_body(reply: Reply) -> bool:
    await reply.half()
    return False


async def _bad_json(reply: Reply) -> bool:
    if reply.stream:
        middle = len(reply.events) // 2
        await reply.chunks([*reply.events[:middle], b'data: {"choices": [{"delta"\n\n', *reply.events[middle:]])
    else:
        await reply.whole(body=reply.body[:-3] + b"}}}")
    return True


async def _html(reply: Reply) -> bool:
    await reply.whole(body=b"<!doctype html><title>Welcome</title><p>Please log in.", content_type="text/html")
    return True


async def _empty(reply: Reply) -> bool:
    await reply.whole(body=b"")
    return True


async def _no_choices(reply: Reply) -> bool:
    body = answers.dumps({"id": "x", "object": "chat.completion", "model": reply.plan.model, "choices": []})
    if reply.stream:
        await reply.chunks([_event(body), b"data: [DONE]\n\n"])
    else:
        await reply.whole(body=body)
    return True


async def _error_in_200(reply: Reply) -> bool:
    body = answers.dumps({"error": {"message": "the worker was preempted", "type": "server_error", "code": 500}})
    if reply.stream:
        await reply.chunks([*reply.events[: len(reply.events) // 2], _event(body)])
    else:
        await reply.whole(body=body)
    return True


async def _bad_chunks(reply: Reply) -> bool:
    reply.open_chunks()
    reply.writer.write(b"10\r\n0123456789abcdef\r\nzz\r\nnot a chunk\r\n")
    await reply.writer.drain()
    return False


async def _bad_gzip(reply: Reply) -> bool:
    packed = gzip.compress(reply.body)
    await reply.whole(body=packed[: len(packed) // 2], content_encoding="gzip")
    return True


async def _two_lengths(reply: Reply) -> bool:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body) // 2)}
    reply.writer.write(_head(200, headers, f"Content-Length: {len(reply.body)}\r\n") + reply.body)
    await reply.writer.drain()
    return False


async def _huge_headers(reply: Reply) -> bool:
    await reply.whole(x_debug="x" * 200_000)
    return False


async def _hang(reply: Reply) -> bool:
    await asyncio.sleep(reply.plan.hang_s)
    return False


async def _slow_first(reply: Reply) -> bool:
    await asyncio.sleep(reply.plan.slow_s)
    await reply.good()
    return True


async def _drip(reply: Reply) -> bool:
    whole = b"".join(reply.events) if reply.stream else reply.body
    size = -(-len(whole) // DRIP_PIECES)  # in the middle of events and of characters
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    await reply.chunks(pieces, reply.plan.slow_s / DRIP_PIECES)
    return True


async def _gzip(reply: Reply) -> bool:
    if reply.stream or not reply.accepts_gzip:
        await reply.good()
    else:
        await reply.whole(body=gzip.compress(reply.body, 1), content_encoding="gzip")
    return True


async def _chunked(reply: Reply) -> bool:
    whole = b"".join(reply.events) if reply.stream else reply.body
    await reply.chunks([whole[start : start + 41] for start in range(0, len(whole), 41)])
    return True


async def _twice_a_header(reply: Reply) -> bool:
    if reply.stream:
        await reply.good()
    else:
        more = "Content-Type: application/json\r\nServer: one\r\nServer: two\r\nX-Request-Id: 1\r\nX-Request-Id: 2\r\n"
        reply.writer.write(_head(200, {"Content-Length": str(len(reply.body))}, more) + reply.body)
        await reply.writer.drain()
    return True


async def _long_header(reply: Reply) -> bool:
    if reply.stream:
        await reply.chunks(reply.events, x_debug="x" * 4000)
    else:
        await reply.whole(x_debug="x" * 4000)
    return True


async def _good(reply: Reply) -> bool:
    await reply.good()
    return True


ACTIONS: dict[str, Callable[[Reply], Awaitable[bool]]] = {
    "good": _good,
    "reset before": _reset_before,
    "close before": _close_before,
    "reset inside": _reset_inside,
    "half body": _half_body,
    "bad json": _bad_json,
    "html": _html,
    "empty": _empty,
    "no choices": _no_choices,
    "error in 200": _error_in_200,
    "bad chunks": _bad_chunks,
    "bad gzip": _bad_gzip,
    "two lengths": _two_lengths,
    "huge headers": _huge_headers,
    "hang": _hang,
    "slow first": _slow_first,
    "drip": _drip,
    "gzip": _gzip,
    "chunked": _chunked,
    "twice a header": _twice_a_header,
    "long header": _long_header,
}
"""What each kind of reply does; True where the connection may serve another call."""


class Server:
    """All endpoints of one process."""

    def __init__(self, seed: int, plans: dict[str, Plan]) -> None:
        self.seed = seed
        self.default = plans.get("default", Plan())
        self.endpoints = {name: Endpoint(plan) for name, plan in plans.items()}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of one connection, one after the other."""
        seen: set[str] = set()
        try:
            while (call := await _read(reader)) is not None:
                name, _, rest = call.path.strip("/").partition("/")
                endpoint = self.endpoints.get(name)
                if endpoint is None:
                    endpoint = self.endpoints[name] = Endpoint(self.default)
                if name not in seen:
                    seen.add(name)
                    endpoint.connections += 1
                if not await self._answer(name, endpoint, rest, call, reader, writer):
                    break
                if call.headers.get("connection", "").lower() == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller left, or the server ends
        finally:
            writer.close()

    async def _answer(
        self,
        name: str,
        endpoint: Endpoint,
        rest: str,
        call: Call,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        reply = Reply(writer, endpoint.plan, False, b"", [], "gzip" in call.headers.get("accept-encoding", ""))
        match call.method, rest:
            case "PUT", "plan":
                try:
                    self.endpoints[name] = Endpoint(_plan(json.loads(call.body)))
                except (TypeError, ValueError) as error:
                    await reply.whole(400, _error(str(error)))
                else:
                    await reply.whole(body=b"{}")
            case "GET", "stats":
                own = resource.getrusage(resource.RUSAGE_SELF)
                figures = endpoint.stats(full=call.query == "full") | {"cpu_s": own.ru_utime + own.ru_stime}
                await reply.whole(body=answers.dumps(figures))
            case "GET", "v1/models" | "models":
                await reply.whole(body=answers.dumps(_models(endpoint.plan)))
            case "POST", "v1/chat/completions" | "v1/completions":
                return await self._complete(endpoint, rest.endswith("chat/completions"), call, reader, reply)
            case _:
                await reply.whole(404, _error(f"no such path: {call.method} {call.path}"))
        return True

    async def _complete(
        self, endpoint: Endpoint, chat: bool, call: Call, reader: asyncio.StreamReader, reply: Reply
    ) -> bool:
        plan, asked = endpoint.plan, json.loads(call.body)
        prompt, seed = asked["messages"] if chat else asked["prompt"], asked.get("seed") if plan.seeded else None
        key = hashlib.blake2b(answers.dumps([prompt, asked.get("seed")]), digest_size=12).hexdigest()
        question = prompt[-1]["content"] if chat else prompt if isinstance(prompt, str) else str(prompt)
        wanted = asked.get("prompt_logprobs") or 0
        if wanted > plan.max_logprobs:
            text = f"Requested prompt logprobs of {wanted}, which is greater than max allowed: {plan.max_logprobs}"
            await reply.whole(400, _error(text))
            return True
        kind = "400" if question == plan.refuse else self._kind(endpoint, key, call)
        now_s = time.monotonic()
        endpoint.first_s = now_s if endpoint.first_s is None else endpoint.first_s
        if plan.log:
            endpoint.log.append((now_s, key, kind))
        endpoint.kinds[kind] += 1
        endpoint.tries[key] += 1
        if kind in REFUSALS:
            endpoint.row[key] += 1
            status, form = REFUSALS[kind]
            wait = {} if form is None else {"retry_after": _retry_after(form, plan.retry_after_s, key)}
            message = MESSAGES.get(status, "internal error") if question != plan.refuse else "this question is refused"
            await reply.whole(status, _error(message), **wait)
            return True
        limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
        answer = answers.think(
            question, seed, limit, right=plan.right, thought_chars=plan.thought_chars, dialect=plan.dialect
        )
        endpoint.tokens += answer.completion_tokens
        endpoint.prompt_tokens += answer.prompt_tokens
        counted = answers.draw(self.seed, key, "usage") < plan.usage
        _fill(reply, plan, answer, asked, chat=chat, counted=counted)
        scored = len(prompt) if wanted else 0
        endpoint.scored_at_once += scored
        endpoint.most_scored_at_once = max(endpoint.most_scored_at_once, endpoint.scored_at_once)
        endpoint.at_once += 1
        endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
        try:
            if kind in BREAKS:
                endpoint.row[key] += 1
            else:
                endpoint.row[key] = 0
                endpoint.good[key] += 1
            low_s, high_s = plan.delay_s
            if high_s:
                part = answers.draw(self.seed, key, endpoint.tries[key], "delay")
                await asyncio.sleep(low_s + (high_s - low_s) * part)
            stays = await ACTIONS[kind](reply)
            if kind not in BREAKS and not reader.at_eof():
                endpoint.delivered[key] += 1
                endpoint.last_s = time.monotonic()
            return stays
        finally:
            endpoint.at_once -= 1
            endpoint.scored_at_once -= scored

    def _kind(self, endpoint: Endpoint, key: str, call: Call) -> str:
        plan = endpoint.plan
        if plan.api_key is not None and call.headers.get("authorization") != f"Bearer {plan.api_key}":
            return "401"
        if plan.most_at_once is not None and endpoint.at_once >= plan.most_at_once:
            return "429"
        if plan.in_a_row is not None and endpoint.row[key] >= plan.in_a_row:
            return "good"
        at = answers.draw(self.seed, key, endpoint.tries[key], "kind")
        for kind, share in plan.faults.items():
            at -= share
            if at < 0:
                return kind
        return "good"


def _fill(reply: Reply, plan: Plan, answer: Answer, asked: dict[str, Any], *, chat: bool, counted: bool) -> None:
    """Put the answer into the reply, as JSON or as events."""
    usage = answers.usage_of(answer, plan.dialect) if counted else None
    about = {"id": "cmpl-1", "object": "chat.completion", "created": 0, "model": plan.model}
    if not chat:
        about["object"] = "text_completion"
    if not asked.get("stream"):
        shown = (
            {"message": answers.message_of(answer, plan.dialect)}
            if chat
            else {"text": answers.text_of(answer, plan.dialect)}
        )
        choice = {"index": 0, **shown, "finish_reason": answer.finish_reason}
        if asked.get("prompt_logprobs"):
            choice["prompt_logprobs"] = answers.prompt_logprobs(asked["prompt"], asked["prompt_logprobs"], plan.vocab)
        reply.body = answers.dumps(about | {"choices": [choice]} | ({} if usage is None else {"usage": usage}))
        return
    reply.stream = True
    if chat:
        about["object"] = "chat.completion.chunk"
        pieces = [{"delta": delta} for delta in answers.deltas(answer, plan.dialect, STREAM_CHARS)]
        last: dict[str, Any] = {"delta": {}}
    else:
        text = answers.text_of(answer, plan.dialect)
        pieces = [{"text": text[start : start + STREAM_CHARS]} for start in range(0, len(text), STREAM_CHARS)]
        last = {"text": ""}
    choices = [{"index": 0, **piece, "finish_reason": None} for piece in pieces]
    choices.append({"index": 0, **last, "finish_reason": answer.finish_reason})
    events = [b": keep-alive\n\n", *(_event(answers.dumps(about | {"choices": [choice]})) for choice in choices)]
    if usage is not None and (asked.get("stream_options") or {}).get("include_usage"):
        events.append(_event(answers.dumps(about | {"choices": [], "usage": usage})))
    reply.events = [*events, b"data: [DONE]\n\n"]
    reply.body = b"".join(reply.events)


async def _read(reader: asyncio.StreamReader) -> Call | None:
    """The next call of a connection; None where it ended."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as ended:
        if ended.partial:
            raise
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b""
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    parts = urlsplit(target)
    return Call(method, parts.path, parts.query, headers, body)


def _head(status: int, headers: dict[str, str], more: str = "") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Content-Type": "application/json", **headers}.items())
    return f"HTTP/1.1 {status} Status\r\n{lines}{more}\r\n".encode("latin-1")


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-").title(): value for name, value in headers.items()}


def _event(body: bytes) -> bytes:
    return b"data: %b\n\n" % body


def _error(message: str) -> bytes:
    return answers.dumps({"error": {"message": message, "type": "error", "param": None, "code": None}})


def _retry_after(form: str, seconds: float, key: str) -> str:
    match form:
        case "seconds":
            return f"{seconds:g}"
        case "date":  # whole seconds, so up to one more than asked
            return formatdate(math.ceil(time.time() + seconds), usegmt=True)
        case "past":
            return formatdate(time.time() - 3600, usegmt=True)
        case "years":
            return "100000000"
        case "absurd":
            return ("a while", "-5", "nan", "0x10", "9" * 400)[int(answers.draw(key) * 5)]
    raise ValueError(f"no form {form!r} of Retry-After")


def _models(plan: Plan) -> dict[str, Any]:
    model: dict[str, Any] = {"id": plan.model, "object": "model", "created": 0, "owned_by": "tests"}
    if plan.context is not None:
        model["max_model_len"] = plan.context
    return {"object": "list", "data": [model]}


def _plan(values: dict[str, Any]) -> Plan:
    plan = Plan(**{name: tuple(value) if name == "delay_s" else value for name, value in values.items()})
    unknown = set(plan.faults) - set(KINDS)
    if unknown or plan.dialect not in answers.DIALECTS or sum(plan.faults.values()) > 1 + 1e-9:
        raise ValueError(f"not a plan: {asdict(plan)}")
    return plan


async def _serve(arguments: argparse.Namespace) -> None:
    plans = json.loads(arguments.plan.read_text()) if arguments.plan else {}
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # that callers leave in the middle is what it is for
    server = Server(arguments.seed, {name: _plan(plan) for name, plan in plans.items()})
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listening = await asyncio.start_server(
        server.connection, "127.0.0.1", arguments.port, limit=READ_LIMIT, backlog=4096
    )
    print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", flush=True)
    await stop.wait()
    listening.close()
    if arguments.stats is not None:
        figures = {name: endpoint.stats(full=True) for name, endpoint in server.endpoints.items()}
        arguments.stats.write_text(json.dumps(figures))


def main() -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plan", type=Path, help="JSON file: a plan by name of endpoint")
    parser.add_argument("--stats", type=Path, help="where the figures go at the end")
    asyncio.run(_serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
