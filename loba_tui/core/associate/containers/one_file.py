"""Networks whose weights lie in a checkpoint of one file, or in the file of a VAE.

Each network is made without weights by its configuration. Then the header says whether the file has
exactly what that takes, and only then are weights read: those of the network that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from loba_tui.core.associate.containers.configured import configured_network
from loba_tui.core.associate.one_file.header import (
    CLIP_G_OF_SDXL,
    OPEN_CLIP_OF_SD2,
    VAE_PREFIXES,
    Checkpoint,
    inspect,
    read_header,
)
from loba_tui.core.associate.one_file.original_names import (
    UNET_PREFIX,
    Place,
    hugging_face_clip_place,
    open_clip_place,
    unet_place,
    vae_place,
)
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.text import clean

_OPEN_CLIP = (CLIP_G_OF_SDXL, OPEN_CLIP_OF_SD2)
_MOST_NAMED = 2
_HINT = (
    "Where it is made of other networks than the ordinary ones of its family, name a diffusers"
    " folder with their configurations as base_model.config; its weights are not needed."
)


@dataclass(frozen=True)
class StoredNetwork:
    """A network of a checkpoint, and where each of its weights stands in the file.

    Attributes:
        module: On the meta device, but for buffers that no file holds.
        places: By the name of the weight in `module`.
        what: What it is called in messages.
    """

    path: Path
    module: nn.Module
    places: Mapping[str, Place]
    what: str

    def load(self, dtype: torch.dtype) -> nn.Module:
        """Read the weights, in evaluation mode and frozen.

        Raises:
            CorruptError: The file cannot be read.
        """
        shapes = {name: tensor.shape for name, tensor in self.module.state_dict().items()}
        try:
            with safe_open(self.path, framework="pt") as file:
                state = {
                    name: _stored(file.get_tensor(place.key), place, dtype, shapes[name])
                    for name, place in self.places.items()
                }
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CorruptError(
                f"{self.what} cannot be read: {clean(error, limit=200)}.", "Fetch it again."
            ) from error
        self.module.load_state_dict(state, strict=True, assign=True)
        # Of nn.Module: diffusers' own `to` warns about modules that stay in float32.
        return nn.Module.to(self.module, dtype).eval().requires_grad_(False)


def network_in(
    checkpoint: Checkpoint, component: str, folder: Path, library: str, class_name: str
) -> StoredNetwork:
    """Return a component of a checkpoint, checked against the file's header.

    Args:
        folder: Of the component's configuration.

    Raises:
        RecipeError: The file has other weights than the configuration asks for.
        CorruptError: The configuration cannot be read.
    """
    module = empty_network(folder, library, class_name)
    tensors, what = checkpoint.tensors, f"{checkpoint.shown}: its {component}"
    if component == "vae":
        return _vae(checkpoint.path, tensors, module, what)
    if component == "unet":
        find: Callable[[str], Place] = lambda name: unet_place(name, module.config)  # noqa: E731
        prefix = UNET_PREFIX
    elif component in checkpoint.encoders:
        prefix = checkpoint.encoders[component]
        find = _encoder_places(prefix, tensors)
    else:
        raise RecipeError(
            f"{checkpoint.shown}: base_model.config has a {clean(component)}, which no checkpoint"
            " of one file holds.",
            _HINT,
        )
    places = {name: find(name) for name in module.state_dict()}
    _check(module, places, tensors, what=what)
    if component == "unet":
        _check_all_used(places, tensors, (prefix,), what=what)
    return StoredNetwork(checkpoint.path, module, places, what)


def vae_in(path: Path, folder: Path) -> StoredNetwork:
    """Return the VAE of a file that holds one, or a whole checkpoint; errors as in `network_in`."""
    tensors, _ = read_header(path)
    module = empty_network(folder, "diffusers", "AutoencoderKL")
    return _vae(path, tensors, module, f"base_model.vae: {clean(path.name)}")


def check_stored(path: Path, modules: Mapping[str, nn.Module], shown: str) -> None:
    """Check a checkpoint's header against networks that were made already; see `network_in`."""
    checkpoint = inspect(path, shown=shown)
    for component, module in modules.items():
        what = f"{checkpoint.shown}: its {component}"
        if component == "unet":
            places = {n: unet_place(n, module.config) for n in module.state_dict()}
            _check(module, places, checkpoint.tensors, what=what)
            _check_all_used(places, checkpoint.tensors, (UNET_PREFIX,), what=what)
        elif component in checkpoint.encoders:
            find = _encoder_places(checkpoint.encoders[component], checkpoint.tensors)
            places = {name: find(name) for name in module.state_dict()}
            _check(module, places, checkpoint.tensors, what=what)
        elif component == "vae":
            _vae(path, checkpoint.tensors, module, what)


