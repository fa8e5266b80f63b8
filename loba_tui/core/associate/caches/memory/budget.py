"""A limit on what weights may take on a device, and who goes out of memory when it is reached."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from loba_tui.core.associate.caches.memory.resident import MemoryCache
from loba_tui.core.errors import ResourceError
from loba_tui.core.units import show_mib

logger = logging.getLogger(__name__)


class Budget:
    """Keeps what is resident on one device under a number of bytes.

    Args:
        max_bytes: The most there may be; None sets no limit.
        on_evicted: Told the id of each model that went.
    """

    def __init__(
        self,
        memory: MemoryCache,
        device: torch.device,
        max_bytes: int | None,
        on_evicted: Callable[[str], None],
    ) -> None:
        self.max_bytes = max_bytes
        self._memory = memory
        self._device = device
        self._on_evicted = on_evicted

    def make_room(self, num_bytes: int, model_id: str) -> None:
        """Evict what is least recently used until so many bytes more fit.

        What a caller uses stays; the model itself does too.

        Raises:
            ResourceError: They do not fit, alone or beside what is in use.
        """
        limit = self.max_bytes
        if limit is None:
            return
        if num_bytes > limit:
            raise ResourceError(
                f"{model_id} takes {show_mib(num_bytes)} on {self._device}, and the budget for all"
                f" models is {show_mib(limit)}.",
                "Raise max_bytes, take a smaller dtype, or leave components out.",
            )
        in_use = []
        for each in self._memory:
            if self._taken() + num_bytes <= limit:
                return
            if each == model_id or not self._memory.evict(each):
                in_use.append(each)
            else:
                logger.info("%s went out of memory to make room for %s", each, model_id)
                self._on_evicted(each)
        taken = self._taken()
        if taken + num_bytes > limit:
            users = ", ".join(in_use) or "a caller"
            raise ResourceError(
                f"{model_id} takes {show_mib(num_bytes)} on {self._device}, where {show_mib(taken)}"
                f" of {show_mib(limit)} are in use by {users}.",
                "Let go of what is in use, or raise max_bytes.",
            )

    def _taken(self) -> int:
        return self._memory.num_bytes(self._device)
