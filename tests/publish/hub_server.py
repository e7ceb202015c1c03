"""A Hub for tests: a process of its own that speaks the protocol which huggingface_hub uses, with real storage.

    python -m tests.publish.hub_server FOLDER --token hf_x=you:write [--page 50] [--regular 4096] [--chunk 1000000]

Two listeners, as the real one has: the Hub itself, and the storage that large files go to and come from by signed
addresses, which must never see a token. Prints both addresses as one line of JSON. What it answers was read off the
requests that huggingface_hub 2.4 makes (Xet switched off); blobs lie in FOLDER by SHA-256 and are checked when they
come in. Refs and commits are kept in memory.

Control (on the Hub's address): PUT /_control/faults a list of plans, PUT /_control/repo a repository as it shall be,
PUT /_control/head a commit to go back to,
GET /_control/log all requests since DELETE /_control/log, GET /_control/repo/KIND/OWNER/NAME its state.
A plan: {"on": "PUT /storage/", "times": 1, "status": 503, "headers": {}}, or instead of a status
"cut_after": BYTES (the connection is reset once so many bytes of the body were read), "stall_after": BYTES (then it
reads no more), "swallow": true (the request is carried out, but the connection ends without an answer), or
"meanwhile": {...} (what PUT /_control/repo takes: somebody's commit just before this request is carried out), or
"opens": true (a repository that this request makes is public, whatever was asked).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

CUT = "cut"
LARGE = (".safetensors", ".gguf", ".parquet")
"""Files that go to storage whatever their size."""


@dataclass
class File:
    """One entry of a tree. `sha256` is of the content; `oid` is git's, of the pointer for a large file."""

    sha256: str
    size: int
    oid: str
    large: bool


@dataclass
class Commit:
    """A commit: its whole tree."""

    sha: str
    title: str
    parent: str | None
    files: dict[str, File]


@dataclass
class Repo:
    """A repository: `main`, other branches and tags are names of commits."""

    kind: str
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    """Large objects that this repository has, whether or not a commit names them."""

    def commit(self, revision: str) -> Commit | None:
        """By branch, tag or hash."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)


class Refused(Exception):
    """An answer with a status of 400 and above."""

    def __init__(
        self, status: int, error: str, code: str | None = None, headers: dict[str, str] | None = None, **more: str
    ) -> None:
        super().__init__(error)
        self.status, self.code, self.headers = status, code, headers or {}
        self.body = {"error": error, **more}


class Hub:
    """All state, behind one lock."""

    def __init__(self, folder: Path, tokens: dict[str, tuple[str, str]], page: int, regular: int, chunk: int) -> None:
        self.folder, self.tokens, self.page, self.regular, self.chunk = folder, tokens, page, regular, chunk
        (folder / "objects").mkdir(parents=True, exist_ok=True)
        (folder / "parts").mkdir(exist_ok=True)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lock = threading.RLock()
        self.log: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.uploads: dict[str, dict[str, Any]] = {}
        self.opens = False
        """Whether it makes public what was to be private."""
        self.here = self.storage = ""

    def put(self, content: bytes, due: str | None = None) -> str:
        """Store a blob; refuses one that is not what was announced."""
        sha256 = hashlib.sha256(content).hexdigest()
        if due is not None and sha256 != due:
            raise Refused(400, f"content has SHA-256 {sha256}, announced was {due}")
        path = self.folder / "objects" / sha256
        if not path.exists():
            partial = path.with_name(f"{sha256}.{uuid.uuid4().hex}")
            partial.write_bytes(content)
            partial.replace(path)
        return sha256

    def blob(self, sha256: str) -> bytes:
        return (self.folder / "objects" / sha256).read_bytes()

    def has(self, sha256: str) -> bool:
        return (self.folder / "objects" / sha256).exists()

    def add(self, repo: Repo, title: str, files: dict[str, File], branch: str = "main") -> Commit:
        """A new head of `branch`."""
        parent = repo.branches.get(branch)
        sha = hashlib.sha1(f"{repo.id}{title}{parent}{uuid.uuid4()}".encode()).hexdigest()
        commit = Commit(sha, title, parent, files)
        repo.commits[sha] = commit
        repo.branches[branch] = sha
        return commit

    def make(self, asked: dict[str, Any]) -> str:
        """Add a commit by somebody else: `files` as base64, None takes one away; the repository is made if need be."""
        key = (asked["kind"], asked["id"])
        repo = self.repos.setdefault(key, Repo(*key, private=True))
        repo.private = asked.get("private", repo.private)
        head = repo.branches.get("main")
        files = dict(repo.commits[head].files) if head else {}
        for path, text in asked.get("files", {}).items():
            if text is None:
                files.pop(path, None)
                continue
            content = base64.b64decode(text)
            if len(content) > self.regular or path.endswith(LARGE):
                files[path] = large(self.put(content), len(content))
                repo.large.add(files[path].sha256)
            else:
                files[path] = regular(content, self)
        return self.add(repo, asked.get("title", "by hand"), files).sha

    def fault(self, asked: str) -> dict[str, Any] | None:
        """The first plan that this request falls under, counted down."""
        with self.lock:
            for plan in self.faults:
                if asked.startswith(plan["on"]) and plan.get("times", 1) > 0:
                    plan["times"] = plan.get("times", 1) - 1
                    return plan
        return None


def regular(content: bytes, hub: Hub) -> File:
    """A file that git itself keeps."""
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return File(hub.put(content), len(content), oid, large=False)


def large(sha256: str, size: int) -> File:
    """A file of which git keeps a pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
    return File(sha256, size, hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest(), large=True)


