"""What `loba plugins`, `loba runs` and `loba export` say and do, without the command line."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loba_tui.core import plugins
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError, ResourceError
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.text import clean, nearest, quote


def plugin_record(plugin: plugins.Plugin) -> dict[str, Any]:
    """Return what a drop-in file says of itself, as JSON holds it."""
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "summary": clean(plugin.doc.partition("\n")[0]),
        "path": str(plugin.path),
        "options": [
            {
                "name": option.name,
                "type": option.expected,
                "required": option.required,
                "default": None if option.required else option.default,
            }
            for option in plugin.options.values()
        ],
    }


def plugin_lines(plugin: plugins.Plugin) -> list[str]:
    """Return a drop-in's documentation and options for reading."""
    lines = [f"{plugin.kind}/{plugin.name}", "", clean(plugin.doc, keep_newlines=True), ""]
    lines += ["Options:"] if plugin.options else ["It has no options."]
    for option in plugin.options.values():
        default = "required" if option.required else f"default {quote(option.default)}"
        lines.append(f"  {option.name:22}{option.expected}, {default}")
    return lines


def all_plugins(kind: str | None = None) -> Iterator[plugins.Plugin]:
    """Describe every drop-in, of one kind or of all, without importing any.

    Raises:
        RecipeError: There is no such kind.
    """
    if kind is not None and kind not in plugins.KINDS:
        meant = nearest(kind, plugins.KINDS)
        raise RecipeError(
            f"{clean(kind)} is not a kind of drop-in.",
            f"Did you mean {meant}?" if meant else f"Kinds: {', '.join(plugins.KINDS)}.",
        )
    for each in [kind] if kind else plugins.KINDS:
        yield from (plugins.describe(each, name) for name in plugins.names(each))


def find_plugin(wanted: str) -> plugins.Plugin:
    """Return the drop-in called NAME or KIND/NAME.

    Raises:
        RecipeError: There is none of that name, or there are several.
    """
    kind, _, name = wanted.rpartition("/")
    known = list(all_plugins(kind or None))
    found = [plugin for plugin in known if plugin.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{plugin.kind}/{plugin.name}" for plugin in found)
        raise RecipeError(f"{clean(name)} is several drop-ins: {choices}.", "Name one of them.")
    meant = nearest(name, [plugin.name for plugin in known])
    raise RecipeError(
        f"There is no drop-in called {clean(wanted)}.",
        f"Did you mean {meant}?" if meant else "`loba plugins ls` lists them all.",
    )


def run_record(run_dir: RunDir) -> dict[str, Any]:
    """Return what is known of a run, as JSON holds it."""
    reader = RunReader(run_dir)
    status, liveness, report = reader.status(), reader.liveness(), reader.report()
    return {
        "name": run_dir.name,
        "path": str(run_dir.path),
        "state": liveness.state,
        "reason": liveness.reason,
        "phase": status.phase if status else None,
        "step": status.step if status else None,
        "total": status.total if status else None,
        "heard_seconds_ago": round(time.time() - status.heartbeat, 1) if status else None,
        "adapter": str(run_dir.adapter) if run_dir.adapter.is_file() else None,
        "outcome": report.get("outcome") if report else None,
    }


def run_line(record: Mapping[str, Any]) -> str:
    """Return a run's record as one line."""
    step = f"{record['step']}/{record['total']}" if record["total"] else ""
    outcome = clean(record["outcome"] or "", limit=12)
    return f"{record['state']:10}{step:14}{outcome:13}{clean(record['path'])}"


def find_run(wanted: str, ledger: Ledger) -> RunDir:
    """Return the run meant by a folder, or by the name of a known run.

    Raises:
        RecipeError: There is no such run.
    """
    if Path(wanted).exists():
        return RunDir.open(wanted)
    known = {run_dir.name: run_dir for run_dir in ledger.runs()}
    if wanted in known:
        return known[wanted]
    meant = nearest(wanted, known)
    raise RecipeError(
        f"There is no run called {clean(wanted)}.",
        f"Did you mean {meant}?" if meant else "`loba runs ls` lists the known runs.",
    )


def export_adapter(run_dir: RunDir, file_format: str, out: Path | None, *, replace: bool) -> Path:
    """Copy a run's adapter in one format out of its folder and return the new file.

    Raises:
        LobaError: The run is not finished, the file exists, or it cannot be written.
    """
    source = run_dir.adapter_kohya if file_format == "kohya" else run_dir.adapter
    if not source.is_file():
        raise CorruptError(
            f"{run_dir.path} holds no finished adapter.",
            f"Continue the run first: loba run --resume {run_dir.path}",
        )
    target = out if out is not None else Path(f"{run_dir.name}.{file_format}.safetensors")
    if target.is_dir():
        target = target / f"{run_dir.name}.{file_format}.safetensors"
    if target.exists() and not replace:
        raise RefusedError(f"{target} exists already.", "Add --yes to replace it.")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Choose another place with --out.",
        ) from error
    return target
