"""Image models as a measure is given them: in memory while they are asked, and freed after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from loba_tui.core.associate.caches.memory.release import empty_accelerator
from loba_tui.core.associate.image_models.files import find_files
from loba_tui.core.recipe.measure_models import MeasureModel

Reader = TypeVar("Reader")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ImageModels:
    """Loads image models onto the device of a run."""

    device: torch.device

    def ask(
        self,
        make: Callable[[Path, torch.device], Reader],
        model: MeasureModel,
        question: Callable[[Reader], Answer],
    ) -> Answer:
        """Load a model, ask it, and free its memory.

        Args:
            make: Makes the reader of a model's folder and the device, such as `Clip`.
            question: What is wanted of it, on the CPU.

        Raises:
            LobaError: The model cannot be had.
        """
        reader = make(find_files(model), self.device)
        try:
            return question(reader)
        finally:
            del reader
            empty_accelerator(self.device)
