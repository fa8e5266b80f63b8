"""`loba doctor`: the installation, the machine, the hub's login and cache, and a run folder.

Nothing of the torch stack is imported here; what needs it is asked of the program.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from loba_tui.client.runs.foreground import Foreground
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import ExitCode, LobaError
from loba_tui.core.findings import Finding, bad
from loba_tui.core.run import launch
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.examine import examine_run
from loba_tui.core.text import counted

FLOORS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "torch": (2, 13),
        "diffusers": (0, 38),
        "transformers": (5, 10),
        "safetensors": (0, 8),
        "huggingface_hub": (2, 4),
        "pillow": (12, 3),
    }
)
"""Oldest versions without a known advisory that concerns what is done here."""
LISTED = ("peft", "accelerate")
"""Shown too, though nothing is known against older ones."""

MIN_FREE_BYTES = 2 * 2**30
MIN_FREE_INODES = 10_000


def installation() -> Iterator[Finding]:
    """Yield the version of each library against its floor."""
    for name in (*FLOORS, *LISTED):
        floor = FLOORS.get(name, ())
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield bad(name, "not installed", f"pip install {name}", ExitCode.RESOURCES)
            continue
        least = ".".join(map(str, floor))
        if release(version) < (*floor, 0, 0)[:3]:
            message = f"{version} has known advisories; {least} is the first without"
            hint = f"pip install --upgrade '{name}>={least}'"
            yield bad(name, message, hint, ExitCode.REFUSED)
        else:
            yield Finding(name, "ok", f"{version}" + (f", at least {least}" if least else ""))


def release(version: str) -> tuple[int, ...]:
    """Return a version's numbers, three at least: (2, 10, 0) of 2.10+cpu; 2.10.0rc1 is older."""
    numbers: list[int] = []
    for part in version.partition("+")[0].split("."):
        if part.isdigit():
            numbers.append(int(part))
            continue
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if digits and not part.startswith("post"):
            # 0rc1 of 2.10.0rc1 comes before 0.
            numbers.append(int(digits) - 1)
        break
    return tuple(numbers) + (0,) * (3 - len(numbers))


def machine(folder: Path) -> Iterator[Finding]:
    """Yield free bytes and inodes of the file system that runs are written to."""
    try:
        free = shutil.disk_usage(folder).free
        status = os.statvfs(folder)
    except OSError as error:
        message = f"{folder} cannot be looked at: {error.strerror}"
        yield bad("disk", message, "Go to another folder.", ExitCode.RESOURCES)
        return
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < MIN_FREE_BYTES:
        yield bad("disk", text, "Free some space, or use --out-dir.", ExitCode.RESOURCES)
    else:
        yield Finding("disk", "ok", text)
    if not status.f_files:
        yield Finding("inodes", "ok", "this file system has no limit")
    elif status.f_favail < MIN_FREE_INODES:
        message = f"{status.f_favail:,} left"
        yield bad("inodes", message, "Remove folders with many small files.", ExitCode.RESOURCES)
    else:
        yield Finding("inodes", "ok", f"{status.f_favail:,} left")


def hub() -> Iterator[Finding]:
    """Yield whether there is a login, never what it is, and the state of the hub's cache."""
    from huggingface_hub import constants, get_token

    if get_token():
        source = "the environment" if os.environ.get("HF_TOKEN") else "a file"
        yield Finding("hub login", "ok", f"there is a token, from {source}; it is not shown")
    else:
        yield Finding("hub login", "note", "none; only gated models need it: hf auth login")
    cache = Path(constants.HF_HUB_CACHE)
    if not cache.exists():
        yield Finding("hub cache", "note", f"{cache} is not there yet")
    elif not cache.is_dir() or not os.access(cache, os.R_OK | os.W_OK | os.X_OK):
        message = f"{cache} is not a folder that can be written to"
        hint = "Set HF_HOME to a folder of yours."
        yield bad("hub cache", message, hint, ExitCode.RESOURCES)
    else:
        stale = sum(1 for _ in cache.glob("*/blobs/*.incomplete"))
        text = f"{cache}" + (f", {stale} unfinished downloads" if stale else "")
        yield Finding("hub cache", "note" if stale else "ok", text)


def devices(here: Foreground) -> Iterator[Finding]:
    """Yield what the program finds out about torch and CUDA."""
    try:
        with tempfile.TemporaryDirectory(prefix="loba-doctor-", ignore_cleanup_errors=True) as path:
            wanted = launch.Request("doctor", "", run=None, out_dir=path)
            events = here.request(RunDir(Path(path)), wanted)
        found: list[object] = next((e.data["findings"] for e in events if e.kind == "examined"), [])
        yield from (Finding.from_json(item) for item in found)
    except LobaError as error:
        yield bad("program", error.message, error.hint, error.exit_code)
    except (TypeError, ValueError) as error:
        yield bad("program", f"its answer cannot be read: {error}", "", ExitCode.BUG)


def run_folder(run_dir: RunDir) -> Iterator[Finding]:
    """Yield what is good and bad about a run: records, checkpoints, process, adapter."""
    yield from examine_run(run_dir)
    for file in (run_dir.adapter, run_dir.adapter_other):
        try:
            header = check_safetensors(file)
        except FileNotFoundError:
            yield Finding(file.name, "note", "not written yet")
        except LobaError as error:
            yield bad(file.name, error.message, error.hint, ExitCode.CORRUPT)
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            yield bad(file.name, message, "Look at its owner.", ExitCode.CORRUPT)
        else:
            count = len(header) - ("__metadata__" in header)
            yield Finding(file.name, "ok", f"good, {counted(count, 'tensor')}")
