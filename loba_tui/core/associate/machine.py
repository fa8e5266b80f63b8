"""Facts of this machine that decide the last bits of what it computes."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import torch


def device_name(device: torch.device) -> str:
    """Return the accelerator's name, or the CPU's architecture and vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # The instructions that are there choose the kernels, and these the order of additions.
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype as a recipe writes it: bfloat16."""
    return str(dtype).removeprefix("torch.")


def library_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each library; None for one that is not there."""
    return {name: _version_of(name) for name in names}


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
