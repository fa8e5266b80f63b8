"""A file to read that is either one the user named, or one in a folder that may be a stranger's."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from loba_tui.core.file_safety import OPEN_FILE, kind_of, read_bounded
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.owned_files import OwnedFile

Source = Path | OwnedFile
"""A file that the user named, or one below a folder that may be a stranger's."""


def file_at(path: Path) -> OwnedFile:
    """Return the file at a path that the user named, whose folder may be reached by links."""
    return OwnedFile(Path(os.path.realpath(path.parent)), (path.name,))


def path_of(source: Source) -> Path:
    """Return where a file is, for messages."""
    return source if isinstance(source, Path) else source.path


def open_source(source: Source) -> BufferedReader:
    """Open a file for reading that the user named, or one below a folder.

    The user's own links are followed; what is not a regular file raises `UnsafeFileError`.
    """
    if isinstance(source, OwnedFile):
        return source.open()
    if not stat.S_ISREG((facts := os.stat(source)).st_mode):
        raise UnsafeFileError(f"is {kind_of(facts)}, not a file", source)
    descriptor = os.open(source, os.O_RDONLY | OPEN_FILE & ~os.O_NOFOLLOW)
    if not stat.S_ISREG((facts := os.fstat(descriptor)).st_mode):
        os.close(descriptor)
        raise UnsafeFileError(f"is {kind_of(facts)}, not a file", source)
    return os.fdopen(descriptor, "rb")


def read_source(source: Source, most_bytes: int) -> bytes:
    """Return the content of what `open_source` opens; one that is longer is refused."""
    with open_source(source) as stream:
        return read_bounded(stream, most_bytes, path_of(source))
