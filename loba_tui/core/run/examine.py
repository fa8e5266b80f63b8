"""Examine a run folder from outside: its records, its checkpoints file by file, who works on it."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Iterator

from loba_tui.core.errors import ExitCode
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.findings import Finding, bad
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.run.directory import RunDir, checkpoint_names
from loba_tui.core.run.reader import RunReader

_FILE_NAME = re.compile(r"\w[\w.-]*")
_MOST_UNSAFE = 20
_MAX_MANIFEST_BYTES = 64 * 1024
_RESUME = "Resuming takes the newest checkpoint that is good."


def examine_run(run_dir: RunDir) -> Iterator[Finding]:
    """Yield what is good and bad about a run's status, records and checkpoints."""
    yield from _examine_records(run_dir)
    for sentence in itertools.islice(run_dir.folder.unsafe_entries(), _MOST_UNSAFE):
        yield bad("folder", sentence, "Remove it: a run has plain files only.", ExitCode.REFUSED)
    try:
        names = checkpoint_names(run_dir.checkpoints)
    except OSError as error:
        yield bad("checkpoints", f"cannot be read: {error.strerror}", "", ExitCode.CORRUPT)
        return
    found = [list(examine_checkpoint(run_dir.checkpoints.folder(name))) for name in names]
    for findings in found:
        yield from findings
    if not found:
        yield Finding("checkpoints", "note", "none is saved yet")
    elif not any(all(each.state == "ok" for each in findings) for findings in found):
        yield bad(
            "checkpoints",
            f"none of {len(found)} is good, so the run cannot be resumed",
            "Start it anew; the damaged checkpoints are kept.",
            ExitCode.CORRUPT,
        )


def examine_checkpoint(folder: OwnedFolder) -> Iterator[Finding]:
    """Yield one finding for each file that a checkpoint's manifest lists."""
    name = folder.name
    try:
        manifest = parse_json(folder.file("manifest.json").read(_MAX_MANIFEST_BYTES))
        listed = {str(file): str(sum_) for file, sum_ in manifest.items()}
    except (OSError, ValueError, AttributeError) as error:
        yield bad(name, f"its manifest cannot be read: {error}", _RESUME, ExitCode.CORRUPT)
        return
    for file, expected in listed.items():
        check = f"{name}/{file}"
        # A folder from elsewhere may list anything; nothing outside the checkpoint is opened.
        if not _FILE_NAME.fullmatch(file):
            yield bad(check, "not a file of the checkpoint", _RESUME, ExitCode.REFUSED)
            continue
        try:
            with folder.file(file).open() as stream:
                size = os.fstat(stream.fileno()).st_size
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except UnsafeFileError as error:
            yield bad(check, str(error.strerror), _RESUME, ExitCode.REFUSED)
            continue
        except OSError as error:
            yield bad(check, f"cannot be read: {error.strerror}", _RESUME, ExitCode.CORRUPT)
            continue
        if found != expected:
            yield bad(check, "does not match its sha256 sum", _RESUME, ExitCode.CORRUPT)
        else:
            yield Finding(check, "ok", f"good, {size:,} bytes")


def _examine_records(run_dir: RunDir) -> Iterator[Finding]:
    reader = RunReader(run_dir)
    status, liveness = reader.status(), reader.liveness()
    if status is None:
        yield bad(
            "status",
            "status.json is missing or cannot be read",
            f"Resume the run: loba run --resume {run_dir.path}",
            ExitCode.CORRUPT,
        )
    else:
        yield Finding("status", "ok", f"{status.phase}, step {status.step} of {status.total}")
    hint = f"Go on with: loba run --resume {run_dir.path}" if liveness.state == "dead" else ""
    yield Finding("process", "note" if hint else "ok", f"{liveness.state}: {liveness.reason}", hint)
    metrics, _ = reader.new_metrics(), reader.new_events()
    if reader.num_foreign_lines:
        message = f"{reader.num_foreign_lines} lines are torn or not ours; they are left out"
        yield Finding("records", "note", message)
    last = max((metric.step for metric in metrics), default=0)
    if status is not None and status.phase == "finished" and last < status.total:
        message = f"the status says finished, but metrics end at step {last} of {status.total}"
        yield bad("records", message, "Its figures are incomplete.", ExitCode.CORRUPT)
