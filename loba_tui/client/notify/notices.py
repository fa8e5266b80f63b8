"""Notices, worth telling to somebody who does not look: a run finished, failed, met a NaN, or died.

Runs are watched from outside, by their files: a run that was killed cannot tell of it itself, and
a training program that talks to the network is one that can hang on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from loba_tui.core.errors import ExitCode
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import Liveness, RunReader
from loba_tui.core.run.records import Event
from loba_tui.core.text import clean

NoticeKind = Literal["finished", "failed", "nan", "dead_slider"]
KINDS: tuple[NoticeKind, ...] = get_args(NoticeKind)

_MAX_TEXT = 300


@dataclass(frozen=True)
class Notice:
    """One thing to tell, as one sentence of plain text with the run's name in it."""

    kind: NoticeKind
    run: str
    text: str
    step: int = 0
    total: int = 0


@dataclass
class _Followed:
    reader: RunReader
    was_alive: bool = False


@dataclass
class NoticeFinder:
    """Finds what has happened since the last look, over all runs of a ledger.

    What has happened before the first look is not told. Looking costs a `stat` for each run that
    is over.
    """

    ledger: Ledger
    _followed: dict[Path, _Followed] = field(default_factory=dict)
    _over: dict[Path, float] = field(default_factory=dict)
    _has_looked: bool = False

    @property
    def num_alive(self) -> int:
        """Return how many runs went on at the last look."""
        return sum(each.was_alive for each in self._followed.values())

    def look(self) -> list[Notice]:
        """Return what has happened, oldest first within a run."""
        found: list[Notice] = []
        for run in self.ledger.runs():
            changed = _changed(run)
            if self._over.get(run.path) == changed:
                continue
            known = self._followed.get(run.path)
            if known is None:
                known = self._followed[run.path] = _Followed(RunReader(run))
                # A run that has begun between two looks is told of from its beginning.
                if not self._has_looked:
                    known.reader.skip_to_end()
            # In this order: what a run says just before it ends is not missed.
            liveness = known.reader.liveness()
            found += _of_run(known, liveness)
            known.was_alive = liveness.is_alive
            if not liveness.is_alive and liveness.state != "queued":
                self._over[run.path] = changed
            else:
                self._over.pop(run.path, None)
        self._has_looked = True
        return found


def _changed(run: RunDir) -> float:
    try:
        return run.status.stat().st_mtime
    except OSError:
        return 0.0


def _of_run(known: _Followed, liveness: Liveness) -> Iterator[Notice]:
    run, status = known.reader.run_dir, known.reader.status()
    step, total = (status.step, status.total) if status else (0, 0)
    has_failed = False
    for event in known.reader.new_events():
        told = _of_event(event)
        if told is not None:
            kind, text = told
            has_failed = has_failed or event.kind == "failed"
            yield _notice(kind, run, text, step, total)
    if known.was_alive and liveness.state == "dead" and not has_failed:
        yield _notice("failed", run, f"died: {liveness.reason}", step, total)


def _of_event(event: Event) -> tuple[NoticeKind, str] | None:
    data = event.data
    message = " ".join(str(data.get("message", "")).split())
    match event.kind:
        case "finished":
            return "finished", "finished"
        case "failed":
            is_nan = data.get("exit_code") == ExitCode.NUMERICS
            return "nan" if is_nan else "failed", f"failed: {message}"
        case "peer_lost":
            return "failed", f"stopped: {message}"
        case "skipped":
            return "nan", f"met a loss that is not finite: {message}"
        case "measured" | "ended_early" if data.get("outcome") in ("dead", "collapsed"):
            return "dead_slider", f"comes to nothing: the slider is {data['outcome']}"
    return None


def _notice(kind: NoticeKind, run: RunDir, text: str, step: int, total: int) -> Notice:
    return Notice(kind, clean(run.name), clean(f"{run.name} {text}", limit=_MAX_TEXT), step, total)
