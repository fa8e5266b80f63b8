"""A run's events and log: followed while they grow, and as lines and JSON."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loba_tui.client.bench.text import row_line
from loba_tui.client.plans.requirements_text import measured_line, short_line
from loba_tui.client.runs.log_tail import last_lines
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader, Tail
from loba_tui.core.run.records import Event
from loba_tui.core.text import clean, counted, quote
from loba_tui.core.units import show_size

POLL_SECONDS = 0.1
_FIGURES = MappingProxyType(
    {"estimated": short_line, "measured_memory": measured_line, "benched": row_line}
)


def follow(run_dir: RunDir, *, keep_on: bool) -> Iterator[Event | str]:
    """Yield a run's events and then its log, and what is added to both while it is alive."""
    reader, log = RunReader(run_dir), Tail(run_dir.log)
    log.skip_to_end()
    yield from reader.new_events()
    if not keep_on:
        yield from last_lines(run_dir)
        return
    is_alive = True
    while is_alive:
        # Asked before the last look, so that its last words are not missed.
        is_alive = reader.liveness().is_alive or reader.liveness().state == "queued"
        yield from reader.new_events()
        yield from (line.decode("utf-8", "replace") for line in log.new_lines())
        if is_alive:
            time.sleep(POLL_SECONDS)


def event_line(event: Event) -> str:
    """Return an event as one line that is safe to show."""
    try:
        stamp = time.strftime("%H:%M:%S", time.localtime(event.time))
    except (OverflowError, ValueError, OSError):  # no time that a calendar knows
        stamp = "--:--:--"
    data = {key: value for key, value in event.data.items() if key not in ("traceback", "id")}
    shown = "  ".join(f"{clean(key)}={clean(value, limit=160)}" for key, value in data.items())
    return f"{stamp}  {clean(event.kind):14}{shown}".rstrip()


def event_record(event: Event) -> Mapping[str, Any]:
    """Return an event as JSON holds it."""
    return {"event": event.kind, "time": event.time, **event.data}


def describe_event(event: Event) -> str:
    """Return an event as a line for the foreground, empty for those that need no line."""
    data = event.data
    if event.kind == "ended_early":
        return clean(data.get("message", ""))
    if event.kind == "chosen":
        return f"chosen: {clean(data.get('keys', ''))} ({clean(data.get('reason', ''))})"
    if event.kind == "best":
        with suppress(KeyError, TypeError, ValueError):
            by, step = clean(data["by"]), clean(data["step"])
            return f"best so far: {by} {data['figure']:.4g} after step {step}"
        return ""
    if event.kind == "validated":
        with suppress(KeyError, TypeError, ValueError):
            return f"validation loss {data['loss']:.4g} after step {clean(data['step'])}"
        return ""
    if event.kind in ("warning", "sample_failed", "overfitting"):
        return f"warning: {clean(data.get('message', ''))}"
    if event.kind in _FIGURES:
        line = _FIGURES[event.kind]
        with suppress(KeyError, TypeError, ValueError):  # of another version of the program
            return line(data)
        return ""
    if event.kind == "built":
        facts = [clean(data[key]) for key in ("device", "dtype") if data.get(key)]
        return f"running on {', '.join([*facts, *_packed(data)])}" if facts else ""
    if event.kind == "init_from":
        return _init_from_line(data)
    if event.kind in ("saved", "sampled") and data.get("path"):
        return f"{event.kind} {shorten(Path(str(data['path'])))}"
    if event.kind in ("resumed", "paused", "continued"):
        return f"{event.kind} at step {clean(data.get('step', 0))}"
    if event.kind == "steered":
        change = f"{quote(data.get('old'))} → {quote(data.get('new'))}"
        return f"{clean(data.get('key', ''))}  {change}  at step {clean(data.get('step', 0))}"
    if event.kind == "paused_disk":
        return f"waiting for the disk: {clean(data.get('message', ''))}"
    if event.kind in ("launched", "relaunched"):
        return _launch_line(event)
    if event.kind == "skipped":
        return f"skipped a step: {clean(data.get('message', ''))}"
    return ""


def _launch_line(event: Event) -> str:
    """Return where the processes of a run are started, and why they are started anew."""
    data = event.data
    named = data.get("hosts")
    hosts = ", ".join(clean(each, limit=80) for each in named) if isinstance(named, list) else ""
    where = f"{hosts}, over {clean(data.get('iface'))}, port {clean(data.get('port'))}"
    if event.kind == "launched":
        return f"starting processes on {where}"
    return f"restart {clean(data.get('restart'))} on {where}: {clean(data.get('why'))}"


def _packed(data: Mapping[str, Any]) -> list[str]:
    """Return how the base model's weights are quantised, if they are."""
    with suppress(KeyError, TypeError, ValueError):
        found = data["quantized"]
        before, after = show_size(found["float_bytes"]), show_size(found["packed_bytes"])
        changed = f"{found['error']:.1%} off"
        layers = counted(found["num_layers"], "layer")
        return [f"{layers} held by {clean(found['by'])} ({before} → {after}, {changed})"]
    return []


def _init_from_line(data: Mapping[str, Any]) -> str:
    """Return what was taken of the adapter file that a run begins with."""
    line = f"begins with {clean(data.get('file', ''))}: {counted(data.get('layers', 0), 'layer')}"
    ranks = data.get("ranks")
    for change, number in ranks.items() if isinstance(ranks, dict) else ():
        line += f"; {clean(number)} from rank {clean(change)}"
    if data.get("error"):
        line += f", error {clean(data['error'])}"
    if data.get("fresh"):
        begin = "begins" if data["fresh"] == 1 else "begin"
        line += f"; {counted(data['fresh'], 'layer')} that it lacks {begin} anew"
    if data.get("unused"):
        names = data.get("unused_names")
        named = ", ".join(map(clean, names)) if isinstance(names, list) else ""
        line += f"; not used of it: {counted(data['unused'], 'layer')}, {named}"
    return line


def shorten(path: Path) -> str:
    """Return a path as seen from the working directory where it lies inside it."""
    here = Path.cwd()
    return clean(path.relative_to(here) if path.is_relative_to(here) else path)
