"""A hub on loopback that speaks as much of the API as the real client asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Folders as model repositories, and what was asked for."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        self.requested: list[str] = []
        self.endpoint = ""


@contextmanager
def serve(folders: Mapping[str, Path]) -> Iterator[Hub]:
    hub = Hub(folders)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(self.path.split("?")[0])
            hub.requested.append(path)
            owner, name, *rest = [*path.removeprefix("/api/models").strip("/").split("/"), ""]
            folder = hub.folders.get(f"{owner}/{name}")
            revision = rest[1] if len(rest) > 2 else "main"
            if owner == "gated":
                self.send(b"", {"X-Error-Code": "GatedRepo"}, 403)
            elif folder is None:
                self.send(b"", {"X-Error-Code": "RepoNotFound"}, 404)
            elif revision not in ("main", COMMIT):
                self.send(b"", {"X-Error-Code": "RevisionNotFound"}, 404)
            elif path.startswith("/api/"):
                self.describe(folder, tree=rest[0] == "tree")
            else:
                content = (folder / "/".join(rest[2:-1])).read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self.send(content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

        def describe(self, folder: Path, *, tree: bool) -> None:
            files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
            answer: Any
            if tree:
                answer = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": "0"}
                    for name, path in files.items()
                ]
            else:
                siblings = [{"rfilename": name} for name in files]
                answer = {"id": folder.name, "sha": COMMIT, "siblings": siblings}
            self.send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def send(self, content: bytes, headers: Mapping[str, str], status: int = 200) -> None:
            self.send_response(status)
            for header, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
