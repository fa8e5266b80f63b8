"""The hub's cache as text: records for JSON and lines for reading."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loba_tui.client.cache.backend import Listed
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.journal import Entry
from loba_tui.core.associate.caches.hub.layout import Cache, Repository, Revision
from loba_tui.core.associate.caches.hub.query import Row
from loba_tui.core.associate.caches.hub.requests import Plan, Target, last_wanted
from loba_tui.core.associate.caches.hub.targets import target_name
from loba_tui.core.associate.caches.hub.trash import Restored
from loba_tui.core.associate.caches.hub.verify import Checked
from loba_tui.core.text import clean
from loba_tui.core.units import show_size

_MAX_SHOWN = 12


class Lister:
    """Turns repositories into rows and records, with what is known of pins and runs."""

    def __init__(self, cache: HubCache) -> None:
        self._usage = cache.usage
        self._pins = cache.pins()
        self._root = cache.root

    def row(self, repository: Repository, revision: Revision | None) -> Listed:
        """Return a repository, or one revision of it, with what it is chosen and sorted by."""
        record = self.record(repository, revision)
        row = Row(
            name=repository.name,
            kind=repository.kind,
            size=record["size"],
            used=last_wanted(repository, revision, self._usage),
            modified=record["last_fetched"],
            refs=record["refs"],
            marks=record["marks"],
        )
        return row, record

    def record(self, repository: Repository, revision: Revision | None) -> dict[str, Any]:
        """Return a repository, or one revision of it, as JSON holds it."""
        commit = revision.commit if revision is not None else None
        used = self._usage.last_used(repository, commit)
        runs = self._usage.runs_of(repository, commit)
        record = {
            "id": repository.name,
            "kind": repository.kind,
            "size": revision.size if revision else repository.size,
            "refs": sorted(revision.refs if revision else repository.refs),
            "last_used": used,
            "last_fetched": revision.modified if revision else repository.modified,
            "runs": len(runs),
            "marks": self._marks(repository, revision),
        }
        if revision is not None:
            path = f"{repository.folder}/snapshots/{revision.commit}"
            return record | {
                "revision": revision.commit,
                "files": len(revision.files),
                "path": str(self._root / path),
            }
        return record | {
            "logical_size": repository.logical_size,
            "leftover_size": sum(
                blob.size for blob in (*repository.incomplete, *repository.unreferenced)
            ),
            "revisions": len(repository.revisions),
            "path": str(self._root / repository.folder),
            "problems": [each._asdict() for each in repository.problems],
        }

    def _marks(self, repository: Repository, revision: Revision | None) -> list[str]:
        commit = revision.commit if revision is not None else None
        marks = []
        targets = {Target(repository.folder), Target(repository.folder, commit)}
        if commit is None:
            targets |= {Target(repository.folder, each.commit) for each in repository.revisions}
        if targets & self._pins:
            marks.append("pinned")
        if any(run.state == "live" for run in self._usage.runs_of(repository, commit)):
            marks.append("in-use")
        if revision is not None:
            marks += ["broken"] if any(file.problem for file in revision.files) else []
            marks += [] if revision.refs else ["detached"]
            return marks
        marks += ["broken"] if repository.problems else []
        marks += ["incomplete"] if repository.incomplete else []
        marks += ["detached"] if any(not each.refs for each in repository.revisions) else []
        return marks


def total_line(cache: Cache) -> str:
    """Return what a cache holds and takes in all."""
    revisions = sum(len(repository.revisions) for repository in cache.repositories)
    line = (
        f"{len(cache.repositories)} repositories, {revisions} revisions, "
        f"{show_size(cache.size)} on disk"
    )
    if cache.logical_size > cache.size:
        line += f" ({show_size(cache.logical_size)} if nothing were shared)"
    return line


def repository_record(cache: HubCache, found: Cache, target: Target) -> dict[str, Any]:
    """Return everything known of a repository, or of one of its revisions."""
    repository = found.repository(target.folder)
    assert repository is not None
    lister = Lister(cache)
    chosen = [each for each in repository.revisions if target.commit in (None, each.commit)]
    usage = cache.usage
    return lister.record(repository, None) | {
        "incomplete": [
            {"name": clean(each.name), "size": each.size} for each in repository.incomplete
        ],
        "revisions": [
            lister.record(repository, revision)
            | {
                "files": [
                    {"path": file.path, "size": file.size, "problem": file.problem}
                    for file in revision.files
                ]
            }
            for revision in chosen
        ],
        "runs": [
            {"name": run.name, "path": str(run.path), "state": run.state, "last_used": run.when}
            for run in usage.runs_of(repository, target.commit)
        ],
        "recipes": [str(each.path) for each in usage.recipes_of(repository, target.commit)],
    }


def repository_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield a repository's record for reading."""
    yield f"{clean(record['id'])}  {show_size(record['size'])}"
    yield f"  {clean(record['path'])}"
    marks = [mark for mark in record["marks"] if mark in ("pinned", "in-use")]
    if marks:
        yield f"  {', '.join(marks)}"
    for revision in record["revisions"]:
        marks = [*revision["refs"], *revision["marks"]]
        yield f"  {revision['revision']}  {clean(' '.join(marks))}"
        for file in revision["files"]:
            problem = f"  {file['problem']}" if file["problem"] else ""
            yield f"    {show_size(file['size']):>9}  {clean(file['path'])}{clean(problem)}"
    for each in record["incomplete"]:
        yield f"  incomplete download {each['name']}  {show_size(each['size'])}"
    for each in record["problems"]:
        yield f"  ! {clean(each['path'])}: {clean(each['what'])}"
    for run in record["runs"]:
        yield f"  run {clean(run['name'])}: {run['state']}"
    for path in record["recipes"]:
        yield f"  recipe {clean(path)}"


