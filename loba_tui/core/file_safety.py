"""Which files of a folder that may be a stranger's can be used: regular ones of one's own.

`owned_files` asks here for everything that it opens, before it is opened and after.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

from loba_tui.core.files import PRIVATE_FILE_MODE, UnsafeFileError

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK a named pipe would hold us, without O_NOCTTY a terminal could take us over.
OPEN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISDIR, "a folder"),
)

# What a file may have grown by while it was read.
_GROWTH_BYTES = 1024 * 1024


def open_folder(name: str | Path, above: int | None, shown: Path) -> int:
    """Return a descriptor of a folder; what is no folder raises `UnsafeFileError`."""
    try:
        return os.open(name, OPEN_FOLDER, dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise OSError(error.errno, error.strerror, str(shown)) from error
        facts = os.stat(name, dir_fd=above, follow_symlinks=False)
        raise UnsafeFileError(f"is {kind_of(facts)}, not a folder", shown) from error


def remove_at(name: str, folder: int) -> None:
    """Remove what is in a folder that is open; links are removed, not followed."""
    if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=folder)  # which follows no link
    else:
        os.unlink(name, dir_fd=folder)


def read_bounded(stream: BinaryIO, most_bytes: int, path: Path) -> bytes:
    """Return all of a file; one that is longer raises `UnsafeFileError`."""
    size = os.fstat(stream.fileno()).st_size
    if size <= most_bytes:
        # As long as it is said to be, since a read sets aside what it is asked for.
        content = stream.read(size + 1)
        if len(content) <= size:
            return content
        content += stream.read(min(most_bytes, _GROWTH_BYTES) + 1)
        if len(content) <= most_bytes:
            return content
    raise UnsafeFileError(f"is longer than {most_bytes:,} bytes", path)


def plain_name(name: str) -> str:
    """Return the name of a file in a folder; raise ValueError for a way to elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file")
    return name


def kind_of(facts: os.stat_result) -> str:
    """Return what a file is if it is not a regular one."""
    return next((words for is_kind, words in _KINDS if is_kind(facts.st_mode)), "a file")


def reason_against(facts: os.stat_result, folder: int) -> str | None:
    """Return why a file is not used, None where it can be."""
    if not stat.S_ISREG(facts.st_mode):
        return f"is {kind_of(facts)}"
    if facts.st_nlink > 1:
        return f"has {facts.st_nlink} names (hard links)"
    return None if is_own(facts, folder) else owner_words(facts)


def owner_words(facts: os.stat_result) -> str:
    """Return the words for a file that is another user's."""
    return f"belongs to user {facts.st_uid}, not to you ({os.geteuid()})"


# The user that a file system gives new files to, by device: others than ours on some volumes.
_uid_of_new_files: dict[int, int] = {}


def is_own(facts: os.stat_result, folder: int) -> bool:
    """Say whether a file is this user's.

    Network volumes and containers may show all files as another user's: there it counts whose a
    file is that is made now.
    """
    if facts.st_uid == os.geteuid():
        return True
    if facts.st_dev not in _uid_of_new_files:
        _uid_of_new_files[facts.st_dev] = _probe(folder)
    return facts.st_uid == _uid_of_new_files[facts.st_dev]


def _probe(folder: int) -> int:
    """Return whose a file is that this process makes in a folder."""
    name = f".{secrets.token_hex(8)}.tmp"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FILE
        descriptor = os.open(name, flags, PRIVATE_FILE_MODE, dir_fd=folder)
    except OSError:
        return os.geteuid()
    try:
        return os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
