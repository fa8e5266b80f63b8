"""Move things about in a cache without ever leaving it, and the locks that this is done under.

A path is relative to the cache's root and is walked one folder at a time by descriptor, no link
followed: what somebody swaps for a link in between is refused, not followed. Links themselves are
moved as links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from loba_tui.core.associate.caches.hub.layout import LOCKS, STORE
from loba_tui.core.errors import InUseError, RefusedError, ResourceError
from loba_tui.core.file_safety import OPEN_FOLDER
from loba_tui.core.files import PRIVATE_DIR_MODE, PRIVATE_FILE_MODE, take_lock
from loba_tui.core.text import clean

_PATIENCE_SECONDS = 20.0


def check_path(path: str) -> list[str]:
    """Return the parts of a relative path that names something below the root.

    Raises:
        RefusedError: It could lead anywhere else.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RefusedError(f"{clean(path, limit=200)} does not lie in the cache.")
    return parts


@contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open a folder and yield its descriptor; the path itself must not be a link."""
    descriptor = os.open(path, OPEN_FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def parent_of(root: int, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder below the descriptor `root` that holds `path`; yield it and the last part.

    Raises:
        RefusedError: A folder on the way is a link or lies on another file system.
        FileNotFoundError: One is missing.
    """
    parts = check_path(path)
    device = os.fstat(root).st_dev
    here = os.dup(root)
    try:
        for part in parts[:-1]:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=here)
            try:
                below = os.open(part, OPEN_FOLDER, dir_fd=here)
            except (FileNotFoundError, PermissionError):
                raise
            except OSError as error:
                raise RefusedError(
                    f"{clean(path, limit=200)}: {clean(part)} is not a folder of the cache itself.",
                    "Nothing is removed through a link.",
                ) from error
            os.close(here)
            here = below
            if os.fstat(here).st_dev != device:
                raise RefusedError(
                    f"{clean(path, limit=200)} lies on another file system than its cache."
                )
        yield here, parts[-1]
    finally:
        os.close(here)


def entries_of(
    path: str | Path, on_error: Callable[[OSError], None] = lambda error: None
) -> dict[str, os.DirEntry[str]]:
    """Return what lies in a folder by name; nothing where it cannot be listed, which is told."""
    try:
        with os.scandir(path) as found:
            return {entry.name: entry for entry in found}
    except OSError as error:
        on_error(error)
        return {}


def exists(folder: int, name: str) -> bool:
    """Say whether a name is there, be it a broken link."""
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def is_real_folder(folder: int, name: str) -> bool:
    """Say whether a name is a folder and not a link to one."""
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)
    except FileNotFoundError:
        return False


def merge(source: int, name: str, target: int, as_name: str) -> list[str]:
    """Move an entry, merging folders; return the relative paths that were there, and so stayed."""
    if not exists(target, as_name):
        os.rename(name, as_name, src_dir_fd=source, dst_dir_fd=target)
        return []
    if not (is_real_folder(source, name) and is_real_folder(target, as_name)):
        return [as_name]
    kept = []
    from_folder = os.open(name, OPEN_FOLDER, dir_fd=source)
    to_folder = os.open(as_name, OPEN_FOLDER, dir_fd=target)
    try:
        for child in sorted(os.listdir(from_folder)):
            kept += [f"{as_name}/{path}" for path in merge(from_folder, child, to_folder, child)]
    finally:
        os.close(from_folder)
        os.close(to_folder)
    return kept


@contextmanager
def locked(
    path: Path, *, what: str, shared: bool = False, patience: float = _PATIENCE_SECONDS
) -> Iterator[None]:
    """Hold a lock file, whose folder is made, waiting for its holder for some seconds.

    Raises:
        InUseError: It is held by another.
        ResourceError: It cannot be opened.
    """
    try:
        path.parent.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, PRIVATE_FILE_MODE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(
            f"{clean(path)} cannot be written: {why}.",
            "The trash, pins and locks of a cache lie beside it; make that folder writable.",
        ) from error
    try:
        try:
            take_lock(descriptor, shared=shared, patience=patience)
        except BlockingIOError as error:
            raise InUseError(
                f"{what} is in use by another process.", "Try again when it is done."
            ) from error
        yield
    finally:
        os.close(descriptor)


def client_is_busy(root: int, folder: str) -> bool:
    """Say whether the hub's client is fetching a file of a repository just now."""
    try:
        with parent_of(root, f"{LOCKS}/{folder}/x") as (locks, _):
            for name in os.listdir(locks):
                with _client_lock(locks, name) as is_ours:
                    if not is_ours:
                        return True
    except (FileNotFoundError, RefusedError):
        pass
    return False


@contextmanager
def client_lock(root: int, path: str) -> Iterator[None]:
    """Hold the lock under which the hub's client writes the blob or payload at `path`.

    Raises:
        InUseError: The client holds it.
    """
    parts = path.split("/")
    with ExitStack() as stack:
        if parts[0] == STORE:
            lock = f"{path.removesuffix('.refs')}.lock"
        elif len(parts) == 3 and parts[1] == "blobs":
            lock = f"{LOCKS}/{parts[0]}/{parts[2]}.lock"
        else:
            yield
            return
        folder, name = stack.enter_context(parent_of(root, lock, make=True))
        if not stack.enter_context(_client_lock(folder, name, make=True)):
            raise InUseError(
                f"{clean(path, limit=200)} is being fetched just now.",
                "Try again when that is done.",
            )
        yield


@contextmanager
def _client_lock(folder: int, name: str, *, make: bool = False) -> Iterator[bool]:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
    try:
        # The mode is the client's own, so that others who share the cache can take it too.
        descriptor = os.open(name, flags, 0o664, dir_fd=folder)
    except OSError:
        yield True
        return
    try:
        try:
            take_lock(descriptor)
            is_ours = True
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(descriptor)
