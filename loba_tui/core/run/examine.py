"""Examine a run folder from outside: its records, its checkpoints file by file, who works on it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from loba_tui.core.errors import ExitCode
from loba_tui.core.findings import Finding, bad
from loba_tui.core.run.directory import RunDir, checkpoint_folders
from loba_tui.core.run.reader import RunReader

_FILE_NAME = re.compile(r"[\w.-]+")
_RESUME = "Resuming takes the newest checkpoint that is good."


def examine_run(run_dir: RunDir) -> Iterator[Finding]:
    """Yield what is good and bad about a run's status, records and checkpoints."""
    yield from _examine_records(run_dir)
    found = [list(examine_checkpoint(path)) for path in checkpoint_folders(run_dir.checkpoints)]
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


def examine_checkpoint(path: Path) -> Iterator[Finding]:
    """Yield one finding for each file that a checkpoint's manifest lists."""
    name = path.name
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        listed = {str(file): str(sum_) for file, sum_ in manifest.items()}
    except (OSError, ValueError, AttributeError) as error:
        yield bad(name, f"its manifest cannot be read: {error}", _RESUME, ExitCode.CORRUPT)
        return
    for file, expected in listed.items():
        check = f"{name}/{file}"
        # A folder from elsewhere may list anything; nothing outside the checkpoint is opened.
        if not _FILE_NAME.fullmatch(file) or (path / file).is_symlink():
            yield bad(check, "not a file of the checkpoint", _RESUME, ExitCode.REFUSED)
            continue
        try:
            with (path / file).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            yield bad(check, f"cannot be read: {error.strerror}", _RESUME, ExitCode.CORRUPT)
            continue
        if found != expected:
            yield bad(check, "does not match its sha256 sum", _RESUME, ExitCode.CORRUPT)
        else:
            yield Finding(check, "ok", f"good, {(path / file).stat().st_size:,} bytes")


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
