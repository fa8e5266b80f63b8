"""`loba export`: copy the adapter of a run out of its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from loba_tui.client.runs.resolve import unfinished
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import RefusedError, ResourceError
from loba_tui.core.files import staged
from loba_tui.core.run.directory import RunDir
from loba_tui.core.text import clean
from loba_tui.core.units import show_mib


def export_adapter(run_dir: RunDir, file_format: str, out: Path | None, *, replace: bool) -> Path:
    """Copy a run's adapter in one format out of its folder and return the new file.

    Raises:
        LobaError: The run is not finished, the file exists, or it cannot be written.
    """
    source = run_dir.adapter_kohya if file_format == "kohya" else run_dir.adapter
    if not source.is_there() and run_dir.adapter.is_there():
        raise RefusedError(
            f"The adapter of {clean(run_dir.path)} has no form for {file_format}.",
            "Its kind is read by PEFT alone: see the folder adapter/peft of the run.",
        )
    if not source.is_there():
        raise unfinished(run_dir)
    check_safetensors(source)
    target = out if out is not None else Path(f"{run_dir.name}.{file_format}.safetensors")
    if target.is_dir():
        target = target / f"{run_dir.name}.{file_format}.safetensors"
    if target.exists() and not replace:
        raise RefusedError(f"{target} exists already.", "Add --yes to replace it.")
    try:
        size, free = source.stat().st_size, shutil.disk_usage(target.absolute().parent).free
        if size > free:
            raise ResourceError(f"{show_mib(size)} are needed, and {show_mib(free)} are free.")
        with staged(target) as temporary, source.open() as stream, temporary.open("xb") as copy:
            shutil.copyfileobj(stream, copy)
    except OSError as error:
        raise ResourceError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Choose another place with --out.",
        ) from error
    return target
