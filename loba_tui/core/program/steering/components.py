"""Components in a running program's memory: told in its status, and moved on request.

A component that was unloaded or offloaded comes back by itself where a container needs it, and
goes again after the pictures that it came for. None of it changes a bit of what the run computes:
weights are read from the same files, and a move between devices copies them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from loba_tui.core.associate.caches.memory.components import is_hooked
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.run.control import Command
from loba_tui.core.run.writer import Records


@dataclass
class Components:
    """The components of a run's base model.

    Attributes:
        model_id: Its id in the cache.
        records: Their status says what is in memory.
    """

    cache: ModelCache
    model_id: str
    container: ModelContainer
    records: Records
    _told: dict[str, Any] | None = field(default=None, init=False)

    def publish(self) -> None:
        """Write what is resident into the status, if that has changed."""
        facts: dict[str, Any] = {
            "resident": [
                each.as_json()
                for each in self.cache.resident()
                if not each.models or self.model_id in each.models
            ],
            "unloaded": self.cache.left_out(self.model_id),
        }
        if facts != self._told:
            self._told = facts
            self.records.status(**facts)

    def obey(self, command: Command) -> dict[str, Any]:
        """Unload, offload or onload a component; return what the answer says of it.

        Raises:
            RecipeError: There is no such component, training needs it, or they move by themselves.
            ResourceError: The device has no memory left for it.
        """
        name = str(command.args.get("component", ""))
        self._refuse_hooked()
        if command.kind != "onload":
            self._refuse_needed(name, command.kind)
        before = self._bytes_of(name)
        try:
            if command.kind == "unload":
                self.cache.unload(self.model_id, name)
            elif command.kind == "offload":
                self.cache.offload(self.model_id, name)
            else:
                self.cache.onload(self.model_id, name)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{name} does not fit on the device", "Unload or offload another component first."
            ) from error
        self.publish()
        return {"component": name, "bytes": before or self._bytes_of(name)}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Have components come back for a while, and put them where they were after that."""
        unloaded = self.cache.left_out(self.model_id)
        offloaded = self._offloaded()
        try:
            yield
        finally:
            here = set(self.cache.left_out(self.model_id))
            back = [name for name in unloaded if name not in here]
            if back:
                self.cache.unload(self.model_id, *back)
            moved = [name for name in offloaded if name not in self._offloaded()]
            if moved:
                self.cache.offload(self.model_id, *moved)
            self.publish()

    def _refuse_needed(self, name: str, what: str) -> None:
        is_denoiser = self.container.pipeline.components.get(name) is self.container.denoiser
        is_trained = self.container.trains_text_encoders and name in self.container.text_encoders
        if is_denoiser or is_trained:
            raise RecipeError(
                f"training needs {name} at every step; it cannot be {what}ed",
                "What can be: the VAE and the text encoders. `loba runs stop` frees everything.",
            )

    def _refuse_hooked(self) -> None:
        if is_hooked(self.container.pipeline):
            raise RecipeError(
                "base_model.offload moves the components by itself in this run",
                "Only runs with base_model.offload: none are told what to move.",
            )

    def _offloaded(self) -> list[str]:
        device = self.container.device
        if device.type == "cpu":
            return []
        return [
            name
            for name, module in self.container.pipeline.components.items()
            if isinstance(module, torch.nn.Module)
            and not hasattr(module, "_hf_hook")
            and all(parameter.device.type == "cpu" for parameter in module.parameters())
        ]

    def _bytes_of(self, name: str) -> int:
        return sum(
            each.num_bytes
            for each in self.cache.resident()
            if each.name == name and self.model_id in each.models
        )
