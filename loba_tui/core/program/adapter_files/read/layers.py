"""An adapter file of any form as what sampling, measuring, merging and writing share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from loba_tui.core.adapter_keys.names import DENOISERS, Component
from loba_tui.core.adapter_keys.reading import AdapterKeys, LayerKeys
from loba_tui.core.program.adapter_files.read.changes import WeightChange


@dataclass(frozen=True)
class AdapterLayer:
    """The change of one module at strength 1.

    Attributes:
        keys: What of the file it was made of.
        weight: The change of its weight; None where only the bias changes.
        bias: What is added to its bias, (outputs,); None where nothing is.
    """

    keys: LayerKeys
    weight: WeightChange | None
    bias: Tensor | None = None

    @property
    def component(self) -> Component:
        """The part of a pipeline that the module is in."""
        return self.keys.component

    @property
    def module(self) -> str:
        """The module's name, by diffusers' or transformers' names."""
        return self.keys.module


@dataclass(frozen=True)
class AdapterFile:
    """An adapter file that was read.

    Attributes:
        keys: Its header, understood: form, family, and what is not used.
        layers: In the file's order.
        tensors: Its content as it stands in the file.
        warnings: What a user has to know about it, each a sentence.
    """

    path: Path
    keys: AdapterKeys
    layers: tuple[AdapterLayer, ...]
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor] = field(repr=False)
    warnings: tuple[str, ...] = field(default=())

    def of(self, component: Component) -> dict[str, AdapterLayer]:
        """Return the layers of a component by module."""
        return {layer.module: layer for layer in self.layers if layer.component == component}

    @property
    def denoiser_layers(self) -> dict[str, AdapterLayer]:
        """The layers of the UNet or the transformer by module."""
        return {layer.module: layer for layer in self.layers if layer.component in DENOISERS}

    @property
    def text_encoder_layers(self) -> int:
        """How many layers of text encoders it changes."""
        return sum(layer.component not in DENOISERS for layer in self.layers)

    def notes(self) -> list[str]:
        """Return what is to be told about it: warnings, and what is not used."""
        name = self.path.name
        return [f"{name}: {line}" for line in (*self.warnings, *self.keys.unused_lines())]
