"""Watches over the processes that train together, beside the thread that trains.

A collective waits in C code for a process that may be gone: no signal is handled meanwhile, and no
error raised before the group's timeout. So threads of their own tell the others where this process
is, keep `ranks/NNN.json`, and end this process once another is silent for too long, or once a stop
was asked for and nothing moves any more. What is saved is whole at every moment, so that ending a
process loses only the steps since the last checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

from loba_tui.core.errors import Interrupted, LobaError, PeerLost, ResourceError
from loba_tui.core.program.peers.beats import Beats, Ending, Heard
from loba_tui.core.program.peers.errors import HINT, is_peer_error, unknown_peer_lost
from loba_tui.core.program.peers.records import note_ending, note_ending_for_first
from loba_tui.core.program.steering.context import RunContext
from loba_tui.core.run.ranks import prepare_ranks

logger = logging.getLogger(__name__)

GRACE_SECONDS = 20.0
"""After a stop was asked for; torchrun kills its processes half a minute after its own SIGTERM."""
_TICK_SECONDS = 0.5
_FAILED_PEER_SECONDS = 5.0
"""What an error of another process is waited for here, in the thread that trains."""
_NAMING_SECONDS = 6.0
"""How long a broken connection is looked at, to see which process falls silent."""
_SILENT_SECONDS = 2.5
_STEPS_OF_GRACE = 4
_WRITING_SECONDS = 5.0
_GOODBYE_SECONDS = 2.0
# Here one process works, and the others wait for it in a collective.
_PHASES_OF_ONE = frozenset(
    {"sampling", "validating", "measuring", "calibrating", "attacking", "solving", "paused_disk"}
)


@dataclass
class PeerWatch:
    """The watch over a run's processes, from one of them.

    Attributes:
        timeout: Seconds of silence after which another process counts as lost.
    """

    context: RunContext
    beats: Beats
    timeout: float
    _closing: threading.Event = field(default_factory=threading.Event, init=False)
    _leaving: threading.Lock = field(default_factory=threading.Lock, init=False)
    _threads: list[threading.Thread] = field(default_factory=list, init=False)
    _stop_asked: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin to talk and to watch; every process of the run must have spoken once."""
        for name, work in (("peers", self._talk), ("watchdog", self._watch)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, error: BaseException | None) -> None:
        """Say goodbye to the others, and stop watching.

        Args:
            error: What ended this process; None where the run is done.
        """
        self._closing.set()
        # A store whose process is gone may never answer, and nothing hangs on a goodbye.
        within(_GOODBYE_SECONDS, lambda: self._say_goodbye(error))
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_TICK_SECONDS)

    def _say_goodbye(self, error: BaseException | None) -> None:
        ending = None if error is None else Ending.of(error)
        phase = "finished" if ending is None else "stopped" if ending.is_stop else "failed"
        with contextlib.suppress(RuntimeError):
            self.beats.say(step=self.context.records.step, phase=phase, ending=ending)
        if self.context.processes.is_first:
            self._write_ranks()

    def explain(self, error: BaseException) -> BaseException:
        """Return the error that this one means: which process is lost, or how it has ended.

        An error of another kind is returned as it is.
        """
        if isinstance(error, LobaError) or not is_peer_error(error):
            return error
        end = time.monotonic() + _NAMING_SECONDS
        while time.monotonic() < end:
            if (failed := self.beats.ended_badly()) is not None and failed.ending is not None:
                return failed.ending.as_error(failed.who)
            if silent := self.beats.silent(_SILENT_SECONDS):
                return self._lost(silent)
            time.sleep(0.1)
        return unknown_peer_lost(error)

    def own_ending(self) -> None:
        """Claim the end of this process for the calling thread; wait for ever if it is taken."""
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()

    def _talk(self) -> None:
        while not self._closing.wait(self.beats.interval):
            records = self.context.records
            # What the store does not answer counts as silence of the others.
            try:
                self.beats.say(step=records.step, phase=records.phase or "starting")
                self.beats.hear()
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                logger.warning("the other processes were not heard: %s", error)
            if self.context.processes.is_first and not self._closing.is_set():
                self._write_ranks()

    def _write_ranks(self) -> None:
        for state in self.beats.all():
            # A full disk is for the thread that trains to report.
            with contextlib.suppress(ResourceError):
                state.write(self.context.run_dir)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closing.wait(_TICK_SECONDS):
            now = time.monotonic()
            # A process that was stopped itself has not listened meanwhile.
            self.beats.pass_time(min(now - last, 2 * _TICK_SECONDS))
            last = now
            error = self._reason_to_leave(now)
            if error is not None:
                self._leave(error)

    def _reason_to_leave(self, now: float) -> LobaError | None:
        silent = self.beats.silent(self.timeout)
        if silent:
            return self._lost(silent)
        failed = self.beats.ended_badly()
        if failed is not None and failed.ending is not None:
            patience = self.timeout if failed.ending.is_stop else _FAILED_PEER_SECONDS
            if failed.silence > patience:
                return failed.ending.as_error(failed.who)
        if self._stop_asked is None and self.context.stop.is_set:
            self._stop_asked = now
        if self._stop_asked is not None and self._hangs(now - self._stop_asked):
            silent = self.beats.silent(_SILENT_SECONDS)
            return self._lost(silent) if silent else self._not_stopped()
        return None

    def _hangs(self, since_asked: float) -> bool:
        """Say whether nothing has moved anywhere since a stop was asked for, for long enough."""
        patience = max(GRACE_SECONDS, _STEPS_OF_GRACE * self.context.records.longest_step)
        if since_asked < patience:
            return False
        living = [each for each in self.beats.all() if not each.has_ended]
        silent = {each.state.rank for each in self.beats.silent(_SILENT_SECONDS)}
        heard = [each for each in living if each.rank not in silent]
        if any(each.phase in _PHASES_OF_ONE for each in heard):
            return False
        return all(time.time() - each.moved > patience for each in heard)

    def _lost(self, silent: list[Heard]) -> PeerLost:
        first, more = silent[0], len(silent) - 1
        also = f" and {more} more" if more else ""
        records = self.context.records
        saved = records.saved_step
        kept = f"all is saved up to step {saved}" if saved else "nothing is saved yet"
        message = f"{first.who}{also} was lost at step {records.step}; {kept}"
        return PeerLost(message, HINT, rank=first.state.rank, host=first.state.host)

    def _not_stopped(self) -> Interrupted:
        records = self.context.records
        return Interrupted(
            f"asked to stop at step {records.step}, and no step has ended since; the process has"
            f" left by itself, and all is saved up to step {records.saved_step}",
            HINT,
        )

    def _leave(self, error: LobaError) -> NoReturn:
        """End this process, whose main thread waits in C code, and say why."""
        self.own_ending()
        # A disk that hangs must not keep the process.
        within(_WRITING_SECONDS, lambda: self._note(error))
        os._exit(error.exit_code)

    def _note(self, error: LobaError) -> None:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        self.close(error)
        if self.context.processes.is_first:
            note_ending(self.context.records, error)
        elif isinstance(error, PeerLost) and error.rank == 0:
            note_ending_for_first(self.context.run_dir, error)


def within(seconds: float, work: Callable[[], None]) -> None:
    """Do something that may hang, and go on without it after so many seconds."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)


@contextmanager
def watch_peers(context: RunContext, beats: Beats | None, timeout: float) -> Iterator[None]:
    """Watch over the other processes inside a `with` block; None for one process alone.

    Raises:
        PeerLost: One of them does not answer.
        LobaError: One of them has ended with this error.
    """
    if beats is None:
        yield
        return
    if context.processes.is_first:
        with contextlib.suppress(OSError, LobaError):
            prepare_ranks(context.run_dir)
    beats.say(step=0, phase="starting")
    context.processes.share(None)  # all have spoken before anybody listens
    watch = PeerWatch(context, beats, timeout)
    watch.start()
    try:
        yield
    except BaseException as error:
        meant = watch.explain(error)
        watch.own_ending()
        watch.close(meant)
        if isinstance(meant, PeerLost) and meant.rank == 0:
            note_ending_for_first(context.run_dir, meant)
        if meant is error:
            raise
        raise meant from error
    watch.own_ending()
    watch.close(None)
