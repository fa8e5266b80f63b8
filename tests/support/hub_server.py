"""A hub on loopback that speaks as much of the API as the real client asks for to read from it.

Faults are put in front of requests: each takes one that it fits, does its harm, and is used up.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from hub_layouts import git_sha1, sha256
from hub_repos import COMMIT, FolderRepo, KeptRepo, checksum, is_lfs

__all__ = ["COMMIT", "Fault", "Handler", "Hub", "KeptRepo", "Request", "serve"]


@dataclass
class Fault:
    """What goes wrong with requests whose path holds `part`.

    Attributes:
        kind: `cut` ends the connection after `number` bytes of the content, `reset` does so as a
            lost network does, and `stall` sends nothing more; `status` answers `number`; `alter`
            serves other bytes of the same length and `shorten` some fewer, as a proxy's own page.
        times: How many requests it hits.
    """

    part: str
    kind: Literal["cut", "reset", "stall", "status", "alter", "shorten"]
    number: int = 0
    times: int = 1
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str
    has_token: bool


class Hub:
    """Model repositories, what goes wrong, and what was asked for.

    Attributes:
        folders: Some, each of one commit.
        kept: Others, with a history.
        requested: The paths of all requests.
        etags: Other etags than the checksum, by path in the repository.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)
        self.kept: dict[str, KeptRepo] = {}
        self.requested: list[str] = []
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.etags: dict[str, str] = {}
        self.uploads: dict[str, bytes] = {}
        self.cards: dict[str, dict[str, Any]] = {}
        self.stalled = threading.Event()
        self.may_go_on = threading.Event()
        self.endpoint = ""
        self._lock = threading.Lock()

    def repo(self, repo_id: str) -> FolderRepo | KeptRepo | None:
        if repo_id in self.folders:
            return FolderRepo(self.folders[repo_id])
        return self.kept.get(repo_id)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.part in path:
                    fault.times -= 1
                    return fault
        return None

    def downloads(self, part: str) -> list[Request]:
        """Return the requests for a content."""
        return [
            each
            for each in self.requests
            if each.method == "GET" and "/resolve/" in each.path and part in each.path
        ]


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        path = unquote(self.path.split("?")[0])
        hub.requested.append(path)
        has_token = "authorization" in self.headers
        hub.requests.append(Request(self.command, path, self.headers.get("Range", ""), has_token))
        fault = hub.take_fault(self.command, path)
        if fault is not None and fault.kind == "status":
            self.send(b"", fault.headers, fault.number)
            return
        owner, name, *rest = [*path.removeprefix("/api/models").strip("/").split("/"), ""]
        repo = hub.repo(f"{owner}/{name}")
        revision = rest[1] if len(rest) > 2 else "main"
        found = repo.at(revision) if repo is not None else None
        if owner == "gated":
            self.send(b"", {"X-Error-Code": "GatedRepo"}, 403 if has_token else 401)
        elif repo is None or (repo.private and not has_token):
            self.send(b"", {"X-Error-Code": "RepoNotFound"}, 404)
        elif rest[0] == "refs":
            branches = [{"name": n, "ref": n, "targetCommit": c} for n, c in repo.refs.items()]
            self.send_json({"branches": branches, "converts": [], "tags": []})
        elif found is None:
            self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
        elif path.startswith("/api/"):
            self.describe(f"{owner}/{name}", repo.private, *found, tree=rest[0] == "tree")
        else:
            self.send_file(*found, "/".join(rest[2:-1]), fault)

    def send_file(
        self, commit: str, files: Mapping[str, Any], name: str, fault: Fault | None
    ) -> None:
        if name not in files:
            self.send(b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, 404)
            return
        content = files[name].read_bytes()
        etag = self.hub.etags.get(name, checksum(name, content))
        if fault is not None and fault.kind == "alter":
            content = bytes(255 - byte for byte in content)
        if fault is not None and fault.kind == "shorten":
            content = content[: fault.number]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        status, whole = 200, len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and self.command == "GET":
            start = int(wanted.group(1))
            if start >= whole:
                self.send(b"", {"Content-Range": f"bytes */{whole}"}, 416)
                return
            status, content = 206, content[start:]
            headers["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}"
        is_cut = fault is not None and fault.kind in ("cut", "reset", "stall")
        self.send(content, headers, status, cut_after=fault.number if fault and is_cut else None)
        if fault is not None and fault.kind == "stall":
            self.hub.stalled.set()
            self.hub.may_go_on.wait(30)
        if is_cut:
            self.close_connection = True
        if fault is not None and fault.kind == "reset":
            # Closed with unsent data dropped, so that the other side reads a reset and no end.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def describe(
        self, repo_id: str, private: bool, commit: str, files: Mapping[str, Any], *, tree: bool
    ) -> None:
        listed, siblings = [], []
        for name, path in files.items():
            content = path.read_bytes()
            oid = git_sha1(content)
            file: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": oid}
            sibling: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": oid}
            if is_lfs(name):
                lfs = {"size": len(content), "pointerSize": 130}
                file["lfs"] = {**lfs, "oid": sha256(content)}
                sibling["lfs"] = {**lfs, "sha256": sha256(content)}
            listed.append(file)
            siblings.append(sibling)
        info = {"id": repo_id, "sha": commit, "private": private, "siblings": siblings}
        if repo_id in self.hub.cards:
            info["cardData"] = self.hub.cards[repo_id]
        self.send_json(listed if tree else info)

    def send_json(self, answer: object) -> None:
        self.send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def send(
        self,
        content: bytes,
        headers: Mapping[str, str],
        status: int = 200,
        *,
        cut_after: int | None = None,
    ) -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut_after])
            self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


@contextmanager
def serve(folders: Mapping[str, Path], handler: type[Handler] = Handler) -> Iterator[Hub]:
    hub = Hub(folders)
    server = _Server(("127.0.0.1", 0), type("BoundHandler", (handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
