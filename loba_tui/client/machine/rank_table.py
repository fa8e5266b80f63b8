"""The processes of a run as a table, where there is more than one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loba_tui.core.run.ranks import SILENT_SECONDS, RankState, silent_seconds
from loba_tui.core.text import clean

MOST_ROWS = 64
"""More processes than a table is read with; those that are silent come first then."""


def rank_records(ranks: Sequence[RankState]) -> list[dict[str, Any]]:
    """Return the processes of a run as JSON holds them, none where one trains alone."""
    if len(ranks) < 2:
        return []
    return [
        {
            "rank": each.rank,
            "host": each.host,
            "pid": each.pid,
            "device": each.device,
            "step": each.step,
            "phase": each.phase,
            "silent_seconds": round(silent_seconds(each, ranks), 1),
        }
        for each in ranks
    ]


def rank_lines(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """Return a line for each of these records, and whether its process is silent."""
    shown = list(records)
    if len(shown) > MOST_ROWS:
        shown.sort(key=lambda each: -each["silent_seconds"])
    lines = []
    for each in shown[:MOST_ROWS]:
        place = f"{clean(each['host'], limit=20):12}  {clean(each['device'], limit=10):8}"
        line = (
            f"rank {each['rank']:<4}{place}step {each['step']:<8}{clean(each['phase'], limit=16)}"
        )
        silent = each["silent_seconds"]
        is_silent = silent > SILENT_SECONDS
        lines.append((f"{line}, silent for {silent:.0f} s" if is_silent else line, is_silent))
    if len(shown) > MOST_ROWS:
        lines.append((f"and {len(shown) - MOST_ROWS} more", False))
    return lines
