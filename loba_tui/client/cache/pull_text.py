"""Lines and records of `loba cache pull`: the plan, and progress by file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from loba_tui.core.text import clean
from loba_tui.core.units import show_size

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.transfer.fetch import WantedFile
    from loba_tui.core.associate.caches.transfer.pull import PullPlan

_REDRAW_SECONDS = 0.5


def plan_record(plan: PullPlan) -> dict[str, Any]:
    """Return a plan as JSON holds it."""
    return {
        "id": plan.model_id,
        "revision": plan.revision,
        "commit": plan.commit,
        "size": plan.size,
        "to_fetch": plan.to_fetch,
        "files": [file._asdict() for file in plan.files],
        "skipped": list(plan.skipped),
    }


def plan_lines(plan: PullPlan) -> Iterator[str]:
    """Yield a plan for reading."""
    for file in plan.files:
        note = f"  {show_size(file.partial)} of it in the cache" if file.partial else ""
        note = "  in the cache" if file.is_there else note
        yield f"{show_size(file.size):>9}  {clean(file.path)}{note}"
    for path in plan.skipped:
        yield f"{'skipped':>9}  {clean(path)}: a pickle can run code when it is loaded"
    yield (
        f"{clean(plan.model_id)}@{plan.commit[:12]}: {show_size(plan.to_fetch)} to fetch of "
        f"{show_size(plan.size)}"
    )


class PullProgress:
    """A line for every file that is complete; on a terminal also how many bytes came."""

    def __init__(self, plan: PullPlan, stream: TextIO) -> None:
        self._plan = plan
        self._stream = stream
        self._is_live = stream.isatty()
        self._lock = threading.Lock()
        self._bytes = 0
        self._files = 0
        self._drawn = 0.0
        self._total = sum(not file.is_there for file in plan.files)

    def report(self, file: WantedFile | None, num_bytes: int) -> None:
        """Take in a complete file, or bytes that came."""
        with self._lock:
            self._bytes += num_bytes
            if file is not None:
                self._files += 1
                self.close()
                line = f"[{self._files}/{self._total}] {show_size(file.size):>9}  "
                self._stream.write(f"{line}{clean(file.path)}\n")
                self._stream.flush()
            elif self._is_live and time.monotonic() - self._drawn > _REDRAW_SECONDS:
                self._drawn = time.monotonic()
                self.close()
                self._stream.write(f"{show_size(self._bytes)} of {show_size(self._plan.to_fetch)}")
                self._stream.flush()

    def close(self) -> None:
        """Leave a clean line behind."""
        if self._is_live:
            self._stream.write("\r" + " " * 40 + "\r")
