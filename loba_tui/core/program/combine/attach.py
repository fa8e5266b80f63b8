"""Several adapters on one model at once, each at a strength of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.file_sources import Source, path_of
from loba_tui.core.program.adapter_files.adapter import load_adapter, read_adapter
from loba_tui.core.program.adapter_layers.kinds import kind_of
from loba_tui.core.program.adapter_layers.strength import AdapterScale

# What a run's folder has after its name.
_STAMP = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}$")
# LoRA and DoRA are layers of the same class; any two others would have to be put inside each other.
_FAMILIES = {"DoRA": "LoRA"}


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
        name = self.path.stem.removesuffix(".kohya")
        if name != "adapter":
            return name
        folder = self.path.parent
        return _STAMP.sub("", folder.parent.name if folder.name == "adapter" else folder.name)


class SeveralScales:
    """Sets the strengths of several attached adapters together."""

    def __init__(self, scales: Sequence[AdapterScale], strengths: Sequence[float]) -> None:
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


def attach(container: ModelContainer, parts: Sequence[Part]) -> list[str]:
    """Put all adapters on a model, active at once; return PEFT's names of them.

    Raises:
        RecipeError: One is no adapter for this model, or they are of kinds that do not go together.
    """
    kinds = []
    for part in parts:
        _, config, _ = read_adapter(part.source)
        kind = kind_of({"peft_type": "LORA", **config})
        kinds.append((part.label, _FAMILIES.get(kind, kind)))
    if len({kind for _, kind in kinds}) > 1:
        listed = ", ".join(f"{label} is {kind}" for label, kind in kinds)
        raise RecipeError(
            f"these adapters are of kinds that cannot be used at once: {listed}",
            "LoRA, LoCon, LoHa and LoKr can be made one file: loba merge A@1 B@1 --out FILE",
        )
    names = [f"part{number}" for number in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        load_adapter(container, part.source, name)
    container.denoiser.set_adapter(names)
    container.denoiser.requires_grad_(False)
    return names
