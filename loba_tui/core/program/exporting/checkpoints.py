"""The weights of a model's layers on disk, tensor by tensor: a one-file checkpoint or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loba_tui.core.adapter_keys.checkpoint_keys import Place
from loba_tui.core.adapter_keys.families import FAMILIES
from loba_tui.core.adapter_keys.names import COMPONENTS, DENOISERS, Component
from loba_tui.core.adapter_keys.transformers.reading import families_of
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.exporting.places import places_of
from loba_tui.core.program.exporting.tensor_file import TensorFile, opened

Key = tuple[Component, str, str]
"""Component, module, and "weight" or "bias"."""


@dataclass(frozen=True)
class Stored:
    """Where a weight is."""

    file: TensorFile
    name: str
    place: Place


@dataclass(frozen=True)
class Weights:
    """The weights of a model on disk."""

    path: Path
    stored: dict[Key, Stored]

    def read(self, key: Key) -> Tensor:
        """Return a weight in float32."""
        where = self.stored[key]
        weight = where.file.read(where.name).float()
        spans = where.place.rows(weight.shape[0])
        if spans != ((0, weight.shape[0]),):
            weight = torch.cat([weight[first:end] for first, end in spans])
        return weight.T if where.place.is_transposed else weight

    def is_matrix(self, key: Key) -> bool:
        """Say whether a weight is one of a linear layer or a convolution."""
        where = self.stored[key]
        return len(where.file.entries[where.name]["shape"]) > 1

    @property
    def transformer(self) -> str:
        """Name of the transformer's family; empty where it is a UNet."""
        modules = [module for component, module, _ in self.stored if component == "transformer"]
        found = families_of({}, modules)
        return found[0].name if len(found) == 1 else ""


@contextmanager
def opened_weights(path: Path) -> Iterator[Weights]:
    """Lend the weights of a .safetensors checkpoint, or of a diffusers folder.

    Raises:
        RecipeError: It is neither, or has no denoiser.
        RefusedError: It is a pickle, or not a plain file.
        CorruptError: A file is damaged.
    """
    with ExitStack() as stack:
        if path.is_dir():
            stored = {
                key: where
                for component in COMPONENTS
                for file in _files_of(path, component)
                for key, where in _in_folder(component, stack.enter_context(opened(file)))
            }
        else:
            file = stack.enter_context(opened(path))
            stored = {
                (place.component, place.module, place.part): Stored(file, name, place)
                for name, places in places_of(file).items()
                if file.is_float(name)
                for place in places
            }
        if not any(component in DENOISERS for component, _, _ in stored):
            raise RecipeError(
                f"{path} has no denoiser of a family that is read: {FAMILIES}.",
                "Name a one-file checkpoint, or a diffusers folder with unet/ or transformer/.",
            )
        yield Weights(path, stored)


def _files_of(folder: Path, component: Component) -> list[Path]:
    """Return a component's files: those without a variant where there are both."""
    files = sorted((folder / component).glob("*.safetensors"))
    plain = [file for file in files if not any(v in file.name for v in (".fp16.", ".bf16."))]
    usual = ("diffusion_pytorch_model", "model")
    return [file for file in plain or files if file.name.startswith(usual)]


def _in_folder(component: Component, file: TensorFile) -> Iterator[tuple[Key, Stored]]:
    for name in file.entries:
        module, _, part = name.rpartition(".")
        if part == "weight" and file.is_float(name):
            yield (component, module, part), Stored(file, name, Place(component, module, "weight"))
        elif part == "bias" and file.is_float(name):
            yield (component, module, part), Stored(file, name, Place(component, module, "bias"))
