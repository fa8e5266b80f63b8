"""How much memory a run takes, as its metrics tell it."""

from __future__ import annotations

import psutil
import torch


class MemoryMeter:
    """Memory of this process in MiB: torch's peak on an accelerator, the resident set on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()

    def mib(self) -> float:
        """Return it as of now."""
        if self._device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self._device) / 2**20, 1)
        return round(self._process.memory_info().rss / 2**20, 1)
