"""The user's own drop-ins: where they lie, what makes one safe to read, and which are enabled.

A plugin runs with everything that the user may do, so it is enabled once, by the sha256 of what was
read and shown; a file that differs by one byte is not enabled. What is run later are the bytes that
were hashed, never a second reading of the file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loba_tui.core.errors import RefusedError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, replace_file
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.text import clean
from loba_tui.core.user_folders import user_folder_if_any

MAX_BYTES = 1024 * 1024
TRUST_VERSION = 1

Trust = Literal["trusted", "changed", "untrusted", "unsafe"]


@dataclass(frozen=True)
class PluginFile:
    """A plugin as it was read once.

    Attributes:
        kind: A key of `KINDS`.
        content: What was read; what is shown, trusted and run is this.
        unsafe: Why the file cannot be trusted as it lies there, with what to do; empty if it can.
    """

    kind: str
    name: str
    path: Path
    content: bytes
    unsafe: str = ""

    @property
    def key(self) -> str:
        """Return what the file is called in messages and in trusted.json."""
        return f"{self.kind}/{self.name}"

    @property
    def sha256(self) -> str:
        """Return the hash that the file is trusted by."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class UserPlugins:
    """Where the user's own drop-ins lie, and which of them are enabled.

    Attributes:
        folder: Holds `<kind>/<name>.py`; None if there are none.
        trusted: The file that remembers which of them are enabled; None enables none.
    """

    folder: Path | None = None
    trusted: Path | None = None

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> UserPlugins:
        """Return the user's own drop-ins; none where the user has no home folder."""
        config = user_folder_if_any(environ, "config")
        return cls() if config is None else cls(config / "plugins", config / "trusted.json")

    def files(self, kind: str) -> dict[str, Path]:
        """Return the user's files of a kind by name; tests that lie beside them are left out."""
        if self.folder is None:
            return {}
        try:
            found = sorted((self.folder / kind).glob("*.py"))
        except OSError:
            return {}
        return {path.stem: path for path in found if is_plugin_name(path.stem)}

    def read(self, kind: str, name: str) -> PluginFile:
        """Read a plugin once, and note what stands against trusting it.

        Raises:
            RefusedError: It is not an ordinary file, or too large.
            ResourceError: It cannot be read.
        """
        assert self.folder is not None
        path = self.folder / kind / f"{name}.py"
        content, status = _read(path)
        unsafe = _complaint(path, status)
        for folder in (path.parent, self.folder, self.folder.parent):
            unsafe = unsafe or _complaint(folder, folder.stat())
        return PluginFile(kind, name, path, content, unsafe)

    def trust_of(self, file: PluginFile) -> Trust:
        """Return whether a plugin is enabled as it was read."""
        if file.unsafe:
            return "unsafe"
        known = self._read_trusted().get(file.key)
        if known is None:
            return "untrusted"
        return "trusted" if known == file.sha256 else "changed"

    def require_trust(self, file: PluginFile) -> None:
        """Refuse a plugin that is not enabled.

        Raises:
            RefusedError: It is not, was changed since, or could be changed by somebody else.
        """
        message = self.refusal(file)
        if message:
            raise RefusedError(f"{clean(file.path)}: {message}")

    def refusal(self, file: PluginFile) -> str:
        """Return why a plugin may not run, and the command that changes it; empty if it may."""
        state = self.trust_of(file)
        if state == "unsafe":
            return file.unsafe
        command = f"read it, then enable it with: loba plugins trust {file.key}"
        if state == "changed":
            return f"it has changed since you trusted it; {command}"
        return "" if state == "trusted" else f"it is not trusted yet; {command}"

    def trust(self, file: PluginFile) -> None:
        """Enable a plugin as it was read.

        Raises:
            RefusedError: Somebody else could change the file.
        """
        if file.unsafe:
            raise RefusedError(f"{clean(file.path)}: {file.unsafe}")
        with self._changing() as known:
            known[file.key] = file.sha256

    def untrust(self, key: str) -> bool:
        """Disable a plugin by kind/name, also one that is gone; say whether it was enabled."""
        if key not in self._read_trusted():
            return False
        with self._changing() as known:
            known.pop(key, None)
        return True

    def trusted_keys(self) -> list[str]:
        """Return kind/name of everything that was ever enabled and not disabled."""
        return sorted(self._read_trusted())

    def _read_trusted(self) -> dict[str, str]:
        if self.trusted is None or not self.trusted.exists():
            return {}
        content, status = _read(self.trusted)
        unsafe = _complaint(self.trusted, status)
        if unsafe:
            raise RefusedError(f"{clean(self.trusted)}: {unsafe}")
        try:
            document = parse_json(content)
            plugins = document["plugins"]
            if document["version"] != TRUST_VERSION:
                raise ValueError(f"version {document['version']}")
            return {str(key): str(value["sha256"]) for key, value in plugins.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedError(
                f"{clean(self.trusted)}: cannot be understood, so no plugin is trusted.",
                "Remove it and trust your plugins anew: loba plugins trust",
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[dict[str, str]]:
        """Lend the table of trusted hashes for a change, alone, and write it atomically."""
        assert self.trusted is not None
        try:
            self.trusted.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIR_MODE)
            folder = os.open(self.trusted.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                # Two commands at once would each write back what the other has not read.
                fcntl.flock(folder, fcntl.LOCK_EX)
                known = self._read_trusted()
                yield known
                table = {key: {"sha256": value} for key, value in sorted(known.items())}
                document = {"version": TRUST_VERSION, "plugins": table}
                replace_file(self.trusted, json.dumps(document, indent=2).encode() + b"\n")
            finally:
                os.close(folder)
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(f"{self.trusted} cannot be written: {reason}.") from error


def is_plugin_name(stem: str) -> bool:
    """Say whether a file of this name, without .py, is a drop-in rather than a helper or test."""
    return stem.isidentifier() and not stem.startswith(("_", "test_")) and stem != "conftest"


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """Return a file's content and the status of that very file, links followed."""
    try:
        # A named pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RefusedError(f"{clean(path)}: is not an ordinary file")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ResourceError(f"{clean(path)}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise RefusedError(f"{clean(path)}: is larger than {MAX_BYTES} bytes")
    return content, status


def _complaint(path: Path, status: os.stat_result) -> str:
    if status.st_uid != os.geteuid():
        return f"{clean(path)} belongs to another user; only your own files are run"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{clean(path)} can be changed by other users; first: chmod go-w {clean(path)}"
    return ""
