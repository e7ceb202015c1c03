"""The server: who is answered, with what, and the command around it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from distill.core.errors import ConfigError
from distill.view import run, sources
from distill.view import server as servers
from distill.view.server import HOST, STATIC, Server, listen
from tests.view.made import entry, make_run, opened, serving, source


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with opened(sources.of(make_run(folder / "run")), folder / "index") as catalog, serving(catalog) as made:
        yield made


def ask(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(HOST, server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def api(server: Server, what: str) -> Any:
    answer, body = ask(server, f"/{server.catalog.token}/api/{what}")
    assert answer.status == 200, body
    return json.loads(body)


def test_it_listens_to_this_machine_only(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert urlsplit(server.url).hostname == "127.0.0.1"


def test_the_page_and_its_two_files(server: Server) -> None:
    for name, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        answer, body = ask(server, f"/{server.catalog.token}/{name}")
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith(kind)
        assert body == (STATIC / (name or "page.html")).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/page.js", "/api/search", "/wrong/", "/wrong/api/search?q=", "/TOKEN", "/TOKEN/../TOKEN/page.js",
        "/TOKEN/server.py", "/TOKEN/../../../../etc/passwd", "/TOKEN/static/page.js",
        "/TOKEN/%2e%2e/server.py", "/TOKEN/api/", "/%C3%A9/",
    ],
)  # fmt: skip
def test_everything_else_is_not_there(server: Server, path: str) -> None:
    answer, body = ask(server, path.replace("TOKEN", server.catalog.token))

    assert (answer.status, server.catalog.token.encode() in body) == (404, False)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "localhost", "", "[::1]:PORT"]
)
def test_a_foreign_name_for_this_machine_is_refused(server: Server, host: str) -> None:
    answer, body = ask(server, f"/{server.catalog.token}/api/about", Host=host.replace("PORT", str(server.server_port)))

    assert (answer.status, b"facets" in body) == (421, False)


def test_localhost_is_this_machine(server: Server) -> None:
    answer, _ = ask(server, f"/{server.catalog.token}/", Host=f"localhost:{server.server_port}")

    assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_it_only_reads(server: Server, method: str) -> None:
    answer, _ = ask(server, f"/{server.catalog.token}/", method, Origin="https://evil.example")

    assert (answer.status, answer.headers["Allow"]) == (405, "GET")


def test_what_comes_after_a_refused_request_is_not_read_as_another(server: Server) -> None:
    host = f"Host: {HOST}:{server.server_port}\r\n"
    hidden = f"GET /{server.catalog.token}/api/about HTTP/1.1\r\n{host}\r\n"
    with socket.create_connection((HOST, server.server_port), timeout=10) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\n{host}Content-Length: {len(hidden)}\r\n\r\n{hidden}".encode())
        heard = b"".join(iter(lambda: connection.recv(65536), b""))

    assert heard.startswith(b"HTTP/1.1 405") and heard.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("path", ["", "api/about", "api/search?limit=x", "nowhere", "page.js"])
def test_every_answer_has_the_policy_and_invites_no_other_site(server: Server, path: str) -> None:
    answer, _ = ask(server, f"/{server.catalog.token}/{path}", Origin="https://evil.example")
    policy = answer.headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy and "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_the_page_names_no_other_place() -> None:
    for name in ("page.html", "page.css", "page.js"):
        text = (STATIC / name).read_text(encoding="utf-8").replace("http://www.w3.org/1998/Math/MathML", "")
        assert "http:" not in text and "https:" not in text and "//cdn" not in text
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text and "document.write" not in text


NO_REQUESTS = (b"BREW / HTTP/1.1\r\n\r\n", b"<script>\r\n\r\n", b"GET /" + b"a" * 70_000, b"\x16\x03\x01\r\n\r\n")


@pytest.mark.parametrize("sent", NO_REQUESTS, ids=["method", "no HTTP", "too long", "TLS"])
def test_what_is_no_request_gets_no_page(server: Server, sent: bytes) -> None:
    with socket.create_connection((HOST, server.server_port), timeout=10) as connection:
        connection.sendall(sent)
        heard = connection.recv(100_000)

    assert b"<" not in heard
    assert not heard.startswith(b"HTTP/1.1 2")


def test_a_search_over_http(server: Server) -> None:
    found = api(server, "search?q=as+teacher&facet.verdict=correct&facet.model=teacher&sort=longest&limit=2")

    assert found["total"] == 4 and len(found["entries"]) == 2
    name = found["entries"][0]["name"]
    entry = api(server, f"entry?name={name}")
    assert [answer["values"]["model"] for answer in entry["answers"]] == ["base", "student", "teacher", "student"]
    assert api(server, f"thinking?name={name}")["blocks"][0]["parts"] == [{"text": "As teacher."}]
    assert api(server, f"raw?name={name}")["text"].endswith("<|im_end|>")


@pytest.mark.parametrize(
    "query",
    [
        "search?sort=random", "search?least=-1", "search?most=1e9", "search?limit=99999999999", "raw?name=%00",
        "search?facet.colour=red", "search?after=nothing", "search?q=%2B", "entry?name=", "entry", "thinking?name=x",
        f"search?{'a=1&' * 300}", f"search?q={'a' * 1001}",
    ],
)  # fmt: skip
def test_a_question_that_is_none_gets_one_line(server: Server, query: str) -> None:
    answer, body = ask(server, f"/{server.catalog.token}/api/{query}")

    assert answer.status == 400
    assert "\n" not in json.loads(body)["error"]


def test_a_page_of_results_is_bounded(server: Server) -> None:
    assert len(api(server, "search?limit=100000")["entries"]) <= 200


def test_a_taken_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken, opened(source([entry(1)]), tmp_path) as catalog:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            listen(catalog, port)
        monkeypatch.setattr(servers, "DEFAULT_PORT", port)
        with listen(catalog, None) as made:
            assert port < made.server_port < port + servers.TRIED_PORTS
        monkeypatch.setattr(servers, "TRIED_PORTS", 1)
        with pytest.raises(ConfigError, match="no port of"):
            listen(catalog, None)


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "distill", "view", *arguments, "--no-browser"], cwd=cwd, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_command_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run")
    process = start("run", "--port", "0", cwd=tmp_path)
    assert process.stdout is not None
    address = urlsplit(process.stdout.readline().strip())
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    connection.request("GET", address.path)
    page = connection.getresponse().read()
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=30)

    assert b"<title>distill view</title>" in page
    assert (process.returncode, rest) == (0, "")
    assert "24 answers of run" in told and told.endswith("ended\n")
    assert [path.name[:4] for path in (made / ".view").iterdir()] == ["run-"]


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    process = start("nowhere", cwd=tmp_path)
    out, told = process.communicate(timeout=30)

    assert (process.returncode, out, told) == (2, "", "distill: nowhere: no such run folder or file\n")


def test_the_index_of_a_file_is_in_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n', encoding="utf-8")
    process = start("rows.jsonl", "--port", "0", "--workspace", "space", cwd=tmp_path)
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "space"]
    assert len(list((tmp_path / "space" / ".view").iterdir())) == 1


def test_a_run_that_cannot_be_written_to_is_indexed_in_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)

    path = run._index(folder, tmp_path / "space")

    assert path.parent == tmp_path / "space" / ".view"
    assert not (folder / ".view").exists()
