"""Sweeps in the list of runs: a row each, under which its runs stand when it is open."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from loba_tui.client.runs.summary import RunSummary
from loba_tui.client.sweeps.overview import best_text
from loba_tui.client.sweeps.results import order_of
from loba_tui.screens.runs.rows import COLUMNS, run_row
from loba_tui.widgets.table_rows import Cell, Row

_PREFIX = "sweep:"


@dataclass(frozen=True)
class SweepGroup:
    """The runs of one sweep, in their order."""

    key: str
    name: str
    runs: tuple[RunSummary, ...]

    def row(self, *, is_open: bool) -> Row:
        """Return its row: how many runs are done and alive, and the best one so far."""
        states = [summary.liveness.state for summary in self.runs]
        num_done = states.count("finished")
        num_alive = sum(summary.liveness.is_alive for summary in self.runs)
        results = [summary.result for summary in self.runs if summary.result is not None]
        best = min(results, key=order_of, default=None)
        title = f"{'▾' if is_open else '▸'} {self.name}{best_text(best)}"
        is_bad = any(state in ("failed", "dead") for state in states)
        tone = "good" if num_alive else "bad" if is_bad else ""
        texts: dict[str, str | Cell] = {
            "name": title,
            "method": "sweep",
            "phase": Cell(f"{'▶' if num_alive else ' '} {num_done}/{len(states)} done", tone),
            "step": f"{num_alive} alive" if num_alive else "",
            "sweep": self.name,
        }
        cells = tuple(texts.get(column.key, "") for column in COLUMNS)
        # What it has not sorts last, whatever the column.
        values = tuple(title if c.key in ("name", "sweep") else None for c in COLUMNS)
        return Row(self.key, cells, values)


def sweep_groups(summaries: Sequence[RunSummary]) -> dict[str, SweepGroup]:
    """Return the sweeps among runs, by the key of their row."""
    found: dict[str, list[RunSummary]] = {}
    for summary in summaries:
        if summary.sweep is not None:
            found.setdefault(_PREFIX + str(summary.sweep.sweep), []).append(summary)
    return {
        key: SweepGroup(key, _name(runs[0]), tuple(sorted(runs, key=_number)))
        for key, runs in found.items()
    }


def folder_of(key: str) -> str:
    """Return the folder of the run or the sweep that a row is of."""
    return key.removeprefix(_PREFIX)


def _name(summary: RunSummary) -> str:
    assert summary.sweep is not None
    return summary.sweep.sweep.name


def _number(summary: RunSummary) -> int:
    return summary.sweep.number if summary.sweep is not None else 0


def list_rows(
    summaries: Sequence[RunSummary],
    groups: dict[str, SweepGroup],
    opened: Collection[str],
    now: float,
) -> list[Row]:
    """Return the rows of the list: a sweep stands where its newest run is.

    Args:
        opened: The keys of the sweeps whose runs are shown.
    """
    rows: list[Row] = []
    seen: set[str] = set()
    for summary in summaries:
        key = _PREFIX + str(summary.sweep.sweep) if summary.sweep is not None else None
        if key is None:
            rows.append(run_row(summary, now))
        elif key not in seen:
            seen.add(key)
            group = groups[key]
            rows.append(group.row(is_open=key in opened))
            if key in opened:
                rows += [run_row(each, now) for each in group.runs]
    return rows
