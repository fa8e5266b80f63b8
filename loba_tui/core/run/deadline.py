"""When a run has to be over: `--deadline 2h`, or a time of day or date."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from loba_tui.core.errors import RecipeError
from loba_tui.core.text import quote

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in "dhms"))
_UNIT_SECONDS = (86400, 3600, 60, 1)


@dataclass(frozen=True)
class Deadline:
    """A moment, on the clock that it was given by.

    Attributes:
        wall: Wall time; None where a duration was given.
        monotonic: Monotonic time; a duration is not moved by a clock that is set.
    """

    wall: float | None = None
    monotonic: float | None = None

    @classmethod
    def parse(cls, text: str, *, now: datetime | None = None) -> Deadline:
        """Return the deadline that a text such as `90m`, `1h30m`, `07:30` or an ISO time means.

        Raises:
            RecipeError: It is none of these, or is over already.
        """
        word = text.strip()
        matched = _DURATION.fullmatch(word)
        if word and matched is not None:
            parts = zip(matched.groups(), _UNIT_SECONDS, strict=True)
            seconds = sum(float(part) * unit for part, unit in parts if part is not None)
            return cls(monotonic=time.monotonic() + seconds)
        here = (now or datetime.now()).astimezone()
        moment = _moment(word, here)
        if moment is None:
            raise RecipeError(
                f"--deadline: {quote(text)} is neither a duration nor a time.",
                "Write 90m, 2h, 1h30m, 07:30 or 2031-05-01T07:30 (local time unless it says).",
            )
        if moment <= here:
            raise RecipeError(f"--deadline: {quote(text)} is over already.")
        return cls(wall=moment.timestamp())

    def seconds_left(self) -> float:
        """Return the seconds until then; negative afterwards."""
        if self.monotonic is not None:
            return self.monotonic - time.monotonic()
        return (self.wall or 0.0) - time.time()


def _moment(word: str, now: datetime) -> datetime | None:
    if re.fullmatch(r"\d{1,2}:\d{2}", word):
        hour, minute = (int(part) for part in word.split(":"))
        if hour > 23 or minute > 59:
            return None
        today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        return today if today > now else today + timedelta(days=1)
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        return None
    return moment.astimezone()
