"""Keep computed tensors on disk, so that the next run need not compute them again.

Whatever is wrong with the store costs time and nothing else: an entry that is damaged is reported
and made again, a disk that is full or cannot be written is reported once and done without. Several
runs may read and write at the same time.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from loba_tui.core.associate.caches.tensors import layout as tensor_layout
from loba_tui.core.associate.caches.tensors.layout import TensorKind
from loba_tui.core.files import (
    PRIVATE_DIR_MODE,
    PRIVATE_FILE_MODE,
    replace_file,
    take_lock,
    write_new,
)
from loba_tui.core.text import clean

logger = logging.getLogger(__name__)

# What the cache leaves free: a checkpoint is worth more than anything that can be made again.
_SPARE_BYTES = 512 * 2**20
_MAX_ENTRY_BYTES = 2**30
# How stale the record of the last use may be; each use would otherwise write to the disk.
_TOUCH_SECONDS = 600.0
_LOCK_SECONDS = 5.0


class TensorStore:
    """Tensors by key, of one kind and one producer; nothing is read or written before it is asked.

    Args:
        root: From `tensors_folder`.
        fingerprint: Everything that an entry's bits depend on beside its key, as plain values:
            model, libraries, device. Another producer's entries are never seen.
        on_problem: Told what is wrong, as a sentence.
        spare_bytes: Nothing is written where less is free on the disk.
        sync: Wait for the disk with each entry. Without, a power cut may damage some; the checksum
            tells, and they are made again.

    Attributes:
        damaged: Entries that were there and could not be used.
    """

    def __init__(
        self,
        root: Path,
        kind: TensorKind,
        fingerprint: Mapping[str, Any],
        *,
        on_problem: Callable[[str], None] = logger.warning,
        spare_bytes: int = _SPARE_BYTES,
        sync: bool = True,
    ) -> None:
        name = tensor_layout.group_name(fingerprint)
        self.folder = root / kind / name
        self._lock_path = tensor_layout.lock_path(root, kind, name)
        self._fingerprint = dict(fingerprint)
        self._on_problem = on_problem
        self._spare_bytes = spare_bytes
        self._sync = sync
        self._lock: int | None = None
        self._is_open = False
        self._can_read = self._can_write = True
        self.hits = self.misses = self.damaged = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind: another process takes its own."""
        return {**self.__dict__, "_lock": None, "_is_open": False}

    def key(self, parts: Mapping[str, Any]) -> str:
        """Return the key of an entry that depends on these plain values, and on the producer."""
        return tensor_layout.digest({"shelf": self._fingerprint, "entry": parts})

    def has(self, key: str) -> bool:
        """Say whether there seems to be an entry; only `get` finds out whether it is whole."""
        return tensor_layout.entry_path(self.folder, key).is_file()

    def get(self, key: str) -> dict[str, Tensor] | None:
        """Return an entry's tensors, on the CPU and as they were put; None where there is none."""
        self._open()
        path = tensor_layout.entry_path(self.folder, key)
        try:
            content = self._read(path) if self._can_read else None
        except OSError as error:
            self._on_problem(f"{clean(path)} cannot be read: {error.strerror}; it is made again.")
            content = None
        if content is None:
            self.misses += 1
            return None
        try:
            tensor_layout.check(content, key)
            # Copied: math libraries were built to give other last bits where memory is not aligned,
            # as it is in the middle of a file, and a view would keep the whole file in memory.
            tensors = {name: alone(tensor) for name, tensor in load(content).items()}
        except (ValueError, TypeError, SafetensorError) as error:
            self.damaged += 1
            self._on_problem(f"{clean(path)} is damaged: {clean(error)}; it is made again.")
            with suppress(OSError):
                path.unlink()
            return None
        self.hits += 1
        return tensors

    def put(self, key: str, tensors: Mapping[str, Tensor], *, describe: Mapping[str, Any]) -> None:
        """Keep tensors; where that cannot be, say so once and go on without.

        Args:
            tensors: By name, on any device.
            describe: What a listing says of the entry; plain values.
        """
        self._open()
        if not self._can_write:
            return
        plain = save({name: alone(tensor) for name, tensor in tensors.items()})
        content = tensor_layout.pack(plain, key, describe)
        try:
            self._write(tensor_layout.entry_path(self.folder, key), content)
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def close(self) -> None:
        """Let others remove what is here."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock, self._is_open = None, False

    def _read(self, path: Path) -> bytes | None:
        try:
            # O_NONBLOCK: a named pipe put here must not hold the run.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(path, flags), "rb") as file:
                facts = os.fstat(file.fileno())
                content = file.read(_MAX_ENTRY_BYTES)
                if time.time() - facts.st_mtime > _TOUCH_SECONDS:
                    with suppress(OSError):
                        os.utime(file.fileno())
                return content
        except FileNotFoundError:
            return None

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        facts = os.statvfs(path.parent)
        if facts.f_bavail * facts.f_frsize < self._spare_bytes + len(content):
            self._give_up(f"less than {self._spare_bytes >> 20} MiB would be left on the disk")
            return
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.tmp")
        try:
            write_new(temporary, content, sync=self._sync)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _give_up(self, why: str) -> None:
        self._can_write = False
        self._on_problem(f"Nothing more is kept in {clean(self.folder)}: {clean(why)}.")

    def _open(self) -> None:
        """Hold the group, so that nobody removes it meanwhile, and note that it is used."""
        if self._is_open:
            return
        self._is_open = True
        try:
            self._take_lock()
            self.folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
            path = self.folder / tensor_layout.GROUP_FILE
            record = {"version": tensor_layout.LAYOUT_VERSION, "shelf": self._fingerprint}
            # Written anew each time: its age tells when the group was last used.
            replace_file(path, json.dumps(record, indent=1).encode(), sync=False)
        except BlockingIOError:
            self._can_read = False
            self._give_up("it is being removed just now")
        except OSError as error:
            self._can_read = self.folder.is_dir()
            self._give_up(error.strerror or str(error))

    def _take_lock(self) -> None:
        self._lock_path.parent.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(self._lock_path, flags, PRIVATE_FILE_MODE)
        take_lock(self._lock, shared=True, patience=_LOCK_SECONDS)


def alone(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, contiguous and in a storage of its own.

    Views of one storage are not written; and what was made has the layout of what was kept.
    """
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
