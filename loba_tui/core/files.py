"""Files that are there whole or not at all, whatever befalls the process or the disk meanwhile.

Every step is a call of `os`, so that a test can let each of them fail or be the last one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from loba_tui.core.errors import LobaError, RefusedError, ResourceError

PRIVATE_DIR_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
_SUFFIX = ".tmp"
_STAGED = re.compile(r"\..+\.[0-9]+" + re.escape(_SUFFIX))
_LOCK_RETRY_SECONDS = 0.05
# A few network and FUSE file systems cannot sync a directory, and say so with one of these.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})


class UnsafeFileError(OSError):
    """A file that is not used, as it is not what it has to be; `strerror` says why."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EPERM, reason, str(path))


def open_to_append(path: Path) -> int:
    """Return a descriptor that writes at the end of a file, which is made private if it is new."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    return os.open(path, flags, PRIVATE_FILE_MODE)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it: a disk that is nearly full, or a network, may take it in parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_new(
    path: str | Path,
    content: bytes,
    *,
    mode: int = PRIVATE_FILE_MODE,
    sync: bool = True,
    folder: int | None = None,
) -> None:
    """Write a file that is not there yet.

    Args:
        mode: Permissions, less the umask.
        sync: Return only when the disk has it. Without, it survives a kill and no power cut.
        folder: The descriptor that a relative path starts from.
    """
    # O_EXCL: a link or another name of somebody's file must not take the content.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode, dir_fd=folder)
    try:
        write_all(descriptor, content)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_at(
    folder: int, name: str, content: bytes, *, mode: int = PRIVATE_FILE_MODE, sync: bool = True
) -> None:
    """Replace a file in a folder that is open: a reader sees the old content or the new.

    A link at its place is replaced, not followed.

    Args:
        mode: Permissions, less the umask.
        sync: Make it last through a power cut, its name included.
    """
    temporary = f".{name}.{os.getpid()}{_SUFFIX}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        write_new(temporary, content, mode=mode, sync=sync, folder=folder)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    if sync:
        sync_descriptor(folder)


def replace_file(
    path: Path, content: bytes, *, mode: int = PRIVATE_FILE_MODE, sync: bool = True
) -> None:
    """Replace a file, as `replace_at` does, in a folder that the user named."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        replace_at(folder, path.name, content, mode=mode, sync=sync)
    finally:
        os.close(folder)


def write_atomically(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Replace a file so that a reader sees the old content or the new, never a part.

    Args:
        sync: Make it last through a power cut, too; that takes milliseconds.

    Raises:
        ResourceError: It cannot be written.
    """
    try:
        replace_file(path, content, sync=sync)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> LobaError:
    """Return the error that says why a file cannot be written."""
    if isinstance(error, UnsafeFileError):
        return RefusedError(
            f"{error.filename} {error.strerror}; nothing is written.",
            "Look at the folder, and remove what LOBA-Trainer did not put there.",
        )
    return ResourceError(
        f"{path} cannot be written: {error.strerror or error}.",
        "Check the owner and the free space of its folder.",
    )


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Lend a name beside `path` to write to; at the end it takes the place of `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def is_staged(name: str) -> bool:
    """Say whether a name is that of a file that was being written."""
    return _STAGED.fullmatch(name) is not None


def sync_directory(path: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_descriptor(folder: int) -> None:
    """Make the names in a folder that is open last through a power cut."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def take_lock(descriptor: int, *, shared: bool = False, patience: float = 0.0) -> None:
    """Lock an open file until it is closed, waiting for its holder for some seconds.

    Raises:
        BlockingIOError: Another holds it still.
        OSError: The file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_LOCK_RETRY_SECONDS)


def is_locked(path: Path, *, shared: bool = False) -> bool | None:
    """Say whether others keep this lock from being taken; None where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return is_descriptor_locked(descriptor, shared=shared)


def is_descriptor_locked(descriptor: int, *, shared: bool = False) -> bool | None:
    """Say whether others keep an open file from being locked, and close it; None is unknown."""
    try:
        take_lock(descriptor, shared=shared)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
