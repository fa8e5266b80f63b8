"""Words of a run's processes to each other, once a second, and for how long each is silent.

They talk through the store by which their group was formed (torch's TCPStore), over a connection of
their own: a process that computes, or waits in a collective, is heard all the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Protocol

from loba_tui.core.errors import ExitCode, Interrupted, LobaError, PeerLost
from loba_tui.core.foreign_json import parse_object
from loba_tui.core.run.ranks import RankState

BEAT_SECONDS = 1.0
_MOST_KEYS_A_SECOND = 64
"""Each process reads the word of each other one; of more than so many it reads less often."""
_PREFIX = "loba/beat/"


class Store(Protocol):
    """The part of torch's store that is used here."""

    def set(self, key: str, value: str) -> None:
        """Keep a value for all processes."""

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Return values; it waits for those that are not there yet."""

    def set_timeout(self, timeout: timedelta) -> None:
        """Say how long a call may wait."""


@dataclass(frozen=True)
class Ending:
    """How a process has ended before its run did, in its own words.

    Attributes:
        lost_rank: The process that it has lost itself; None where that is not why it ended.
    """

    message: str
    hint: str
    exit_code: int
    lost_rank: int | None = None
    lost_host: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        """Return what an error says."""
        if isinstance(error, PeerLost):
            code = int(error.exit_code)
            return cls(error.message, error.hint, code, error.rank, error.host)
        if isinstance(error, LobaError):
            return cls(error.message, error.hint, int(error.exit_code))
        return cls(f"{type(error).__name__}: {error}", "", int(ExitCode.BUG))

    @property
    def is_stop(self) -> bool:
        """Say whether it was asked to end."""
        is_asked = self.exit_code in (ExitCode.RESUMABLE, ExitCode.INTERRUPTED)
        return is_asked and self.lost_rank is None

    def as_error(self, who: str) -> LobaError:
        """Return the error with which the processes that hear of it end too.

        Args:
            who: The process whose ending it is, as `rank 3 on b`.
        """
        if self.lost_rank is not None:
            return PeerLost(self.message, self.hint, rank=self.lost_rank, host=self.lost_host)
        if self.exit_code == ExitCode.RESUMABLE:
            return Interrupted(self.message, self.hint)
        error = LobaError(f"{who}: {self.message}", self.hint)
        is_known = self.exit_code in [int(code) for code in ExitCode if code != ExitCode.DONE]
        error.exit_code = ExitCode(self.exit_code) if is_known else ExitCode.BUG
        return error


@dataclass
class Heard:
    """One of the processes, as this one knows it.

    Attributes:
        number: Of its last word.
        silence: Seconds without a word, less those in which this process itself was stopped.
        ending: What it said of its end, where that was not the end of the run.
    """

    state: RankState
    number: int = -1
    silence: float = 0.0
    ending: Ending | None = None

    @property
    def who(self) -> str:
        """Return it for a message."""
        return f"rank {self.state.rank} on {self.state.host}"


@dataclass
class Beats:
    """Speaks for this process and keeps what the others say; its methods may be called by threads.

    Attributes:
        own: This process as it was last told to the others.
    """

    store: Store
    own: RankState
    num: int
    patience: timedelta = timedelta(seconds=5)
    _number: int = field(default=0, init=False)
    _ending: Ending | None = field(default=None, init=False)
    _heard: dict[int, Heard] = field(default_factory=dict, init=False)
    _guard: threading.RLock = field(default_factory=threading.RLock, init=False)

    @property
    def interval(self) -> float:
        """Seconds between two words of a process."""
        return max(BEAT_SECONDS, self.num / _MOST_KEYS_A_SECOND)

    def say(self, *, step: int, phase: str, ending: Ending | None = None) -> None:
        """Tell the others where this process is; after its ending it says nothing else.

        Raises:
            RuntimeError: The store does not answer.
        """
        with self._guard:
            self._ending = self._ending or ending
            self._number += 1
            self.own = replace(self.own, step=step, phase=phase)
            word: dict[str, Any] = {"number": self._number, **vars(self.own)}
            if self._ending is not None:
                word["ending"] = vars(self._ending)
            self.store.set(f"{_PREFIX}{self.own.rank}", json.dumps(word))

    def hear(self) -> None:
        """Take in what all processes have said; every one of them must have said something.

        Raises:
            RuntimeError: The store does not answer.
        """
        self.store.set_timeout(self.patience)
        words = self.store.multi_get([f"{_PREFIX}{rank}" for rank in range(self.num)])
        for rank, word in enumerate(words):
            self._take(rank, parse_object(bytes(word)))

    def _take(self, rank: int, word: dict[str, Any]) -> None:
        with self._guard:
            now, before = time.time(), self._heard.get(rank)
            number = int(word["number"])
            if before is not None and before.number == number:
                return
            state = replace(RankState.from_json(word), heartbeat=now, moved=now)
            at = (state.step, state.phase)
            if before is not None and (before.state.step, before.state.phase) == at:
                state = replace(state, moved=before.state.moved)
            told = word.get("ending")
            ending = Ending(**told) if isinstance(told, dict) else None
            self._heard[rank] = Heard(state, number, 0.0, ending)

    def pass_time(self, seconds: float) -> None:
        """Let so much time pass without a word of anybody."""
        with self._guard:
            for each in self._heard.values():
                each.silence += seconds

    def all(self) -> list[RankState]:
        """Return all processes as they were last heard, by rank."""
        with self._guard:
            return [self._heard[rank].state for rank in sorted(self._heard)]

    def others(self) -> list[Heard]:
        """Return what is known of the other processes, by rank."""
        with self._guard:
            known = [self._heard[rank] for rank in sorted(self._heard) if rank != self.own.rank]
            return [replace(each) for each in known]

    def silent(self, seconds: float) -> list[Heard]:
        """Return the others that have said nothing for so long, though they have not ended."""
        others = self.others()
        return [each for each in others if each.silence > seconds and not each.state.has_ended]

    def ended_badly(self) -> Heard | None:
        """Return one that has ended before the run did, and has said why; the first by rank."""
        return next((each for each in self.others() if each.ending is not None), None)
