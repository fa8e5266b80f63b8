"""The files of an index: a column of numbers for each series, and the blocks of its values.

`I.0` holds the values of series I, `I.1` a block for each 64 of them, and `I.2` one for each 64 of
those; `step.0` holds the steps. The files can be deleted at any time; they are made again from the
run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from loba_tui.client.metrics.blocks import BLOCK, MISSING, NUM_FIELDS, Array, merged, summed
from loba_tui.core.files import replace_file, take_lock
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.owner import boot_id

STEP = "step"
_VERSION = 1


@dataclass
class Meta:
    """The record of what columns hold; replaced as a whole after each growth.

    Attributes:
        offset: Bytes of the metrics file that the columns hold.
        names: Series in the order of their files.
        starts: The row at which each series begins, a multiple of 64 × 64.
        num_superseded: Records that a later one of the same step has replaced.
    """

    source: str
    inode: int
    boot: str | None
    head: str = ""
    offset: int = 0
    num_rows: int = 0
    num_foreign: int = 0
    num_superseded: int = 0
    last_step: float = -1.0
    names: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    version: int = _VERSION


class Columns:
    """The columns made from one metrics file, in a folder of their own."""

    def __init__(self, folder: Path, metrics: OwnedFile) -> None:
        self._folder = folder
        self._metrics = metrics
        self.meta = self.read_meta() or self.new_meta()

    def start_of(self, name: str) -> int:
        """Return the row at which a series begins."""
        return self.meta.starts[self.meta.names.index(name)]

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the lock of whoever lets the columns grow; yield False where another holds it."""
        try:
            stream = _opened(self._folder / "lock")
        except OSError:
            yield False
            return
        with stream:
            try:
                take_lock(stream.fileno())
            except OSError:
                yield False
            else:
                yield True

    def write(self, name: str, start: int, values: Array) -> None:
        """Write values from the present end on, and all blocks that become whole by them."""
        at = self.meta.num_rows - start
        with _opened(self._path(name, 0)) as stream:
            size = stream.seek(0, os.SEEK_END) // 8
            if size < at:
                # A series that appears late, or one whose file was cut short by a crash.
                stream.write(np.full(at - size, MISSING).tobytes())
            stream.seek(at * 8)
            stream.write(values.tobytes())
        if name == STEP:
            return
        whole = (at + len(values)) // BLOCK
        first = at // BLOCK
        if whole > first:
            raw = self.read(name, 0, first * BLOCK, whole * BLOCK)
            self._write_blocks(name, 1, first, summed(raw, np.arange(0, len(raw), BLOCK)))
            upper, begin = whole // BLOCK, first // BLOCK
            if upper > begin:
                blocks = self.read(name, 1, begin * BLOCK, upper * BLOCK)
                edges = np.arange(0, len(blocks), BLOCK)
                self._write_blocks(name, 2, begin, merged(blocks, edges))

    def _write_blocks(self, name: str, level: int, first: int, blocks: Array) -> None:
        with _opened(self._path(name, level)) as stream:
            stream.seek(first * 8 * NUM_FIELDS)
            stream.write(blocks.tobytes())

    def read(self, name: str, level: int, first: int, last: int) -> Array:
        """Return values, or blocks of a level, from the file."""
        fields = 1 if level == 0 else NUM_FIELDS
        with self._path(name, level).open("rb") as stream:
            stream.seek(first * 8 * fields)
            found = np.frombuffer(stream.read((last - first) * 8 * fields))
        return found if level == 0 else found.reshape(-1, NUM_FIELDS)

    def mapped(self, name: str) -> Array:
        """Map a column for a few look-ups; whoever keeps it keeps the whole file mapped."""
        if not self.meta.num_rows:
            return np.empty(0)
        return np.memmap(self._path(name, 0), np.float64, "r", shape=(self.meta.num_rows,))

    def _path(self, name: str, level: int) -> Path:
        number = "step" if name == STEP else str(self.meta.names.index(name))
        return self._folder / f"{number}.{level}"

    def new_meta(self) -> Meta:
        """Return what is known before the first record."""
        try:
            inode = self._metrics.stat().st_ino
        except OSError:
            inode = 0
        return Meta(str(self._metrics), inode, boot_id())

    def read_meta(self) -> Meta | None:
        """Return what the folder says of its columns, None where they cannot be gone on with."""
        try:
            record = parse_json((self._folder / "meta.json").read_bytes())
            meta = Meta(**record)
        except (OSError, ValueError, TypeError):
            return None
        # Columns are not synced to the disk, so a restart of the machine may have lost a part.
        is_ours = meta.version == _VERSION and meta.source == str(self._metrics)
        if not is_ours or meta.boot != boot_id():
            return None
        return meta if self._is_whole(meta) else None

    def _is_whole(self, meta: Meta) -> bool:
        """Say whether no column was deleted or cut short."""
        numbers = enumerate(meta.starts)
        wanted = {f"{i}.0": meta.num_rows - start for i, start in numbers} if meta.num_rows else {}
        try:
            sizes = [(self._folder / name).stat().st_size >= 8 * n for name, n in wanted.items()]
        except OSError:
            return False
        return all(sizes)

    def write_meta(self) -> None:
        """Write what is known, so that the next viewer goes on from here."""
        content = json.dumps(vars(self.meta)).encode()
        # A full disk only means that the next viewer reads the run again.
        with contextlib.suppress(OSError):
            replace_file(self._folder / "meta.json", content, sync=False)


def _opened(path: Path) -> IO[bytes]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    return os.fdopen(descriptor, "r+b")
