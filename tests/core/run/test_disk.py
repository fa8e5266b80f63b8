import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from loba_tui.core.errors import ResourceError
from loba_tui.core.run import disk


def facts(**changes: int) -> SimpleNamespace:
    known = {"f_bavail": 2**30, "f_frsize": 1, "f_files": 1000, "f_favail": 500}
    return SimpleNamespace(**{**known, **changes})


@pytest.mark.parametrize(
    ("changes", "is_enough", "said"),
    [
        ({}, True, "500 are free"),
        ({"f_bavail": 284 * 2**20}, True, ""),
        ({"f_bavail": 283 * 2**20}, False, "284 MiB are needed and 283 MiB are free"),
        ({"f_favail": 3}, False, "inodes are needed and 3 are free"),
        ({"f_favail": 0, "f_files": 0}, True, ""),
    ],
)
def test_a_save_needs_twice_a_checkpoint_and_some_more(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, int],
    is_enough: bool,
    said: str,
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: facts(**changes))
    space = disk.space_for(tmp_path, 100 * 2**20)
    assert space.needed_bytes == 284 * 2**20
    assert space.is_enough == is_enough
    assert said in str(space)


def test_the_disks_own_error_is_found_behind_ours() -> None:
    full, foreign = OSError(errno.ENOSPC, "full"), OSError(errno.EACCES, "denied")
    ours = ResourceError("cannot be written")
    ours.__cause__ = full
    assert disk.trouble_of(ours) is full
    assert disk.trouble_of(foreign) is None
    assert disk.trouble_of(None) is None
