"""Whether a run is to stop: a signal has asked for it, or its deadline comes near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from loba_tui.core.run.deadline import Deadline

# A deadline is met with this much to spare, beside what a step and a save have taken.
_SPARE_SECONDS = 5.0


class Flag(Protocol):
    """Something that a signal sets."""

    @property
    def is_set(self) -> bool:
        """Whether the signal has come."""


@dataclass
class StopRequest:
    """Asked at each step boundary, and wherever a run waits; told what a step and a save took."""

    flag: Flag
    deadline: Deadline | None = None
    step_seconds: float = 0.0
    save_seconds: float = 0.0

    @property
    def is_set(self) -> bool:
        """Whether this process has been asked to stop, or runs out of time."""
        if self.flag.is_set or self.deadline is None:
            return self.flag.is_set
        margin = _SPARE_SECONDS + 2 * self.step_seconds + 3 * self.save_seconds
        return self.deadline.seconds_left() < margin
