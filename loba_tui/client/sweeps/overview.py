"""Each sweep in one line: how many of its runs are done, and which is the best so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loba_tui.client.sweeps.folder import Sweep, known_sweeps
from loba_tui.client.sweeps.results import Result, sweep_results
from loba_tui.core.errors import LobaError
from loba_tui.core.run.directory import Ledger
from loba_tui.core.text import clean


@dataclass(frozen=True)
class Overview:
    """One sweep.

    Attributes:
        best: The finished run that is first; None while there is none.
        problem: Why it cannot be read; "" where it can.
    """

    path: Path
    num_done: int = 0
    num_alive: int = 0
    num_runs: int = 0
    best: Result | None = None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        best = self.best.as_json() if self.best is not None else None
        record = {"name": self.path.name, "path": str(self.path), "done": self.num_done}
        record |= {"alive": self.num_alive, "runs": self.num_runs}
        return {**record, "best": best, "problem": self.problem}


def overview(path: Path) -> Overview:
    """Return one sweep; one that cannot be read is said to be so."""
    try:
        sweep = Sweep.open(path)
    except LobaError as error:
        return Overview(path, problem=error.message)
    results = sweep_results(sweep)
    done = [result for result in results if result.state == "finished"]
    num_alive = sum(result.state in ("running", "starting", "paused") for result in results)
    return Overview(path, len(done), num_alive, len(results), done[0] if done else None)


def overviews(ledger: Ledger) -> list[Overview]:
    """Return all sweeps, newest last."""
    return [overview(path) for path in known_sweeps(ledger)]


def overview_line(found: Overview) -> str:
    """Return a sweep as one line."""
    if found.problem:
        return f"{'unreadable':22}{clean(found.path)}: {clean(found.problem, limit=120)}"
    state = f"{found.num_done}/{found.num_runs} done"
    state += f", {found.num_alive} alive" if found.num_alive else ""
    return f"{state:22}{clean(found.path)}{best_text(found.best)}"


def best_text(best: Result | None) -> str:
    """Return what the best run has, to follow a sweep's name."""
    if best is None:
        return ""
    values = ", ".join(f"{key}={value}" for key, value in best.run.values.items())
    outcome = f" {best.outcome}" if best.outcome else ""
    return f"  best: run {best.run.number} ({clean(values, limit=80)}){outcome}"
