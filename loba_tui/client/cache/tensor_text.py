"""Kept latents and embeddings as text: records for JSON and lines for reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loba_tui.client.cache.backend import Listed
from loba_tui.core.associate.caches.hub.query import Row
from loba_tui.core.associate.caches.tensors import scan as tensor_scan
from loba_tui.core.associate.caches.tensors.prune import Item, Plan
from loba_tui.core.associate.caches.tensors.scan import Entry, TensorGroup
from loba_tui.core.text import clean, quote
from loba_tui.core.units import show_size

_MAX_SHOWN = 12
_AGAIN = "what needs them makes them again"


def rows(root: Path | None) -> Iterator[Listed]:
    """Yield what is kept, a row for each model and machine that computed it."""
    for group in tensor_scan.scan(root) if root is not None else ():
        record = group_record(root, group)
        row = Row(
            name=group.id,
            kind=group.kind,
            size=group.size,
            used=group.used,
            modified=group.used,
            refs=(),
            marks=record["marks"],
        )
        yield row, record


def group_record(root: Path | None, group: TensorGroup) -> dict[str, Any]:
    """Return a group as JSON holds it, with the keys that a repository's record has too."""
    return {
        "id": group.id,
        "kind": group.kind,
        "size": group.size,
        "refs": [],
        "last_used": group.used or None,
        "last_fetched": None,
        "entries": len(group.entries),
        "marks": _marks(group),
        "made_by": dict(group.facts),
        "path": str(root / group.kind / group.name) if root is not None else "",
    }


def _marks(group: TensorGroup) -> list[str]:
    marks = ["in-use"] if group.is_in_use else []
    marks += [] if group.facts else ["broken"]
    return marks + (["incomplete"] if group.leftovers else [])


def total_line(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what is kept in all; "" where nothing is."""
    if not records:
        return ""
    entries = sum(each["entries"] for each in records)
    size = show_size(sum(each["size"] for each in records))
    return f"{entries} latents and embeddings, {size}; {_AGAIN}"


def show_record(root: Path, group: TensorGroup) -> dict[str, Any]:
    """Return everything known of a group and its entries."""
    return group_record(root, group) | {
        "entries": [
            {
                "key": entry.key,
                "size": entry.size,
                "last_used": entry.used,
                "about": tensor_scan.describe(root, group, entry),
            }
            for entry in group.entries
        ],
        "leftovers": [{"path": each.path, "size": each.size} for each in group.leftovers],
    }


def show_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a group's record for reading."""
    marks = " ".join(record["marks"])
    yield f"{clean(record['id'])}  {show_size(record['size'])}  {marks}".rstrip()
    yield f"  {clean(record['path'])}"
    for part, facts in record["made_by"].items():
        told = facts.items() if isinstance(facts, Mapping) else ()
        listed = ", ".join(f"{key} {_plain(value)}" for key, value in told if value is not None)
        yield f"  {clean(part)}: {clean(listed, limit=400)}"
    for entry in record["entries"][:_MAX_SHOWN]:
        told = entry["about"]
        about = quote(told["prompt"]) if "prompt" in told else told.get("image") or entry["key"]
        yield f"    {show_size(entry['size']):>9}  {clean(about, limit=100)}"
    if len(record["entries"]) > _MAX_SHOWN:
        yield f"    … and {len(record['entries']) - _MAX_SHOWN} more; --json lists all"
    for each in record["leftovers"]:
        yield f"  ! {clean(each['path'])}: left by a broken write, {show_size(each['size'])}"


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def plan_record(plan: Plan, freed: int | None = None) -> dict[str, Any]:
    """Return a plan as JSON holds it; `freed` is what was really freed."""
    return {
        "removes": [
            {"id": item.group.id, "entries": _count(item), "size": item.size} for item in plan.items
        ],
        "frees": plan.frees,
        "refused": [
            {"id": each.id, "reason": "in-use", "why": "a run uses it"} for each in plan.in_use
        ],
        "freed": freed,
    }


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield a plan for reading."""
    for item in plan.items:
        part = "all of it" if item.entries is None else f"{_count(item)} entries"
        yield f"  {clean(item.group.id)}: {part}, {show_size(item.size)}"
    yield f"frees {show_size(plan.frees)}; {_AGAIN}"
    for each in plan.in_use:
        yield f"  stays: {clean(each.id)}: a run uses it"


def _count(item: Item) -> int:
    entries: Iterable[Entry] = item.group.entries if item.entries is None else item.entries
    return sum(1 for entry in entries if entry.key)
