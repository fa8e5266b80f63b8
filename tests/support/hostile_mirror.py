"""A mirror of the hub that lies in its answers, to have the client write where it should not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_server import Handler, Hub, serve


@dataclass
class Lies:
    """What is not true in the answers.

    Attributes:
        sha: The commit that a revision is said to stand for.
        listed: Paths that are listed beside those that are there.
        headers: Of answers to HEAD about files, in place of the true ones.
        missing: Files that the mirror says it has not, with the headers above.
        true_answers: HEAD requests that get the truth before.
        redirect: Where files are said to lie.
    """

    sha: str | None = None
    listed: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    true_answers: int = 0
    redirect: str = ""


class _Mirror(Handler):
    lies: Lies

    def send_json(self, answer: Any) -> None:
        if isinstance(answer, dict) and "siblings" in answer:
            if self.lies.sha is not None:
                answer["sha"] = self.lies.sha
            listed = [
                {"rfilename": path, "size": 1, "blobId": "0" * 40} for path in self.lies.listed
            ]
            answer["siblings"] = [*answer["siblings"], *listed]
        self.send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def send(
        self, content: bytes, headers: Mapping[str, str], status: int = 200, **more: Any
    ) -> None:
        if self.command == "HEAD" and self.lies.true_answers > 0:
            self.lies.true_answers -= 1
        elif self.command == "HEAD":
            headers = {**headers, **self.lies.headers}
            if any(name in self.path for name in self.lies.missing):
                headers, status = {**headers, "X-Error-Code": "EntryNotFound"}, 404
        if self.lies.redirect and "/resolve/" in self.path:
            headers, status = {**headers, "Location": self.lies.redirect}, 302
        super().send(content, headers, status, **more)


@contextmanager
def serve_lies(folders: Mapping[str, Path], lies: Lies) -> Iterator[Hub]:
    """Serve model folders, with lies."""
    with serve(folders, type("BoundMirror", (_Mirror,), {"lies": lies})) as hub:
        yield hub


def tree_of(folder: Path, *, but: Path) -> dict[str, bytes | None]:
    """Return all paths below a folder with what the files hold, except those of the cache."""
    found = {}
    for path in folder.rglob("*"):
        if not path.is_relative_to(but):
            is_file = path.is_file() and not path.is_symlink()
            found[str(path.relative_to(folder))] = path.read_bytes() if is_file else None
    return found
