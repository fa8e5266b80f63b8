"""A persistent index of metrics.jsonl: every number as a column, with extremes of its blocks.

The columns lie in the user's cache folder, so a run of a million steps opens at once the second
time and is drawn as quickly as one of a thousand, and a viewer holds none of it in memory.

A block of 64 rows, and one of 64 blocks, keeps what `blocks` tells, so no spike and no NaN is lost
however far one zooms out. Rows are in the order of their steps: where a resumed run records a step
again, the later record counts, as everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from loba_tui.client.metrics.blocks import (
    BLOCK,
    MISSING,
    NUM_FIELDS,
    Array,
    is_missing,
    merged,
    summed,
)
from loba_tui.client.metrics.columns import STEP, Columns, Meta
from loba_tui.core.files import PRIVATE_DIR_MODE
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import NON_FINITE, decode

TIME, RATE = "time", "steps/s"
CHUNK_BYTES = 1024 * 1024
_MAX_SERIES = 200
_FINGERPRINT_BYTES = 512


class SeriesIndex:
    """The columns of one run; `update` takes in what was appended.

    They lie below the folder `cache`, or in a temporary one where that cannot be written.
    """

    def __init__(self, run: RunDir, cache: Path) -> None:
        self._metrics = run.metrics
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        digest = hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:24]
        folder = cache / "series" / digest
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIR_MODE)
            (folder / "lock").touch(0o600)
        except OSError:
            self._temporary = tempfile.TemporaryDirectory(prefix="loba-series-")
            folder = Path(self._temporary.name)
        self._columns = Columns(folder, run.metrics)

    def close(self) -> None:
        """Remove the columns if they are temporary."""
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def _meta(self) -> Meta:
        return self._columns.meta

    @property
    def num_rows(self) -> int:
        """Return how many steps are recorded."""
        return self._meta.num_rows

    @property
    def names(self) -> list[str]:
        """Return the names of the series, in the order in which they first appeared."""
        return [name for name in self._meta.names if name != TIME]

    @property
    def num_unread(self) -> int:
        """Return how many bytes of the metrics file are not in the columns yet."""
        try:
            return max(0, self._metrics.stat().st_size - self._meta.offset)
        except OSError:
            return 0

    @property
    def share_read(self) -> float:
        """Return how much of the metrics file is in the columns, 1.0 where all is."""
        unread = self.num_unread
        return self._meta.offset / (self._meta.offset + unread) if unread else 1.0

    def steps(self) -> tuple[float, float]:
        """Return the first and the last step; (0, 0) where there is none."""
        if not self.num_rows:
            return 0.0, 0.0
        return float(self._columns.read(STEP, 0, 0, 1)[0]), self._meta.last_step

    # Growing

    def update(self) -> bool:
        """Take in what was appended, at most eight chunks of it; say whether anything was.

        Another viewer may do the same at the same time: whoever holds the lock goes on from where
        the columns end, and the others find the result the next time.
        """
        with self._columns.locked() as is_mine:
            fresh = self._columns.read_meta()
            grown = fresh is not None and fresh != self._meta
            if fresh is not None:
                self._columns.meta = fresh
            if not is_mine:
                return grown
            return self._grow() or grown

    def _grow(self) -> bool:
        try:
            stream = self._metrics.open()
        except OSError:
            return False
        with stream:
            if not self._is_of(stream):
                self._columns.meta = self._columns.new_meta()
            before = self._meta.offset
            stream.seek(before)
            most = before + 8 * CHUNK_BYTES
            while self._meta.offset < most and (chunk := stream.read(CHUNK_BYTES)):
                end = chunk.rfind(b"\n") + 1
                if end == 0:
                    if len(chunk) < CHUNK_BYTES:
                        break
                    # No record is this long; it is counted as foreign, piece by piece.
                    end = len(chunk)
                self._take_in(chunk[:end])
                self._meta.offset += end
                stream.seek(self._meta.offset)
            if self._meta.offset == before:
                return False
            self._meta.head = self._fingerprint(stream)
        self._columns.write_meta()
        return True

    def _is_of(self, stream: IO[bytes]) -> bool:
        """Say whether the columns were made from this very file."""
        facts = os.fstat(stream.fileno())
        if facts.st_ino != self._meta.inode or facts.st_size < self._meta.offset:
            return False
        return self._meta.offset == 0 or self._meta.head == self._fingerprint(stream)

    def _fingerprint(self, stream: IO[bytes]) -> str:
        """Return a hash of the beginning and of the end of what the columns hold."""
        offset = self._meta.offset
        head = os.pread(stream.fileno(), min(_FINGERPRINT_BYTES, offset), 0)
        start = max(0, offset - _FINGERPRINT_BYTES)
        tail = os.pread(stream.fileno(), offset - start, start)
        return hashlib.sha256(head + tail).hexdigest()

    def _take_in(self, content: bytes) -> None:
        steps: list[float] = []
        rows: list[dict[str, float]] = []
        last = self._meta.last_step
        for line in content.split(b"\n"):
            if not line.strip():
                continue
            row = _numbers(line)
            if row is None:
                self._meta.num_foreign += 1
                continue
            step = row.pop(STEP)
            if step <= last:
                self._append(steps, rows)
                steps, rows = [], []
                self._go_back(step)
            steps.append(step)
            rows.append(row)
            last = step
        self._append(steps, rows)

    def _go_back(self, step: float) -> None:
        """Drop the rows from `step` on: they are recorded anew."""
        keep = int(self.rows_of(np.array([step]))[0])
        self._meta.num_superseded += self._meta.num_rows - keep
        self._meta.num_rows = keep
        last_step = float(self._columns.read(STEP, 0, keep - 1, keep)[0]) if keep else -1.0
        self._meta.last_step = last_step

    def _append(self, steps: list[float], rows: list[dict[str, float]]) -> None:
        if not rows:
            return
        meta = self._columns.meta
        known = set(meta.names)
        for row in rows:
            if row.keys() <= known:
                continue
            for name in row:
                if name not in known and len(meta.names) < _MAX_SERIES:
                    known.add(name)
                    meta.names.append(name)
                    meta.starts.append(meta.num_rows // BLOCK**2 * BLOCK**2)
        self._columns.write(STEP, 0, np.array(steps))
        for name, start in zip(meta.names, meta.starts, strict=True):
            self._columns.write(name, start, np.array([row.get(name, MISSING) for row in rows]))
        meta.num_rows += len(rows)
        meta.last_step = steps[-1]

    # Reading

    def blocks(self, name: str, first_row: int, last_row: int, most: int) -> tuple[Array, Array]:
        """Return a range of rows as about `most` blocks, fewer where there are not so many rows.

        Returns:
            Row edges (n + 1,) and blocks (n, 5): least, greatest, sum and number of the finite
            values, and number of those that are not finite. A block without finite values has
            least +inf, greatest -inf. Rows at the ends that fill no block are blocks by themselves.
        """
        start = self._columns.start_of(name)
        first, last = max(0, first_row - start), max(0, min(last_row, self.num_rows) - start)
        if last <= first:
            return np.array([first_row]), np.empty((0, NUM_FIELDS))
        level, size = 0, 1
        while level < 2 and (last - first) / size > most * BLOCK:
            level, size = level + 1, size * BLOCK
        edges, blocks = self._whole_blocks(name, first, last, level)
        several = len(blocks) // most
        if several > 1:
            starts = np.arange(0, len(blocks), several)
            edges, blocks = np.append(edges[starts], edges[-1]), merged(blocks, starts)
        return edges + start, blocks

    def _whole_blocks(self, name: str, first: int, last: int, level: int) -> tuple[Array, Array]:
        """Return the blocks of a level, with what is left of rows at both ends as blocks too."""
        size = BLOCK**level
        if level == 0:
            raw = self._columns.read(name, 0, first, last)
            return np.arange(first, last + 1), summed(raw, np.arange(len(raw)))
        inner_first, inner_last = -(-first // size), last // size
        if inner_last <= inner_first:
            raw = self._columns.read(name, 0, first, last)
            return np.array([first, last]), summed(raw, np.array([0]))
        parts = [self._columns.read(name, level, inner_first, inner_last)]
        edges = [np.arange(inner_first, inner_last + 1) * size]
        if first < inner_first * size:
            raw = self._columns.read(name, 0, first, inner_first * size)
            parts.insert(0, summed(raw, np.array([0])))
            edges.insert(0, np.array([first]))
        if inner_last * size < last:
            raw = self._columns.read(name, 0, inner_last * size, last)
            parts.append(summed(raw, np.array([0])))
            edges.append(np.array([last]))
        return np.concatenate(edges), np.concatenate(parts)

    def rows_of(self, steps: Array) -> Array:
        """Return for each step the first row that is not before it."""
        return np.searchsorted(self._columns.mapped(STEP), steps)

    def steps_at(self, times: Array) -> Array:
        """Return the last step that was recorded before each wall time."""
        if TIME not in self._meta.names or not self.num_rows:
            return np.zeros(len(times))
        rows = np.searchsorted(self._columns.mapped(TIME), times)
        return self.steps_of(np.maximum(rows - 1, 0))

    def steps_of(self, rows: Array) -> Array:
        """Return the steps of rows; the row after the last one is one step further."""
        if not self.num_rows:
            return np.zeros(len(rows))
        column = self._columns.mapped(STEP)
        found = np.array(column[np.minimum(rows, self.num_rows - 1)])
        return found + (rows >= self.num_rows)

    def recent_mean(self, name: str) -> float | None:
        """Return the mean of the last values of a series, None where there are none."""
        tail = self._tail(name)
        finite = tail[np.isfinite(tail)]
        return float(finite.mean()) if len(finite) else None

    def last_value(self, name: str) -> float | None:
        """Return the newest value of a series, None where the last rows have none."""
        tail = self._tail(name)
        known = tail[~is_missing(tail)]
        return float(known[-1]) if len(known) else None

    def _tail(self, name: str) -> Array:
        if name not in self._meta.names:
            return np.empty(0)
        end = self._meta.num_rows - self._columns.start_of(name)
        return self._columns.read(name, 0, max(0, end - BLOCK), max(0, end))


def discard_orphans(cache: Path) -> None:
    """Remove the indexes of runs that are no more."""
    with contextlib.suppress(OSError):
        for folder in (cache / "series").iterdir():
            try:
                source = Path(parse_json((folder / "meta.json").read_bytes())["source"])
            except (OSError, ValueError, TypeError, KeyError):
                continue
            if not source.parent.is_dir():
                shutil.rmtree(folder, ignore_errors=True)


def _numbers(line: bytes) -> dict[str, float] | None:
    """Return a record's numbers by name, None where it is no metric."""
    try:
        record: Mapping[str, Any] = decode(line)
        step = float(record[STEP])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    found = {}
    for name, value in record.items():
        if name in ("version", STEP):
            continue
        if isinstance(value, str):
            value = NON_FINITE.get(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                found[name] = float(value)
    found[STEP] = step
    seconds = found.get("seconds")
    if seconds and seconds > 0:
        found[RATE] = 1.0 / seconds
    return found if 0 <= step < float("inf") else None
