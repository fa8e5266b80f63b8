"""Several adapters on one model at once, each at a strength of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loba_tui.core.adapter_keys.names import DENOISERS
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.file_sources import Source, path_of
from loba_tui.core.program.adapter_files.load import attach_to_denoiser
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_layers.strength import RowScale

# What a run's folder has after its name.
_STAMP = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}$")


@dataclass(frozen=True)
class Part:
    """One of several adapters: its file, and how strong it is."""

    source: Source
    strength: float

    @property
    def path(self) -> Path:
        """Return where the file is, for messages."""
        return path_of(self.source)

    @property
    def label(self) -> str:
        """Name in pictures and sentences: the run's, or the file's."""
        name = self.path.stem.removesuffix(".kohya").removesuffix(".comfy")
        if name != "adapter":
            return name
        folder = self.path.parent
        return _STAMP.sub(
            "", folder.parent.name if folder.name in ("adapter", "best") else folder.name
        )


class SeveralScales:
    """Sets the strengths of several attached adapters together."""

    def __init__(self, scales: Sequence[RowScale], strengths: Sequence[float]) -> None:
        self._scales = tuple(zip(scales, strengths, strict=True))

    @contextmanager
    def __call__(self, multipliers: Tensor | float) -> Iterator[None]:
        """Multiply each adapter's own strength by (B,) factors, or by one for all rows."""
        rows = torch.as_tensor(multipliers, dtype=torch.float32)
        with ExitStack() as stack:
            for scale, strength in self._scales:
                stack.enter_context(scale(rows * strength))
            yield

    @contextmanager
    def base(self) -> Iterator[None]:
        """Run the model without any of them inside a `with` block."""
        with ExitStack() as stack:
            for scale, _ in self._scales:
                stack.enter_context(scale.base())
            yield


def attach(
    container: ModelContainer, parts: Sequence[Part], files: Sequence[AdapterFile]
) -> list[str]:
    """Put the UNet's layers of all adapters on a model, active at once; return their names.

    PEFT holds those of one kind, the first one's; others are added beside it.

    Args:
        files: The parts' files, as they were read.

    Raises:
        RecipeError: One is no adapter for this model, or an OFT beside another kind.
    """
    names = [f"part{number}" for number in range(len(parts))]
    families = [_family_of(file) for file in files]
    held = []
    # What is added to PEFT's layers has to come after PEFT has put them there.
    for place in sorted(range(len(parts)), key=lambda place: families[place] != families[0]):
        can = families[place] == families[0]
        if attach_to_denoiser(container, files[place], names[place], peft=can):
            held.append(names[place])
    if held:
        container.denoiser.set_adapter(held)
    container.denoiser.requires_grad_(False)
    return names


def _family_of(file: AdapterFile) -> str:
    """Return the kind of PEFT's layers that could hold a file."""
    return next((layer.keys.kind.name for layer in file.layers if layer.component in DENOISERS), "")
