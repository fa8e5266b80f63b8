"""How much memory and disk there is to use here and now."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class FreeResources:
    """Free bytes that a run can take; None where the device is not here, or nothing says it."""

    memory_bytes: int | None
    disk_bytes: int | None


def free_resources(device: torch.device, folder: Path, *, is_here: bool = True) -> FreeResources:
    """Return what is free on a device and in a folder that may not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        disk = shutil.disk_usage(existing).free
    except OSError:
        disk = None
    return FreeResources(free_memory(device) if is_here else None, disk)


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a process could still allocate on a device; None if unknown."""
    if device.type == "cuda":
        # What this process's allocator holds but does not use is free to it.
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "cpu":
        available = psutil.virtual_memory().available
        limit = _container_limit()
        return available if limit is None else min(available, limit)
    return None


def _container_limit() -> int | None:
    """Return what is left of a container's memory limit, page cache counted as free."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        fields = (_CGROUP / "memory.stat").read_text().split()
        cache = int(fields[fields.index("inactive_file") + 1])
        return None if limit == "max" else max(0, int(limit) - used + cache)
    except (OSError, ValueError, IndexError):
        return None
