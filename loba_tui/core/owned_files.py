"""Files below a folder that may be a stranger's: reached by descriptors, and only one's own.

Whoever made a folder may have put links, named pipes, devices or other people's files into it, and
may swap one for another between a check and its use. So nothing below such a folder is opened by
its path: each part is opened from the one above it, no link is followed in any of them, and a file
is used only if what was opened is a regular file of this user that has no other name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from loba_tui.core.file_safety import (
    OPEN_FILE,
    is_own,
    open_folder,
    owner_words,
    plain_name,
    read_bounded,
    reason_against,
    remove_at,
)
from loba_tui.core.files import (
    PRIVATE_DIR_MODE,
    PRIVATE_FILE_MODE,
    UnsafeFileError,
    is_descriptor_locked,
    is_staged,
    replace_at,
    sync_descriptor,
    unwritable,
    write_new,
)

MAX_ENTRIES = 50_000
MAX_DEPTH = 12


@dataclass(frozen=True)
class OwnedFolder:
    """A folder at or below `root`, which is itself no link.

    Methods raise `UnsafeFileError`, an OSError, for a part that is not a folder.
    """

    root: Path
    parts: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Return where it is, for messages; nothing is opened by it."""
        return self.root.joinpath(*self.parts)

    @property
    def name(self) -> str:
        """Return its own name."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def file(self, name: str) -> OwnedFile:
        """Return a file in it, whether it exists yet or not."""
        return OwnedFile(self.root, (*self.parts, plain_name(name)))

    def folder(self, name: str) -> OwnedFolder:
        """Return a folder in it, whether it exists yet or not."""
        return OwnedFolder(self.root, (*self.parts, plain_name(name)))

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """Lend a descriptor of the folder."""
        descriptor = open_folder(self.root, None, self.root)
        try:
            for number, part in enumerate(self.parts, 1):
                shown = self.root.joinpath(*self.parts[:number])
                inner = open_folder(part, descriptor, shown)
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)

    def is_there(self) -> bool:
        """Say whether it is a folder, reached without a link."""
        try:
            with self.opened():
                return True
        except OSError:
            return False

    def make(self) -> None:
        """Make the folder, private to its user, if it is not there; the one above must be."""
        if not self.parts:
            raise ValueError(f"{self.root} is not below a folder")
        with OwnedFolder(self.root, self.parts[:-1]).opened() as above:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.parts[-1], PRIVATE_DIR_MODE, dir_fd=above)
            os.close(open_folder(self.parts[-1], above, self.path))

    def names(self) -> list[str]:
        """Return the names of all that is in it, sorted; none where it is missing."""
        try:
            with self.opened() as descriptor:
                return sorted(os.listdir(descriptor))
        except FileNotFoundError:
            return []

    def rename(self, old: str, new: str) -> None:
        """Give what is in it another name in it."""
        with self.opened() as folder:
            os.rename(plain_name(old), plain_name(new), src_dir_fd=folder, dst_dir_fd=folder)

    def holds(self, name: str) -> bool:
        """Say whether something of this name is in it, of whatever kind."""
        try:
            with self.opened() as folder:
                os.stat(plain_name(name), dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def discard(self, name: str) -> None:
        """Remove a folder in it as far as that can be done; links are removed, not followed.

        Its name changes first, so that a kill in between leaves no half of something whole.
        """
        with contextlib.suppress(OSError), self.opened() as folder:
            if not name.startswith("."):
                trash = f".trash-{name}-{os.getpid()}"
                os.rename(plain_name(name), trash, src_dir_fd=folder, dst_dir_fd=folder)
                name = trash
            remove_at(plain_name(name), folder)

    def remove_all(self, *, last: str) -> None:
        """Remove it with all that is in it; links are removed, not followed.

        Args:
            last: The name that goes last, by which half of it is still known for what it is.
        """
        above = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Held open while it is emptied, so that what is removed at last is what was emptied.
            with self.opened() as folder:
                facts = os.fstat(folder)
                for name in sorted(os.listdir(folder), key=lambda name: name == last):
                    remove_at(name, folder)
            now = os.stat(self.name, dir_fd=above, follow_symlinks=False)
            if (now.st_dev, now.st_ino) != (facts.st_dev, facts.st_ino):
                raise UnsafeFileError("was replaced by another meanwhile", self.path)
            os.rmdir(self.name, dir_fd=above)
        finally:
            os.close(above)

    def discard_staged(self) -> None:
        """Remove what killed processes left half-written; no other process may write here now."""
        for name in self.names():
            if is_staged(name):
                with contextlib.suppress(OSError), self.opened() as folder:
                    os.unlink(name, dir_fd=folder)

    def write_new(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file that is not there yet, as `core.files.write_new` does."""
        with self.opened() as folder:
            write_new(plain_name(name), content, sync=sync, folder=folder)

    def sync(self) -> None:
        """Make the names in it last through a power cut."""
        with self.opened() as descriptor:
            sync_descriptor(descriptor)

    def walk(self) -> Iterator[tuple[tuple[str, ...], os.stat_result]]:
        """Yield the parts and the facts of everything below it, links not followed.

        What goes away meanwhile is left out. More than MAX_ENTRIES, and folders nested deeper than
        MAX_DEPTH, raise `UnsafeFileError`.
        """
        num_entries = 0
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            parts = waiting.pop()
            for name, facts in OwnedFolder(self.root, (*self.parts, *parts))._entries():
                num_entries += 1
                if num_entries > MAX_ENTRIES:
                    raise UnsafeFileError(f"holds more than {MAX_ENTRIES} files", self.path)
                yield (*parts, name), facts
                if stat.S_ISDIR(facts.st_mode):
                    if len(parts) >= MAX_DEPTH:
                        raise UnsafeFileError(f"is deeper than {MAX_DEPTH} folders", self.path)
                    waiting.append((*parts, name))

    def _entries(self) -> Iterator[tuple[str, os.stat_result]]:
        with contextlib.suppress(FileNotFoundError), self.opened() as descriptor:
            for name in sorted(os.listdir(descriptor)):
                with contextlib.suppress(FileNotFoundError):
                    yield name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)

    def unsafe_entries(self) -> Iterator[str]:
        """Yield a sentence for everything in it that is not this user's own file or folder."""
        try:
            with self.opened() as descriptor:
                facts = os.fstat(descriptor)
                if not is_own(facts, descriptor):
                    yield f"{self.path} {owner_words(facts)}"
                for parts, facts in self.walk():
                    is_folder = stat.S_ISDIR(facts.st_mode)
                    reason = None if is_folder else reason_against(facts, descriptor)
                    if is_folder and not is_own(facts, descriptor):
                        reason = owner_words(facts)
                    if reason:
                        yield f"{'/'.join(parts)} {reason}"
        except FileNotFoundError:
            return
        except OSError as error:
            yield f"{error.filename or self.path} {error.strerror or error}"


