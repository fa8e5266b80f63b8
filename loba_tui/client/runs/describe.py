"""The facts that are known of a run, as JSON and as lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loba_tui.client.machine.rank_table import rank_lines, rank_records
from loba_tui.client.sweeps.mark import SweepMark
from loba_tui.core.errors import CorruptError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.ranks import read_ranks
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Status
from loba_tui.core.text import clean, quote

_TABLES = ("steering", "resident", "unloaded", "sweep", "ranks")
"""Of a run's record, what has lines of its own."""
_MAX_ORIGIN_BYTES = 64 * 1024


def run_record(run_dir: RunDir) -> dict[str, Any]:
    """Return what is known of a run, as JSON holds it."""
    reader = RunReader(run_dir)
    status, liveness, report = reader.status(), reader.liveness(), reader.report()
    held = status.extra if status is not None and liveness.is_alive else {}
    return {
        "name": run_dir.name,
        "path": str(run_dir.path),
        "state": liveness.state,
        "reason": liveness.reason,
        "phase": status.phase if status else None,
        "step": status.step if status else None,
        "total": status.total if status else None,
        "heard_seconds_ago": round(time.time() - status.heartbeat, 1) if status else None,
        "adapter": str(run_dir.adapter) if run_dir.adapter.is_there() else None,
        "validation_loss": _said(status, "validation_loss"),
        "best": _said(status, "best"),
        "outcome": report.get("outcome") if report else None,
        "resident": _components(_list(held.get("resident"))),
        "unloaded": [str(each) for each in _list(held.get("unloaded"))],
        "origin": _origin(run_dir),
        "sweep": _sweep(run_dir),
        "ranks": rank_records(read_ranks(run_dir)),
        "steering": _steering(run_dir),
    }


def _said(status: Status | None, key: str) -> str | None:
    """Return what a program said of itself in words."""
    found = status.extra.get(key) if status is not None else None
    return found if isinstance(found, str) else None


def _components(found: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what a program says it holds; a status from elsewhere may hold anything."""
    return [
        {
            "component": str(each.get("component")),
            "bytes": each["bytes"] if isinstance(each.get("bytes"), int) else 0,
            "device": str(each.get("device")),
            "dtype": str(each.get("dtype")),
        }
        for each in found
        if isinstance(each, dict)
    ]


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _origin(run_dir: RunDir) -> str | None:
    """Return where a recipe from elsewhere was fetched from."""
    try:
        found = parse_json(run_dir.origin.read(_MAX_ORIGIN_BYTES))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(found)


def _sweep(run_dir: RunDir) -> dict[str, Any] | None:
    """Return which run of which sweep it is."""
    mark = SweepMark.read(run_dir)
    if mark is None:
        return None
    values = dict(mark.values)
    return {"name": mark.sweep.name, "path": str(mark.sweep), "run": mark.number, "values": values}


def _steering(run_dir: RunDir) -> list[dict[str, Any]]:
    try:
        record = ChangeRecord.read(run_dir.changes)
    except CorruptError:
        return []
    return [vars(change) for change in record.changes] if record else []


def record_lines(record: Mapping[str, Any]) -> list[str]:
    """Return all that a run's record says, for reading."""
    lines = [
        f"{key.replace('_', ' '):20}{clean(value)}"
        for key, value in record.items()
        if value is not None and key not in _TABLES
    ]
    lines += _sweep_lines(record)
    lines += [f"{'process':20}{line}" for line, _ in rank_lines(record["ranks"])]
    lines += _memory_lines(record)
    lines += [
        f"{'set at step ' + str(change['step']):20}{clean(change['key'])}  "
        f"{quote(change['old'])} → {quote(change['new'])}"
        for change in record["steering"]
    ]
    return lines


def _sweep_lines(record: Mapping[str, Any]) -> list[str]:
    """Return which run of a sweep it is, and what varies in it."""
    sweep = record["sweep"]
    if sweep is None:
        return []
    values = ", ".join(f"{key}={value}" for key, value in sweep["values"].items())
    return [f"{'sweep':20}{clean(sweep['name'])}, run {sweep['run']}: {clean(values)}"]


def _memory_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what a living run holds in memory, a line a component."""
    lines = []
    for each in record["resident"]:
        place = f"{clean(each['device'], limit=12):8}{clean(each['dtype'], limit=16)}"
        size = f"{each['bytes'] / 2**20:>10,.1f} MiB"
        lines.append(f"{'in memory':20}{clean(each['component'], limit=24):16}{size}  {place}")
    if record["unloaded"]:
        lines.append(f"{'unloaded':20}{clean(', '.join(record['unloaded']), limit=200)}")
    return lines


def run_line(record: Mapping[str, Any]) -> str:
    """Return a run's record as one line."""
    step = f"{record['step']}/{record['total']}" if record["total"] else ""
    outcome = clean(record["outcome"] or "", limit=12)
    return f"{record['state']:10}{step:14}{outcome:13}{clean(record['path'])}"


def list_lines(records: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for every run; those of a sweep stand together where its first one is.

    Args:
        headers: The line of each sweep, by its path.
    """
    seen: set[str] = set()
    for record in records:
        path = record["sweep"]["path"] if record["sweep"] is not None else None
        if path is None:
            yield run_line(record)
        elif path not in seen:
            seen.add(path)
            yield headers[path]
            of_it = [each for each in records if (each["sweep"] or {}).get("path") == path]
            yield from (f"  {run_line(each)}" for each in of_it)
