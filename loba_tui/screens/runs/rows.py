"""Rows of the Runs screen: runs, and the plans of its actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.client.runs import steer as runs
from loba_tui.client.runs.summary import RunSummary
from loba_tui.core.errors import LobaError
from loba_tui.core.run.reader import Liveness, LivenessState
from loba_tui.core.run.records import Status
from loba_tui.core.units import show_countdown, show_mib, show_short_age
from loba_tui.widgets.line import Piece
from loba_tui.widgets.sparkline import sparkline
from loba_tui.widgets.table_rows import Cell, Column, Row

_TREND = 12
COLUMNS = (
    Column("name", "name", 0, least=12, cut="middle"),
    Column("method", "method", 14, at_least=124),
    Column("phase", "phase", 11),
    Column("step", "step", 13, "right"),
    Column("trend", "loss trend", _TREND, at_least=96),
    Column("loss", "loss", 8, "right"),
    Column("rate", "rate", 8, "right", at_least=72),
    Column("eta", "ETA", 8, "right"),
    Column("memory", "memory", 10, "right", at_least=110),
    Column("device", "device", 7, at_least=118),
    Column("age", "age", 5, "right", at_least=132),
    Column("sweep", "sweep", 20, at_least=220, cut="middle"),
)
PHASE_TONES: dict[LivenessState, str] = {
    "running": "good",
    "starting": "good",
    "paused": "warn",
    "stalled": "warn",
    "failed": "bad",
    "dead": "bad",
    "finished": "",
    "stopped": "dim",
    "queued": "dim",
    "unknown": "dim",
}
# Seen from afar, and without colour.
_SIGNS: dict[LivenessState, str] = {
    "running": "▶",
    "starting": "▶",
    "paused": "‖",
    "stalled": "?",
    "dead": "✗",
    "failed": "✗",
    "finished": "✓",
}


def run_row(summary: RunSummary, now: float) -> Row:
    """Return a run as a row of the table."""
    state = summary.liveness.state
    phase = phase_of(summary.liveness, summary.status)
    rate = summary.rate if summary.liveness.is_alive else None
    eta = summary.eta_seconds
    age = max(0.0, now - summary.created)
    tone = PHASE_TONES[state]
    sweep = summary.sweep.sweep.name if summary.sweep else ""
    return Row(
        key=str(summary.run.path),
        cells=(
            f"  {values_text(summary)}  {summary.run.name}" if summary.sweep else summary.run.name,
            summary.method,
            Cell(f"{_SIGNS.get(state, ' ')} {phase}", tone),
            f"{summary.step}/{summary.total}" if summary.total else "",
            sparkline(summary.losses, _TREND),
            "" if summary.loss is None else f"{summary.loss:.4g}",
            "" if rate is None else rate_text(rate),
            "" if eta is None else show_countdown(eta),
            "" if summary.memory_mib is None else f"{summary.memory_mib:,.0f} MiB",
            summary.device,
            show_short_age(age) if summary.created else "",
            sweep,
        ),
        values=(
            summary.run.name,
            summary.method,
            phase,
            summary.step,
            summary.loss,
            summary.loss,
            rate,
            eta,
            summary.memory_mib,
            summary.device,
            age if summary.created else None,
            sweep,
        ),
        tone="dim" if tone == "dim" else "",
    )


def values_text(summary: RunSummary) -> str:
    """Return what varies in a run of a sweep."""
    values = summary.sweep.values if summary.sweep else {}
    return ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())


def phase_of(liveness: Liveness, status: Status | None) -> str:
    """Return what the program says where it lives, else what is known: a dead run looks dead."""
    if liveness.state == "running" and status is not None:
        return status.phase
    return liveness.state


def rate_text(rate: float) -> str:
    """Return a rate as steps a second, or seconds a step where that is the larger number."""
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f}s/it"


def short_row(summary: RunSummary) -> list[Piece]:
    """Return a run as a line of a plan."""
    state = summary.liveness.state
    step = f"  {summary.step}/{summary.total}" if summary.total else ""
    return ["  ", (f"{state:9}", PHASE_TONES[state]), f"{step}  {summary.run.name}"]


def same_as(command: str, chosen: Sequence[RunSummary], options: str = "") -> list[list[Piece]]:
    """Return which commands would do the same."""
    first = f"loba runs {command} {chosen[0].run.name}{options}"
    more = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
    return [[""], [(f"the same as: {first}{more}", "dim")]]


@dataclass(frozen=True)
class DeletionPlan:
    """The chosen runs that can be deleted, the space that this frees, and those that stay."""

    removable: list[RunSummary]
    rows: list[list[Piece]]
    title: str

    @classmethod
    def of(cls, chosen: Sequence[RunSummary]) -> DeletionPlan:
        """Look at every run and measure it; takes as long as its folder is large."""
        removable: list[RunSummary] = []
        rows: list[list[Piece]] = []
        freed = 0
        for summary in chosen:
            try:
                runs.refuse_removal(summary.run)
            except LobaError as error:
                rows += [short_row(summary), [("      stays: ", "warn"), error.message]]
                continue
            size = runs.size_of(summary.run)
            freed += size
            removable.append(summary)
            rows.append([*short_row(summary), (f"  {show_mib(size)}", "dim")])
            if summary.has_adapter:
                rows.append([("      its finished adapter is deleted too", "warn")])
        if not removable:
            return cls([], rows, "Nothing of this can be deleted")
        rows += [[""], ["There is no undo: the folders are gone with all that is in them."]]
        rows += same_as("rm", removable, " --yes")
        count = "1 run" if len(removable) == 1 else f"{len(removable)} runs"
        return cls(removable, rows, f"Delete {count} and free {show_mib(freed)}?")


def removed(summary: RunSummary) -> str:
    """Delete a run and say so."""
    runs.remove(summary.run)
    return f"removed {summary.run.name}"