class Handler(BaseHTTPRequestHandler):
    """One request; `routes` are tried in order."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    is_storage = False

    def log_message(self, *_: Any) -> None:
        """Quiet: requests are in the log that tests read."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        asked = f"{self.command} {'/storage' if self.is_storage else ''}{unquote(url.path)}"
        note = {
            "asked": asked, "url": self.path, "authorized": "Authorization" in self.headers, "status": None,
            "bytes": 0, "storage": self.is_storage, "agent": self.headers.get("User-Agent", ""),
        }  # fmt: skip
        control = url.path.startswith("/_control/")
        plan = None if control else self.hub.fault(asked)
        if not control:
            with self.hub.lock:
                self.hub.log.append(note)
        try:
            self._body = self._read(plan, note)
            if plan is not None and "status" in plan:
                raise Refused(plan["status"], "planned", plan.get("code"), plan.get("headers"), url=self.hub.here)
            with self.hub.lock:
                self.hub.opens = plan is not None and plan.get("opens", False)
                if plan is not None and "meanwhile" in plan:
                    self.hub.make(plan["meanwhile"])
                answer = self._answer(url.path, parse_qs(url.query))
            if plan is not None and plan.get("swallow"):
                raise ConnectionResetError(CUT)
        except Refused as refused:
            headers = {**refused.headers, **({"X-Error-Code": refused.code} if refused.code else {})}
            note["status"] = refused.status
            self._send(refused.status, json.dumps(refused.body).encode(), headers)
        except ConnectionResetError:
            note["status"] = CUT
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
        else:
            status, content, headers = answer
            note["status"] = status
            self._send(status, content, headers)

    def _read(self, plan: dict[str, Any] | None, note: dict[str, Any]) -> bytes:
        """The body, however it is sent. Counts what really came in."""
        limit = None if plan is None else plan.get("cut_after", plan.get("stall_after"))
        if limit == 0:
            raise ConnectionResetError(CUT)
        content = bytearray()
        for piece in self._pieces():
            content += piece
            note["bytes"] = len(content)
            if limit is not None and len(content) >= limit:
                if plan is not None and "stall_after" in plan:
                    time.sleep(plan.get("stall_s", 60))
                raise ConnectionResetError(CUT)
        return bytes(content)

    def _pieces(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                left = size
                while left:
                    piece = self.rfile.read1(min(left, 65536))
                    left -= len(piece)
                    yield piece
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read1(min(left, 65536))
            if not piece:
                raise ConnectionResetError(CUT)
            left -= len(piece)
            yield piece

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes, dict[str, str]]:
        for method, pattern, take in ROUTES["storage" if self.is_storage else "hub"]:
            found = re.fullmatch(pattern, path)
            if found and method in (self.command, "GET" if self.command == "HEAD" else ""):
                parts = {name: unquote(value) for name, value in found.groupdict(default="").items()}
                answer = getattr(self, take)(query=query, **parts)
                if isinstance(answer, tuple):
                    return answer
                return 200, json.dumps(answer).encode(), {}
        raise Refused(404, f"this test server has no {self.command} {path}")

    def _who(self) -> tuple[str, str] | None:
        """Owner and role of the token that came along; None without one."""
        said = self.headers.get("Authorization", "")
        if not said:
            return None
        who = self.hub.tokens.get(said.removeprefix("Bearer "))
        if who is None:
            raise Refused(
                401, "Invalid username or password.",
                headers={"X-Error-Message": "Invalid credentials in Authorization header"},
            )  # fmt: skip
        return who

    def _repo(self, kind: str, owner: str, name: str, write: bool = False) -> Repo:
        who = self._who()
        repo = self.hub.repos.get((kind.rstrip("s"), f"{owner}/{name}"))
        visible = repo is not None and (not repo.private or (who is not None and who[0] == owner))
        if repo is None or not visible:
            status = 404 if who is not None else 401
            raise Refused(status, "Repository not found", "RepoNotFound")
        if write and (who is None or who[0] != owner or who[1] != "write"):
            raise Refused(403, f"You don't have the rights to write to {owner}/{name}")
        return repo

    def _commit(self, repo: Repo, revision: str) -> Commit:
        commit = repo.commit(revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def whoami(self, query: Any) -> Any:
        who = self._who()
        if who is None:
            raise Refused(401, "Invalid username or password.")
        return {"type": "user", "name": who[0], "auth": {"accessToken": {"role": who[1]}}, "orgs": []}

    def create(self, query: Any) -> Any:
        asked, who = json.loads(self._body), self._who()
        if who is None:
            raise Refused(401, "Invalid username or password.")
        owner = asked.get("organization") or who[0]
        if who[0] != owner or who[1] != "write":
            raise Refused(403, f'You don\'t have the rights to create a {asked["type"]} under the namespace "{owner}"')
        key = (asked["type"], f"{owner}/{asked['name']}")
        where = f"{self.hub.here}/{'datasets/' if asked['type'] == 'dataset' else ''}{key[1]}"
        if key in self.hub.repos:
            raise Refused(409, f"You already created this {key[0]} repo: {key[1]}", url=where)
        repo = Repo(key[0], key[1], private=asked.get("visibility") == "private")
        self.hub.repos[key] = repo
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.gguf filter=lfs diff=lfs merge=lfs -text\n"
        self.hub.add(repo, "initial commit", {".gitattributes": regular(attributes, self.hub)})
        if self.hub.opens:
            repo.private = False
        return {"url": where, "name": key[1], "id": uuid.uuid4().hex}

    def info(self, kind: str, owner: str, name: str, revision: str = "main", query: Any = None) -> Any:
        repo = self._repo(kind, owner, name)
        commit = self._commit(repo, revision or "main")
        return {
            "id": repo.id, "modelId": repo.id, "sha": commit.sha, "private": repo.private, "tags": [],
            "downloads": 0, "likes": 0, "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }  # fmt: skip

    def settings(self, kind: str, owner: str, name: str, query: Any) -> Any:
        repo, asked = self._repo(kind, owner, name, write=True), json.loads(self._body)
        repo.private = asked.get("private", asked.get("visibility") == "private")
        return {"private": repo.private}

    def tree(
        self, kind: str, owner: str, name: str, revision: str, query: dict[str, list[str]], inside: str = ""
    ) -> Any:
        repo = self._repo(kind, owner, name)
        commit = self._commit(repo, revision)
        entries = [_entry(path, file) for path, file in sorted(commit.files.items()) if path.startswith(inside)]
        folders = sorted({p.rpartition("/")[0] for p in commit.files if "/" in p})
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        start = int(query.get("cursor", ["0"])[0])
        page = entries[start : start + self.hub.page]
        headers = {}
        if start + self.hub.page < len(entries):
            again = f"{self.hub.here}{urlsplit(self.path).path}?recursive=true&cursor={start + self.hub.page}"
            headers["Link"] = f'<{again}>; rel="next"'
        return 200, json.dumps(page).encode(), headers

    def paths_info(self, kind: str, owner: str, name: str, revision: str, query: Any) -> Any:
        commit = self._commit(self._repo(kind, owner, name), revision)
        asked = parse_qs(self._body.decode())["paths"]
        return [_entry(path, commit.files[path]) for path in asked if path in commit.files]

    def refs(self, kind: str, owner: str, name: str, query: Any) -> Any:
        repo = self._repo(kind, owner, name)
        return {
            "branches": [_ref("heads", *item) for item in repo.branches.items()],
            "tags": [_ref("tags", *item) for item in repo.tags.items()],
            "converts": [],
        }

    def tag(self, kind: str, owner: str, name: str, revision: str, query: Any) -> Any:
        repo, asked = self._repo(kind, owner, name, write=True), json.loads(self._body)
        commit = self._commit(repo, revision)
        if asked["tag"] in repo.tags:
            raise Refused(409, f"Tag {asked['tag']} already exists")
        repo.tags[asked["tag"]] = commit.sha
        return {}

    def untag(self, kind: str, owner: str, name: str, revision: str, query: Any) -> Any:
        repo = self._repo(kind, owner, name, write=True)
        if repo.tags.pop(revision, None) is None:
            raise Refused(404, "no such tag", "RevisionNotFound")
        return {}

    def validate(self, query: Any) -> Any:
        import yaml

        asked = json.loads(self._body)
        head = re.match(r"---\n(.*?)\n---\n", asked["content"], re.DOTALL)
        try:
            data = yaml.safe_load(head.group(1)) if head else None
        except yaml.YAMLError as error:
            raise Refused(400, f"metadata is no YAML: {error}") from error
        return {"warnings": [] if data else [{"message": "empty or missing yaml metadata in repo card"}], "errors": []}

    def preupload(self, kind: str, owner: str, name: str, revision: str, query: Any) -> Any:
        repo = self._repo(kind, owner, name, write=True)
        files = self._commit(repo, revision).files
        answer = []
        for file in json.loads(self._body)["files"]:
            is_large = file["size"] > self.hub.regular or file["path"].endswith(LARGE)
            there = files.get(file["path"])
            oid = None if there is None else there.sha256 if there.large else there.oid
            answer.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        return {"files": answer}

    def batch(self, kind: str, owner: str, name: str, query: Any) -> Any:
        repo = self._repo(kind.strip("/") or "models", owner, name, write=True)
        asked = json.loads(self._body)
        objects = []
        for item in asked["objects"]:
            oid, size = item["oid"], item["size"]
            if oid in repo.large and self.hub.has(oid):
                objects.append(item)
                continue
            upload = uuid.uuid4().hex
            self.hub.uploads[upload] = {"oid": oid, "size": size, "repo": (repo.kind, repo.id), "parts": {}}
            verify = f"{self.hub.here}/api/{repo.kind}s/{repo.id}/lfs-verify"
            signed = f"?X-Signature={uuid.uuid4().hex}"
            action: dict[str, Any] = {"href": f"{self.hub.storage}/whole/{upload}{signed}"}
            if size > self.hub.chunk and "multipart" in asked["transfers"]:
                count = -(-size // self.hub.chunk)
                parts = {f"{n:05}": f"{self.hub.storage}/part/{upload}/{n}{signed}" for n in range(1, count + 1)}
                action = {
                    "href": f"{self.hub.here}/api/complete-multipart/{upload}",
                    "header": {"chunk_size": str(self.hub.chunk), **parts},
                }
            objects.append({**item, "authenticated": True, "actions": {"upload": action, "verify": {"href": verify}}})
        return {"transfer": "multipart", "objects": objects}

    def complete(self, upload: str, query: Any) -> Any:
        asked, kept = json.loads(self._body), self.hub.uploads[upload]
        content = b""
        for part in asked["parts"]:
            piece = (self.hub.folder / "parts" / f"{upload}-{part['partNumber']}").read_bytes()
            if hashlib.md5(piece).hexdigest() != part["etag"].strip('"'):
                raise Refused(400, "a part has another etag")
            content += piece
        return self._taken(kept, content)

    def verify(self, kind: str, owner: str, name: str, query: Any) -> Any:
        repo, asked = self._repo(kind, owner, name, write=True), json.loads(self._body)
        if asked["oid"] not in repo.large or len(self.hub.blob(asked["oid"])) != asked["size"]:
            raise Refused(404, "no such object was uploaded")
        return {}

    def _taken(self, kept: dict[str, Any], content: bytes) -> Any:
        self.hub.put(content, kept["oid"])
        self.hub.repos[kept["repo"]].large.add(kept["oid"])
        return {}

    def whole(self, upload: str, query: Any) -> Any:
        return self._taken(self.hub.uploads[upload], self._body)

    def part(self, upload: str, number: str, query: Any) -> Any:
        (self.hub.folder / "parts" / f"{upload}-{number}").write_bytes(self._body)
        return 200, b"", {"ETag": f'"{hashlib.md5(self._body).hexdigest()}"'}

    def commit(self, kind: str, owner: str, name: str, revision: str, query: Any) -> Any:
        repo = self._repo(kind, owner, name, write=True)
        lines = [json.loads(line) for line in self._body.splitlines()]
        header = lines[0]["value"]
        head = repo.branches[revision]
        if header.get("parentCommit", head) != head:
            raise Refused(412, "The expected parent commit does not match the current head of the branch")
        files = dict(repo.commits[head].files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = regular(base64.b64decode(value["content"]), self.hub)
            elif line["key"] == "lfsFile":
                if value["oid"] not in repo.large:
                    raise Refused(400, f"Your push was rejected because the LFS object {value['oid']} is missing")
                files[value["path"]] = large(value["oid"], len(self.hub.blob(value["oid"])))
            elif line["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise Refused(400, f"unknown operation {line['key']}")
        made = self.hub.add(repo, header["summary"], files, revision)
        return {"success": True, "commitOid": made.sha, "commitUrl": f"{self.hub.here}/{repo.id}/commit/{made.sha}"}

    def resolve(self, kind: str, owner: str, name: str, revision: str, path: str, query: Any) -> Any:
        repo = self._repo(kind.strip("/") or "models", owner, name)
        commit = self._commit(repo, revision)
        file = commit.files.get(path)
        seen = {"X-Repo-Commit": commit.sha}
        if file is None:
            raise Refused(404, "Entry not found", "EntryNotFound", seen)
        if not file.large:
            return self._bytes(self.hub.blob(file.sha256), {**seen, "ETag": f'"{file.oid}"'})
        where = f"{self.hub.storage}/blob/{file.sha256}?X-Signature={uuid.uuid4().hex}&name={quote(path)}"
        linked = {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size), "Location": where}
        return 302, b"", {**seen, **linked}

    def stored(self, sha256: str, query: Any) -> Any:
        return self._bytes(self.hub.blob(sha256), {"ETag": f'"{sha256}"'})

    def _bytes(self, content: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        """The content or the range that is asked for."""
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return 200, content, {**headers, "Content-Length": str(len(content))}
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        if start >= len(content):
            raise Refused(416, "range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
        piece = content[start : end + 1]
        span = f"bytes {start}-{start + len(piece) - 1}/{len(content)}"
        return 206, piece, {**headers, "Content-Range": span, "Content-Length": str(len(piece))}

    # -- what tests ask -----------------------------------------------------------------------------------------------

    def plan(self, query: Any) -> Any:
        self.hub.faults = json.loads(self._body)
        return {}

    def seen(self, query: Any) -> Any:
        return self.hub.log

    def forget(self, query: Any) -> Any:
        self.hub.log.clear()
        return {}

    def state(self, kind: str, owner: str, name: str, query: Any) -> Any:
        repo = self.hub.repos.get((kind, f"{owner}/{name}"))
        if repo is None:
            return None
        commits, sha = [], repo.branches.get("main")
        while sha is not None:
            commits.append({"sha": sha, "title": repo.commits[sha].title})
            sha = repo.commits[sha].parent
        head = repo.commits[repo.branches["main"]].files
        return {
            "private": repo.private, "tags": repo.tags, "commits": commits, "head": repo.branches["main"],
            "files": {path: {"sha256": f.sha256, "size": f.size, "large": f.large} for path, f in head.items()},
        }  # fmt: skip

    def back(self, query: Any) -> Any:
        """Take a repository back to a commit."""
        asked = json.loads(self._body)
        self.hub.repos[asked["kind"], asked["id"]].branches["main"] = asked["sha"]
        return {}

    def make(self, query: Any) -> Any:
        """A repository as a test wants it; see `Hub.make`."""
        return {"sha": self.hub.make(json.loads(self._body))}


def _entry(path: str, file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


def _ref(kind: str, name: str, sha: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}


REPO = r"/api/(?P<kind>models|datasets)/(?P<owner>[^/]+)/(?P<name>[^/]+)"
PLAIN = r"/(?P<kind>datasets/)?(?P<owner>[^/]+)/(?P<name>[^/]+)"
ROUTES: dict[str, list[tuple[str, str, str]]] = {
    "hub": [
        ("PUT", "/_control/faults", "plan"),
        ("GET", "/_control/log", "seen"),
        ("DELETE", "/_control/log", "forget"),
        ("PUT", "/_control/repo", "make"),
        ("PUT", "/_control/head", "back"),
        ("GET", "/_control/repo/(?P<kind>[^/]+)/(?P<owner>[^/]+)/(?P<name>[^/]+)", "state"),
        ("GET", "/api/whoami-v2", "whoami"),
        ("POST", "/api/repos/create", "create"),
        ("POST", "/api/validate-yaml", "validate"),
        ("POST", "/api/complete-multipart/(?P<upload>[^/]+)", "complete"),
        ("POST", REPO + "/lfs-verify", "verify"),
        ("GET", REPO, "info"),
        ("GET", REPO + "/revision/(?P<revision>[^/]+)", "info"),
        ("PUT", REPO + "/settings", "settings"),
        ("GET", REPO + "/tree/(?P<revision>[^/]+)(/(?P<inside>.+))?", "tree"),
        ("POST", REPO + "/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", REPO + "/refs", "refs"),
        ("POST", REPO + "/tag/(?P<revision>[^/]+)", "tag"),
        ("DELETE", REPO + "/tag/(?P<revision>[^/]+)", "untag"),
        ("POST", REPO + "/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", REPO + "/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", PLAIN + r"\.git/info/lfs/objects/batch", "batch"),
        ("GET", PLAIN + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ],
    "storage": [
        ("PUT", "/whole/(?P<upload>[^/]+)", "whole"),
        ("PUT", "/part/(?P<upload>[^/]+)/(?P<number>[0-9]+)", "part"),
        ("GET", "/blob/(?P<sha256>[0-9a-f]+)", "stored"),
    ],
}
"""Method (GET stands for HEAD too), path, method of `Handler`; patterns are tried on the path as it was sent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that was killed has nobody to tell."""


def serve() -> None:
    """Run until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--token", action="append", default=[], help="hf_x=owner:write or hf_x=owner:read")
    parser.add_argument("--page", type=int, default=50, help="entries of a page of a tree")
    parser.add_argument("--regular", type=int, default=4096, help="largest size in bytes that git itself keeps")
    parser.add_argument("--chunk", type=int, default=1_000_000, help="larger objects come in parts of so many bytes")
    given = parser.parse_args()
    tokens = {}
    for text in given.token:
        token, _, who = text.partition("=")
        owner, _, role = who.partition(":")
        tokens[token] = (owner, role)
    hub = Hub(given.folder, tokens, given.page, given.regular, given.chunk)
    front = _Server(("127.0.0.1", 0), type("Front", (Handler,), {"hub": hub}))
    storage = _Server(("127.0.0.1", 0), type("Storage", (Handler,), {"hub": hub, "is_storage": True}))
    hub.here, hub.storage = (f"http://127.0.0.1:{server.server_address[1]}" for server in (front, storage))
    threading.Thread(target=storage.serve_forever, daemon=True).start()
    print(json.dumps({"hub": hub.here, "storage": hub.storage}), flush=True)
    front.serve_forever()


if __name__ == "__main__":
    serve()
