"""The processes that train a run together: `ranks/NNN.json`, one file for each.

The run's first process writes all of them, so that hosts need no disk in common. It hears the
others through the group's store, and stamps what it hears by its own clock: times of different
files can be compared, whatever the clocks of the hosts say.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loba_tui.core.foreign_json import parse_object
from loba_tui.core.owned_files import OwnedFile
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import FINAL_PHASES, MOST_COUNT, RECORD_VERSION, encode
from loba_tui.core.text import clean

SILENT_SECONDS = 20.0
"""A process says something every second; after this long without a word it is called silent."""

_NAME = re.compile(r"[0-9]{3,6}\.json")
_MAX_BYTES = 64 * 1024
_MOST_RANKS = 4096


@dataclass(frozen=True)
class RankState:
    """One of the processes of a run, as the first one knows it.

    Attributes:
        host: Name of its machine.
        step: Steps done.
        heartbeat: Wall time of the first process when it last heard this one.
        moved: Wall time of the first process when step or phase last changed.
    """

    rank: int
    host: str
    pid: int
    device: str
    step: int
    phase: str
    heartbeat: float
    moved: float

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RankState:
        """Read the state of one process; raise ValueError where it is not one."""
        try:
            state = cls(
                rank=int(data["rank"]),
                host=str(data["host"]),
                pid=int(data["pid"]),
                device=str(data["device"]),
                step=int(data["step"]),
                phase=str(data["phase"]),
                heartbeat=float(data["heartbeat"]),
                moved=float(data["moved"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not the state of a process: {error!r}") from error
        if any(not 0 <= count <= MOST_COUNT for count in (state.rank, state.pid, state.step)):
            raise ValueError("not the state of a process: a number is out of range")
        if not (math.isfinite(state.heartbeat) and math.isfinite(state.moved)):
            raise ValueError("not the state of a process: a time is not finite")
        return state

    def write(self, run_dir: RunDir) -> None:
        """Write its file.

        Raises:
            RefusedError: The folder is a link or the like.
            ResourceError: It cannot be written.
        """
        _file(run_dir, self.rank).replace(encode({"version": RECORD_VERSION, **asdict(self)}))

    @property
    def has_ended(self) -> bool:
        """Say whether the process has said that it is done."""
        return self.phase in FINAL_PHASES


def prepare_ranks(run_dir: RunDir) -> None:
    """Make the folder of the files where it is missing, and remove those of an earlier start.

    Raises:
        OSError: It cannot be made.
    """
    if run_dir.ranks.is_there():
        forget_ranks(run_dir)
    run_dir.ranks.make()


def forget_ranks(run_dir: RunDir) -> None:
    """Remove the files of an earlier start, which may have had more processes."""
    with contextlib.suppress(OSError):
        for name in filter(_NAME.fullmatch, run_dir.ranks.names()):
            with contextlib.suppress(OSError):
                run_dir.ranks.file(name).remove()


def read_ranks(run_dir: RunDir) -> list[RankState]:
    """Return the processes of a run by rank; none where one process trains it alone."""
    try:
        names = [name for name in run_dir.ranks.names() if _NAME.fullmatch(name)]
    except OSError:
        return []
    found = {}
    for name in names[:_MOST_RANKS]:
        with contextlib.suppress(OSError, ValueError):
            state = RankState.from_json(parse_object(run_dir.ranks.file(name).read(_MAX_BYTES)))
            found[state.rank] = state
    return [found[rank] for rank in sorted(found)]


def silent_seconds(state: RankState, ranks: Sequence[RankState]) -> float:
    """Return for how long a process has said nothing, by the clock of the first one.

    That is until the first process was last heard itself: once that one has ended, nobody listens,
    and it says nothing of the others.
    """
    latest = max((each.heartbeat for each in ranks), default=state.heartbeat)
    return 0.0 if state.has_ended else max(0.0, latest - state.heartbeat)


def silent_ranks(ranks: Sequence[RankState]) -> list[RankState]:
    """Return the processes that have said nothing for a while, the longest silence first."""
    silence = {each.rank: silent_seconds(each, ranks) for each in ranks}
    silent = [each for each in ranks if silence[each.rank] > SILENT_SECONDS]
    return sorted(silent, key=lambda each: -silence[each.rank])


def silence_sentence(state: RankState, ranks: Sequence[RankState]) -> str:
    """Return who is silent, since when and where, as `rank 3 on b silent for 40 s at step 812`."""
    seconds, host = silent_seconds(state, ranks), clean(state.host, limit=80)
    return f"rank {state.rank} on {host} silent for {seconds:.0f} s at step {state.step}"


def _file(run_dir: RunDir, rank: int) -> OwnedFile:
    return run_dir.ranks.file(f"{rank:03d}.json")
