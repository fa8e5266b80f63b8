"""Lets the n-th file operation below a folder fail, be done in part, or be this process's last.

Only calls of Python's `os` are seen; everything that a run must not lose is written through them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

Fault = Literal["ENOSPC", "EIO", "SIGKILL", "ENOSPC for good"]
FAULTS: tuple[Fault, ...] = ("ENOSPC", "EIO", "SIGKILL", "ENOSPC for good")

BY_PATH = ("open", "mkdir", "rename", "replace", "unlink", "rmdir")
BY_DESCRIPTOR = ("write", "pwrite", "fsync", "ftruncate", "close")


class FaultyFiles:
    """Counts file operations below `folder`, and makes number `at` (from 1) go wrong.

    A write that is to fail is half done first, as it is on a disk that fills up.

    Attributes:
        count: Operations so far.
        log: Their names and paths, in order.
    """

    def __init__(self, folder: Path, at: int = 0, fault: Fault = "SIGKILL") -> None:
        self._folder = str(folder)
        self._at = at
        self._fault = fault
        self._paths: dict[int, str] = {}
        self._folders: dict[int, str] = {}
        self._is_full = False
        self.count = 0
        self.log: list[str] = []

    @property
    def has_struck(self) -> bool:
        """Whether the operation to go wrong was reached."""
        return 0 < self._at <= self.count

    @contextlib.contextmanager
    def installed(self) -> Iterator[FaultyFiles]:
        """Replace the functions of `os` for a while."""
        originals = {name: getattr(os, name) for name in (*BY_PATH, *BY_DESCRIPTOR)}
        for name in BY_PATH:
            setattr(os, name, self._on_path(name, originals[name]))
        for name in BY_DESCRIPTOR:
            setattr(os, name, self._on_descriptor(name, originals[name]))
        try:
            yield self
        finally:
            for name, original in originals.items():
                setattr(os, name, original)

    def _on_path(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            where = os.fspath(path) if not isinstance(path, int) else ""
            above = kwargs.get("dir_fd") or kwargs.get("src_dir_fd") or -1
            folder = self._paths.get(above) or self._folders.get(above)
            if folder is not None:
                where = f"{folder}/{where}"
            if not str(where).startswith(self._folder):
                return original(path, *args, **kwargs)
            # To read, or to open a folder on the way to a file, changes nothing.
            if name == "open" and args and not args[0] & (os.O_WRONLY | os.O_RDWR):
                result = original(path, *args, **kwargs)
                if args[0] & os.O_DIRECTORY:
                    self._folders[result] = str(where)
                return result
            self._strike(name, str(where))
            result = original(path, *args, **kwargs)
            if name == "open":
                self._paths[result] = str(where)
            return result

        return call

    def _on_descriptor(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, *args: Any) -> Any:
            if name == "close":
                self._folders.pop(descriptor, None)
            where = self._paths.get(descriptor) or self._folders.get(descriptor)
            if where is None:
                return original(descriptor, *args)
            if name == "close":
                del self._paths[descriptor]

            def half() -> None:
                if name == "write" and len(args[0]) > 1:
                    original(descriptor, args[0][: len(args[0]) // 2])
                elif name == "close":  # it is closed, whatever it says
                    original(descriptor)

            self._strike(name, where, half)
            return original(descriptor, *args)

        return call

    def _strike(self, name: str, where: str, half: Callable[[], None] = lambda: None) -> None:
        self.count += 1
        self.log.append(f"{name} {where.removeprefix(self._folder)}")
        if self._is_full and name in ("open", "write", "pwrite", "mkdir", "rename", "replace"):
            half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
        if self.count != self._at:
            return
        half()
        if self._fault == "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_full = self._fault == "ENOSPC for good"
        number = errno.EIO if self._fault == "EIO" else errno.ENOSPC
        raise OSError(number, os.strerror(number), where)