def plan_record(found: Cache, plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON holds it."""
    return {
        "removes": [target_name(found, target) for target in plan.targets],
        "leftovers": plan.leftovers,
        "frees": plan.frees,
        "paths": [item.path for item in plan.items],
        "breaks": {
            "recipes": [str(each.path) for each in plan.breaks_recipes],
            "runs": [run.name for run in plan.breaks_runs],
        },
        "refused": [
            {"id": target_name(found, each.target), "reason": each.reason, "why": each.why}
            for each in plan.refusals
        ],
    }


def plan_lines(found: Cache, plan: Plan) -> Iterator[str]:
    """Yield a plan for reading: what goes, what that frees, and what it breaks."""
    sizes = {item.path: item.size for item in plan.items}
    yield from _some([_target_line(found, target, sizes) for target in plan.targets])
    if plan.leftovers:
        yield f"  {plan.leftovers} contents that broken downloads and old revisions left"
    yield f"frees {show_size(plan.frees)}"
    recipes = [f"recipe {clean(each.path)} would fetch it again" for each in plan.breaks_recipes]
    runs = [
        f"run {clean(run.name)} can no longer resume without fetching it again"
        for run in plan.breaks_runs
    ]
    if recipes or runs:
        counts = [_count(len(recipes), "recipe"), _count(len(runs), "run")]
        yield f"breaks {' and '.join(each for each in counts if each)}:"
        yield from _some([f"  {line}" for line in (*recipes, *runs)])
    yield from _some(
        [f"  stays: {target_name(found, each.target)}: {clean(each.why)}" for each in plan.refusals]
    )


def _target_line(found: Cache, target: Target, sizes: Mapping[str, int]) -> str:
    repository = found.repository(target.folder)
    name = target_name(found, target)
    if repository is None:
        return f"  {name}"
    if target.commit is None:
        return f"  {name}: all of it, {show_size(sizes.get(target.folder, 0))}"
    revision = repository.revision(target.commit)
    if target.path is not None:
        blobs = {file.path: file.size for file in revision.files} if revision else {}
        return f"  {name}: {show_size(blobs.get(target.path, 0))}"
    refs = " ".join(revision.refs) if revision else ""
    return f"  {name}: {clean(refs) or 'detached'}, {show_size(revision.size if revision else 0)}"


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_MAX_SHOWN]
    if len(lines) > _MAX_SHOWN:
        yield f"  … and {len(lines) - _MAX_SHOWN} more"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}" if number else ""


def verdict_counts(results: Sequence[Checked]) -> dict[str, int]:
    """Return how many contents have each verdict."""
    return {
        verdict: sum(each.verdict == verdict for each in results)
        for verdict in ("good", "damaged", "missing", "unknown")
    }


def verdict_line(counts: Mapping[str, int]) -> str:
    """Return the verdicts that were given; "" where there was nothing to check."""
    return ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)


def entry_record(entry: Entry, size: int) -> dict[str, Any]:
    """Return a deletion in the trash as JSON holds it."""
    return {
        "id": entry.id,
        "time": entry.time,
        "removed": list(entry.what),
        "size": size,
        "interrupted": entry.is_interrupted,
    }


def entry_line(record: Mapping[str, Any]) -> str:
    """Return a deletion as one line."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record["time"]))
    note = "  interrupted; undo puts it back" if record["interrupted"] else ""
    removed = clean(", ".join(record["removed"]), limit=80)
    return f"{record['id']:22}{when}  {show_size(record['size']):>9}  {removed}{note}"


def restored_lines(restored: Restored) -> Iterator[str]:
    """Yield what an undo did."""
    yield f"brought back {clean(', '.join(restored.entry.what), limit=200)}"
    if restored.kept:
        yield f"  {len(restored.kept)} files were there again already and were left as they are"
    for path in restored.missing[:_MAX_SHOWN]:
        yield f"  ! {clean(path)}: its content in the shared store is gone"
