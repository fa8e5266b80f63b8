"""The weights of a model's layers on disk, tensor by tensor: a one-file checkpoint or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from loba_tui.core.adapter_keys.checkpoint_keys import Place, places_in
from loba_tui.core.adapter_keys.names import Component
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.exporting.tensor_file import TensorFile, opened

_FOLDERS: tuple[Component, ...] = ("unet", "text_encoder", "text_encoder_2")
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
        if where.place.third is not None:
            rows = weight.shape[0] // 3
            weight = weight[where.place.third * rows : (where.place.third + 1) * rows]
        return weight.T if where.place.is_transposed else weight


@contextmanager
def opened_weights(path: Path) -> Iterator[Weights]:
    """Lend the weights of a .safetensors checkpoint, or of a diffusers folder.

    Raises:
        RecipeError: It is neither, or has no UNet.
        RefusedError: It is a pickle, or not a plain file.
        CorruptError: A file is damaged.
    """
    with ExitStack() as stack:
        if path.is_dir():
            stored = {
                key: where
                for component in _FOLDERS
                for file in _files_of(path, component)
                for key, where in _in_folder(component, stack.enter_context(opened(file)))
            }
        else:
            file = stack.enter_context(opened(path))
            stored = {
                (place.component, place.module, place.part): Stored(file, name, place)
                for name in file.entries
                if file.is_float(name)
                for place in places_in(name)
            }
        if not any(component == "unet" for component, _, _ in stored):
            raise RecipeError(
                f"{path} has no UNet of an SD 1.x, SD 2.x or SD-XL.",
                "Name a one-file checkpoint, or a diffusers folder with unet/.",
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