@dataclass(frozen=True)
class OwnedFile:
    """A file below `root`, whether it exists yet or not.

    Methods raise `UnsafeFileError`, an OSError, for what is not a regular file of this user with
    one name, and for a link in any part of the way.
    """

    root: Path
    parts: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Return where it is, for messages and other programs; nothing here is opened by it."""
        return self.root.joinpath(*self.parts)

    @property
    def name(self) -> str:
        """Return its own name."""
        return self.parts[-1]

    @property
    def folder(self) -> OwnedFolder:
        """Return the folder that it is in."""
        return OwnedFolder(self.root, self.parts[:-1])

    def __str__(self) -> str:
        return str(self.path)

    def descriptor(self, flags: int = os.O_RDONLY, mode: int = PRIVATE_FILE_MODE) -> int:
        """Open it and return the descriptor."""
        with self.folder.opened() as folder:
            # Looked at before it is opened, as opening a device can already do something.
            with contextlib.suppress(FileNotFoundError):
                self._require_own(os.stat(self.name, dir_fd=folder, follow_symlinks=False), folder)
            descriptor = os.open(self.name, flags | OPEN_FILE, mode, dir_fd=folder)
            try:
                self._require_own(os.fstat(descriptor), folder)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor

    def open(self) -> BufferedReader:
        """Open it for reading."""
        return os.fdopen(self.descriptor(), "rb")

    def open_to_append(self) -> int:
        """Return a descriptor that writes at the end of the file, which is made if it is new."""
        return self.descriptor(os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def read(self, most_bytes: int) -> bytes:
        """Return its content; one that is longer raises `UnsafeFileError`."""
        with self.open() as stream:
            return read_bounded(stream, most_bytes, self.path)

    def stat(self) -> os.stat_result:
        """Return its facts."""
        with self.folder.opened() as folder:
            facts = os.stat(self.name, dir_fd=folder, follow_symlinks=False)
            self._require_own(facts, folder)
        return facts

    def is_there(self) -> bool:
        """Say whether it is there and can be used."""
        try:
            self.stat()
        except OSError:
            return False
        return True

    def replace(self, content: bytes, *, mode: int = PRIVATE_FILE_MODE, sync: bool = False) -> None:
        """Replace it so that a reader sees the old content or the new, never a part.

        Args:
            mode: Permissions, less the umask.
            sync: Make it last through a power cut, too; that takes milliseconds.

        Raises:
            RefusedError: Its folder is reached through a link.
            ResourceError: It cannot be written.
        """
        try:
            with self.folder.opened() as folder:
                replace_at(folder, self.name, content, mode=mode, sync=sync)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def remove(self) -> None:
        """Remove the name, whatever stands under it."""
        with self.folder.opened() as folder:
            os.unlink(self.name, dir_fd=folder)

    def is_locked(self, *, shared: bool = False) -> bool | None:
        """Say whether others keep its lock from being taken; None where that cannot be told."""
        try:
            descriptor = self.descriptor()
        except (FileNotFoundError, UnsafeFileError):  # none of ours can be held
            return False
        except OSError:
            return None
        return is_descriptor_locked(descriptor, shared=shared)

    def _require_own(self, facts: os.stat_result, folder: int) -> None:
        reason = reason_against(facts, folder)
        if reason:
            raise UnsafeFileError(reason, self.path)
