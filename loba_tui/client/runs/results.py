"""Where the results of a finished program are, and what its report says, as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loba_tui.client.runs.events import shorten
from loba_tui.core.owned_files import OwnedFile, OwnedFolder
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event
from loba_tui.core.text import clean


def result_lines(run_dir: RunDir, events: Sequence[Event]) -> list[str]:
    """Return where the results of a finished program are, and what the report says of them."""
    found: list[tuple[str, OwnedFile | OwnedFolder]] = [
        ("adapter", run_dir.adapter),
        ("for kohya", run_dir.adapter_kohya),
        ("for Comfy", run_dir.adapter_comfy),
        ("for PEFT", run_dir.adapter_peft),
    ]
    found += [("best step", run_dir.best_adapter)]
    sampled = [Path(str(e.data.get("path"))).name for e in events if e.kind == "sampled"]
    strips = run_dir.strips()
    newest = [strip for strip in strips if strip.name in sampled[-1:]] or strips
    found += [("strip", strip) for strip in newest[-1:]]
    found += [("report", run_dir.report), ("picture", run_dir.report_picture)]
    found += [("costs", run_dir.costs), ("picture", run_dir.costs_picture)]
    lines = [f"{label:11}{shorten(each.path)}" for label, each in found if each.is_there()]
    told = [e.data.get("notes") for e in events if e.kind == "exported"][-1:]
    lines += [
        f"{'note':11}{clean(note)}" for notes in told if isinstance(notes, list) for note in notes
    ]
    report = RunReader(run_dir).report()
    if report is None:  # which says the same
        costs = [e.data.get("sentences") for e in events if e.kind == "costs"][-1:]
        lines += [f"  {clean(s)}" for each in costs if isinstance(each, list) for s in each]
    if report is not None:
        lines.append(f"{'measured':11}{clean(report.get('outcome', 'unknown'))}")
        verdict = report.get("verdict")
        lines += [f"  {clean(s)}" for s in verdict] if isinstance(verdict, list) else []
    return lines
