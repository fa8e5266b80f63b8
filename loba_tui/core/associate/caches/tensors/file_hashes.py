"""Checksums of large files, remembered for as long as a file is certainly the one that was read.

A file is known by device, inode, size and both of its times; whoever writes to it changes the time
of its status, which cannot be set by hand. One that was touched just now is not remembered: the
clock of a file system ticks too coarsely to tell it from its next version.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from loba_tui.core.files import PRIVATE_DIR_MODE, replace_file

HASHES = "hashes"
_SHA256 = re.compile(rb"[0-9a-f]{64}")
_SETTLED_SECONDS = 3.0


class FileHashes:
    """sha256 by file, remembered in the folder of kept tensors `root`; None remembers nothing."""

    def __init__(self, root: Path | None = None) -> None:
        self._folder = None if root is None else root / HASHES

    def sha256(self, path: Path) -> str:
        """Return the checksum of a file's content, read anew unless it is remembered.

        Raises:
            OSError: It cannot be read.
        """
        facts = os.stat(path)
        known = self._place(facts)
        if known is not None:
            with suppress(OSError):
                found = known.read_bytes()
                if _SHA256.fullmatch(found):
                    return found.decode()
        with path.open("rb") as file:
            found_now = hashlib.file_digest(file, "sha256").hexdigest()
            after = os.fstat(file.fileno())
        if known is not None and self._place(after) == known and _is_settled(after):
            with suppress(OSError):
                known.parent.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
                replace_file(known, found_now.encode(), sync=False)
        return found_now

    def of_parts(self, folder: Path, names: list[str]) -> str:
        """Return one checksum over everything in these parts of a folder, names included.

        `names` are files and folders; one that is missing counts as such.
        """
        total = hashlib.sha256()
        for name in sorted(names):
            top = folder / name
            for path in sorted(each for each in (top, *top.rglob("*")) if each.is_file()):
                line = f"{os.fspath(path.relative_to(folder))}\0{self.sha256(path)}\n"
                total.update(line.encode("utf-8", "surrogateescape"))
        return total.hexdigest()

    def _place(self, facts: os.stat_result) -> Path | None:
        if self._folder is None:
            return None
        known = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        name = hashlib.sha256(repr(known).encode()).hexdigest()
        return self._folder / name[:2] / name


def _is_settled(facts: os.stat_result) -> bool:
    return time.time() - max(facts.st_mtime, facts.st_ctime) > _SETTLED_SECONDS
