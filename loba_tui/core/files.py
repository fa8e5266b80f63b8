"""Files that are there whole or not at all, whatever befalls the process or the disk meanwhile.

Every step is a call of `os`, so that a test can let each of them fail or be the last one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from loba_tui.core.errors import ResourceError

PRIVATE_DIR_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
_SUFFIX = ".tmp"
_LOCK_RETRY_SECONDS = 0.05
# A few network and FUSE file systems cannot sync a directory, and say so with one of these.
_NO_DIRECTORY_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})


def open_to_append(path: Path) -> int:
    """Return a descriptor that writes at the end of a file, which is made private if it is new."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    return os.open(path, flags, PRIVATE_FILE_MODE)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it: a disk that is nearly full, or a network, may take it in parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_file(
    path: Path, content: bytes, *, mode: int = PRIVATE_FILE_MODE, sync: bool = True
) -> None:
    """Write a new file; a link at its place is not followed.

    Args:
        mode: Permissions, less the umask.
        sync: Return only when the disk has it. Without, it survives a kill and no power cut.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        write_all(descriptor, content)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(
    path: Path, content: bytes, *, mode: int = PRIVATE_FILE_MODE, sync: bool = True
) -> None:
    """Replace a file, as `write_file` writes one: a reader sees the old content or the new."""
    with staged(path) as temporary:
        write_file(temporary, content, mode=mode, sync=sync)
    if sync:
        sync_directory(path.parent)


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


def unwritable(path: Path, error: OSError) -> ResourceError:
    """Return the error that says why a file cannot be written."""
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


def discard_staged(*folders: Path) -> None:
    """Remove what killed processes left half-written; no other process may write there now."""
    for folder in folders:
        for path in folder.glob(f".*.[0-9]*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                os.unlink(path)


def sync_directory(path: Path) -> None:
    """Make the names in a folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise
    finally:
        os.close(descriptor)


def discard_folder(path: Path) -> None:
    """Remove a folder as far as that can be done; what stays has a name that nobody takes for real.

    Its name changes first, so that a kill in between leaves no half of something whole.
    """
    with contextlib.suppress(OSError):
        if not path.name.startswith("."):
            path = path.rename(path.with_name(f".trash-{path.name}-{os.getpid()}"))
        shutil.rmtree(path, ignore_errors=True)


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
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        take_lock(descriptor, shared=shared)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
