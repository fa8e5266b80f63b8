"""Whether a run is to stop: a signal has asked for it, or its deadline comes near."""

from __future__ import annotations

from typing import Protocol

from loba_tui.core.run.deadline import Deadline

# A deadline is met with this much to spare, beside what a step and a save have taken.
_SPARE_SECONDS = 5.0


class Flag(Protocol):
    """Something that a signal sets."""

    @property
    def is_set(self) -> bool:
        """Whether the signal has come."""


class StopRequest:
    """Asked at each step boundary, and wherever a run waits.

    Attributes:
        step_seconds: What the last step took.
        save_seconds: What the last save took.
    """

    def __init__(self, flag: Flag, deadline: Deadline | None = None) -> None:
        self._flag = flag
        self._deadline = deadline
        self.step_seconds = 0.0
        self.save_seconds = 0.0

    @property
    def is_set(self) -> bool:
        """Whether this process has been asked to stop, or runs out of time."""
        if self._flag.is_set or self._deadline is None:
            return self._flag.is_set
        margin = _SPARE_SECONDS + 2 * self.step_seconds + 3 * self.save_seconds
        return self._deadline.seconds_left() < margin
