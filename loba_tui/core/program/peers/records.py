"""Records of how a run has ended, where a process of it was lost or not."""

from __future__ import annotations

import contextlib
import traceback

from loba_tui.core.errors import ExitCode, Interrupted, LobaError, PeerLost, Stopped
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.writer import Records, RunWriter


def note_ending(records: Records, error: LobaError, *, cause: BaseException | None = None) -> None:
    """Write how a run has ended, as its last event and as its phase.

    Args:
        cause: The error as it was raised, for its traceback; None takes `error`.
    """
    ending = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    if isinstance(error, PeerLost):
        records.event("peer_lost", rank=error.rank, host=error.host, step=records.step, **ending)
    elif isinstance(error, Interrupted | Stopped):
        saved = {"step": records.step, "saved_step": records.saved_step} if records.step else {}
        code = int(error.exit_code)
        records.event("stopped", message=error.message, exit_code=code, **saved)
    else:
        trace = "".join(traceback.format_exception(cause or error))
        records.event("failed", **ending, traceback=trace)
    is_over = isinstance(error, PeerLost | Interrupted | Stopped)
    records.status(phase="stopped" if is_over else "failed")


def note_failure(writer: RunWriter, error: LobaError, *, cause: BaseException) -> None:
    """Write how a program has ended; one that could not take up its run leaves that as it was.

    Args:
        cause: The error as it was raised.
    """
    is_refusal = ExitCode.RECIPE <= error.exit_code <= ExitCode.REFUSED
    told = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    if not (is_refusal and writer.refuse(**told)):
        note_ending(writer, error, cause=cause)


def note_ending_for_first(run_dir: RunDir, error: PeerLost) -> None:
    """Write that the first process is lost, where its run is free and its disk is this one's too.

    That process writes all records while it lives. One that is only stopped holds the run, and
    nothing is written.
    """
    with contextlib.suppress(OSError, LobaError):
        before = RunReader(run_dir).status()
        if before is None or before.is_final:
            return
        with RunWriter.open(run_dir) as writer:
            writer.status(step=before.step, total=before.total)
            note_ending(writer, error)
