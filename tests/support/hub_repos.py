"""What a hub on loopback holds: folders, and repositories with a history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hub_layouts import commit_of, git_sha1, sha256

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".png", ".bin"))


def checksum(name: str, content: bytes) -> str:
    return sha256(content) if is_lfs(name) else git_sha1(content)


@dataclass(frozen=True)
class FolderRepo:
    """A folder as a repository of one commit."""

    folder: Path
    private: bool = False

    @property
    def refs(self) -> dict[str, str]:
        return {"main": COMMIT}

    def at(self, revision: str) -> tuple[str, Mapping[str, Path]] | None:
        if revision not in ("main", COMMIT):
            return None
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        return COMMIT, {path.relative_to(self.folder).as_posix(): path for path in files}


@dataclass(frozen=True)
class Content:
    """Bytes that are read as a file's are."""

    content: bytes

    def read_bytes(self) -> bytes:
        return self.content


@dataclass
class KeptRepo:
    """A repository that is committed to."""

    private: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.refs:
            self.commit("main", {".gitattributes": b""}, "initial commit")

    def at(self, revision: str) -> tuple[str, Mapping[str, Content]] | None:
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None

    def commit(self, branch: str, files: Mapping[str, bytes], message: str) -> str:
        before = self.commits.get(self.refs.get(branch, ""), {})
        number = f"{len(self.commits)} {branch} {message}"
        sha = commit_of(number)
        self.commits[sha] = {**before, **{name: Content(each) for name, each in files.items()}}
        self.refs[branch] = sha
        self.messages.append(message)
        return sha
