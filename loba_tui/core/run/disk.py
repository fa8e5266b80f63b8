"""Space on the disk of a run: how much a save needs, and which errors mean that there is none."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from loba_tui.core.units import show_mib

# Full, over quota, over the file size limit, gone read-only, failing: all of them pass, or are put
# right by the user, without the run being to blame.
TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})

_SPARE_BYTES = 64 * 2**20
_CHECKPOINTS_AT_ONCE = 2.2
_INODES = 32


@dataclass(frozen=True)
class DiskSpace:
    """Free bytes and inodes against those that are needed."""

    needed_bytes: int
    free_bytes: int
    needed_inodes: int
    free_inodes: int

    @property
    def is_enough(self) -> bool:
        """Say whether a save can be begun."""
        return self.free_bytes >= self.needed_bytes and self.free_inodes >= self.needed_inodes

    def __str__(self) -> str:
        if self.free_bytes < self.needed_bytes:
            needed, free = show_mib(self.needed_bytes, 0), show_mib(self.free_bytes, 0)
            return f"{needed} are needed and {free} are free"
        return f"{self.needed_inodes} inodes are needed and {self.free_inodes} are free"


def space_for(folder: Path, checkpoint_bytes: int) -> DiskSpace:
    """Return the space for a checkpoint of this size, to be written beside the one it replaces."""
    facts = os.statvfs(folder)
    return DiskSpace(
        needed_bytes=int(_CHECKPOINTS_AT_ONCE * checkpoint_bytes) + _SPARE_BYTES,
        free_bytes=facts.f_bavail * facts.f_frsize,
        # File systems that make inodes as they go report a total of 0.
        needed_inodes=_INODES if facts.f_files else 0,
        free_inodes=facts.f_favail,
    )


def trouble_of(error: BaseException | None) -> OSError | None:
    """Return the disk's own error behind this one, None where it is about something else."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in TROUBLE:
            return error
        error = error.__cause__
    return None
