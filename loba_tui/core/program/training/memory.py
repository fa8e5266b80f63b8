"""How much memory a run takes, as its metrics tell it."""

from __future__ import annotations

import psutil
import torch


def memory_mib(device: torch.device) -> float:
    """Return this process's memory: torch's peak on CUDA, the resident set elsewhere."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(psutil.Process().memory_info().rss / 2**20, 1)
