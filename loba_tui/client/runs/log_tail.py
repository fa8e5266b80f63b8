"""The end of a log file, as lines that are safe to show."""

from __future__ import annotations

import os
from collections.abc import Sequence

from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean

_TAIL_BYTES = 128 * 1024
_MOST_LINES = 1000
_FEW_LINES = 6
_MOST_CHARACTERS = 2000


def last_lines(run_dir: RunDir) -> Sequence[str]:
    """Return the last few lines of a program's own output."""
    return LogTail(run_dir.log).lines()[-_FEW_LINES:]


class LogTail:
    """The last lines of a file; read only when it has changed."""

    def __init__(self, file: OwnedFile) -> None:
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._lines: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return the last lines, cleaned; a progress bar's rewritten line counts once."""
        try:
            with self._file.open() as stream:
                facts = os.fstat(stream.fileno())
                stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
                if stamp == self._stamp:
                    return self._lines
                start = max(0, facts.st_size - _TAIL_BYTES)
                stream.seek(start)
                content = stream.read(_TAIL_BYTES)
        except OSError:
            return self._lines
        lines = content.split(b"\n")
        if start:
            del lines[0]
        texts = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in lines[-_MOST_LINES:]]
        self._stamp = stamp
        self._lines = tuple(
            clean(text.decode("utf-8", "replace"), limit=_MOST_CHARACTERS)
            for text in texts
            if text.strip()
        )
        return self._lines