def empty_network(folder: Path, library: str, class_name: str) -> nn.Module:
    """Return a network of a configuration, its weights on the meta device.

    Raises:
        CorruptError: The configuration cannot be read.
    """
    try:
        with init_empty_weights():
            return configured_network(folder, library, class_name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"{clean(folder.name)}/config.json cannot be read ({type(error).__name__}:"
            f" {clean(error, limit=200)}).",
            "Fetch or save that configuration again.",
        ) from error


def _vae(
    path: Path, tensors: Mapping[str, Mapping[str, Any]], module: nn.Module, what: str
) -> StoredNetwork:
    for prefix in VAE_PREFIXES:
        if f"{prefix}encoder.down_blocks.0.resnets.0.conv1.weight" in tensors:
            places = {name: Place(prefix + name) for name in module.state_dict()}
            break
        if f"{prefix}encoder.conv_in.weight" in tensors:
            named = {name: vae_place(name, module.config).key for name in module.state_dict()}
            places = {name: Place(prefix + key) for name, key in named.items()}
            break
    else:
        raise RecipeError(f"{what} has no encoder.", "Name a whole VAE as base_model.vae.")
    _check(module, places, tensors, what=what)
    _check_all_used(places, tensors, (f"{prefix}encoder.", f"{prefix}decoder."), what=what)
    return StoredNetwork(path, module, places, what)


def _encoder_places(prefix: str, tensors: Mapping[str, Any]) -> Callable[[str], Place]:
    if prefix in _OPEN_CLIP:
        return lambda name: open_clip_place(name, prefix)
    # Older files leave out what newer versions of the class have again.
    inner = f"{prefix}text_model."
    if any(key.startswith(inner) for key in tensors):
        prefix = inner
    return lambda name: hugging_face_clip_place(name, prefix)


def _check(
    module: nn.Module,
    places: Mapping[str, Place],
    tensors: Mapping[str, Mapping[str, Any]],
    *,
    what: str,
) -> None:
    """Check that a file holds every weight of a network, each of its shape."""
    lacking = [place.key for place in places.values() if place.key not in tensors]
    if lacking:
        raise RecipeError(f"{what} lacks {_named(lacking, len(places))}.", _HINT)
    wrong = [
        f"{places[name].key} {tensors[places[name].key]['shape']}"
        for name, weight in module.state_dict().items()
        if not _fits(tensors[places[name].key]["shape"], places[name], tuple(weight.shape))
    ]
    if wrong:
        raise RecipeError(
            f"{what} is of another size than its configuration: {_named(wrong, len(places))}.",
            _HINT,
        )


def _check_all_used(
    places: Mapping[str, Place],
    tensors: Mapping[str, Any],
    prefixes: tuple[str, ...],
    *,
    what: str,
) -> None:
    """Check that a network has a place for everything that a file holds of it."""
    used = {place.key for place in places.values()}
    more = [key for key in tensors if key.startswith(prefixes) and key not in used]
    if more:
        raise RecipeError(
            f"{what} has more than its configuration: {_named(more, len(tensors))}.", _HINT
        )


def _named(keys: list[str], total: int) -> str:
    first = ", ".join(clean(key, limit=100) for key in keys[:_MOST_NAMED])
    return first if len(keys) <= _MOST_NAMED else f"{first} and others, {len(keys)} of {total}"


def _fits(stored: list[int], place: Place, wanted: tuple[int, ...]) -> bool:
    shape = list(stored)
    if place.is_transposed:
        shape.reverse()
    if place.third is not None and shape:
        shape[0] = shape[0] // 3 if shape[0] % 3 == 0 else -1
    return list(_without_ones(shape)) == list(_without_ones(wanted))


def _without_ones(shape: list[int] | tuple[int, ...]) -> Iterator[int]:
    """Yield a shape as it is up to its second side; a 1×1 convolution is as good as a matrix."""
    for index, side in enumerate(shape):
        if index < 2 or side != 1:
            yield side


def _stored(tensor: Tensor, place: Place, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    if place.third is not None:
        tensor = tensor.chunk(3)[place.third]
    if place.is_transposed:
        tensor = tensor.T
    if tensor.is_floating_point():
        tensor = tensor.to(dtype)
    # A copy of its own: a slice would keep all of its file's tensor in memory.
    return tensor.reshape(shape).contiguous().clone()
