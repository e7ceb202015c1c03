"""The page's server: this machine only, read only, nothing but its own three files and answers in JSON.

What stands between a trace and the rest of the world: the socket is bound to 127.0.0.1; a request must name that host
(a foreign name that points here is DNS rebinding) and hold the token in its path; there is no CORS header, so no other
site can read an answer; and the policy lets the page run its own script only, load nothing from elsewhere, and never
turn text into markup.
"""

from __future__ import annotations

import errno
import hmac
import json
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import parse_qs, urlsplit

from distill.core.errors import ConfigError, DistillError
from distill.view.catalog import Asked, Catalog, Sort

HOST = "127.0.0.1"
DEFAULT_PORT = 8310
TRIED_PORTS = 50
"""From the default on, where it is taken."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC = Path(__file__).parent / "static"
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
JSON = "application/json; charset=utf-8"


class Server(ThreadingHTTPServer):
    """Serves one catalog. `url` opens it."""

    daemon_threads = True

    def __init__(self, catalog: Catalog, port: int) -> None:
        self.catalog = catalog
        super().__init__((HOST, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def url(self) -> str:
        """The page, with its token."""
        return f"http://{HOST}:{self.server_port}/{self.catalog.token}/"

    def server_bind(self) -> None:
        """Bind without asking a name server for the host's name, as `http.server` would."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves in the middle of an answer is no fault; anything else is a bug and is shown."""
        import sys

        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def listen(catalog: Catalog, port: int | None) -> Server:
    """A server on this port; without one on the first free port from `DEFAULT_PORT` on.

    Raises ConfigError if the port asked for is taken, or none is free.
    """
    tried = range(DEFAULT_PORT, DEFAULT_PORT + TRIED_PORTS) if port is None else [port]
    for number in tried:
        try:
            return Server(catalog, number)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "is in use" if error.errno == errno.EADDRINUSE else "is not yours to open"
    if port is None:
        raise ConfigError(f"view: no port of {tried[0]} to {tried[-1]} is free; name another with --port")
    raise ConfigError(f"view: port {port} {why}; name another with --port, or leave it out")


class _Handler(BaseHTTPRequestHandler):
    """One request. HTTP/1.1, so that a browser keeps its connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "distill", ""
    timeout = 60

    def do_GET(self) -> None:
        server = cast(Server, self.server)
        if self.headers.get("Host") not in server.hosts:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "this server answers to its own address only")
            return
        asked = urlsplit(self.path)
        token, slash, name = asked.path.removeprefix("/").partition("/")
        if not slash or not hmac.compare_digest(token.encode(), server.catalog.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "not here; use the whole address that `distill view` printed")
        elif name in FILES:
            file, kind = FILES[name]
            self._send(HTTPStatus.OK, kind, (STATIC / file).read_bytes())
        elif (answer := ANSWERS.get(name)) is not None:
            try:
                self._json(HTTPStatus.OK, answer(server.catalog, parse_qs(asked.query, max_num_fields=200)))
            except (DistillError, ValueError) as error:  # ValueError: a number or a query string that is none
                self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "no such page")

    def _not_allowed(self) -> None:
        self.close_connection = True  # whatever body comes is not read
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this server is read only: GET", {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _not_allowed

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` itself refuses (no HTTP, another method), with our headers and without its page."""
        del message, explain  # they quote the request
        self.close_connection = True
        self._refuse(HTTPStatus(code), "not understood")

    def _refuse(self, status: HTTPStatus, why: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, "text/plain; charset=utf-8", f"{why}\n".encode(), headers)

    def _json(self, status: HTTPStatus, value: Any) -> None:
        self._send(status, JSON, json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))

    def _send(self, status: HTTPStatus, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal shows the address, not the reading."""


Question = Mapping[str, list[str]]


def _asked(given: Question) -> Asked:
    """A search from a query string: `q`, `least`, `most`, `sort`, `after`, `limit`, and `facet.NAME` several times."""
    sort = given.get("sort", ["order"])[-1]
    if sort not in get_args(Sort):
        raise DistillError(f"view: sort `{sort[:40]}` is none of {', '.join(get_args(Sort))}")
    prefix = "facet."
    return Asked(
        text=given.get("q", [""])[-1],
        chosen={name.removeprefix(prefix): values for name, values in given.items() if name.startswith(prefix)},
        least=_number(given, "least"),
        most=_number(given, "most"),
        sort=cast(Sort, sort),
        after=given.get("after", [""])[-1],
        limit=_number(given, "limit") or 50,
    )


def _number(given: Question, name: str) -> int | None:
    value = given.get(name, [""])[-1]
    if not value:
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        raise DistillError(f"view: {name} is a whole number from 0 on, got `{value[:40]}`")
    return int(value)


def _name(given: Question) -> str:
    return given.get("name", [""])[-1]


ANSWERS: Mapping[str, Callable[[Catalog, Question], Any]] = {
    "api/about": lambda catalog, _: catalog.about(),
    "api/search": lambda catalog, given: catalog.search(_asked(given)),
    "api/entry": lambda catalog, given: catalog.entry(_name(given)),
    "api/thinking": lambda catalog, given: catalog.thinking(_name(given)),
    "api/raw": lambda catalog, given: catalog.raw(_name(given)),
}
