r"""LPIPS, version 0.1 with VGG-16: how different two images look (arXiv 1801.03924).

Features y of five layers l are scaled to unit length along their channels, their squared
differences are weighted by w_l, which was learned of people's judgements, and averaged over places:

    d(x, x₀) = Σ_l 1/(H_l W_l) Σ_hw Σ_c w_lc (ŷ_lhwc − ŷ₀_lhwc)²
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from loba_tui.core.associate.image_models.files import WEIGHTS
from loba_tui.core.associate.image_models.loading import in_batches
from loba_tui.core.errors import CorruptError

# Of images in [−1, 1]; ImageNet's mean and deviation, brought to that range.
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Places of the convolutions in torchvision's vgg16().features, whose names the weights have.
_PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_EPSILON = 1e-10


class Vgg(nn.Module):
    """The convolutions of VGG-16; gives the features behind the last ReLU of each stage."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {}
        channels = 3
        for widths, places in zip(_WIDTHS, _PLACES, strict=True):
            for width, place in zip(widths, places, strict=True):
                layers[str(place)] = nn.Conv2d(channels, width, 3, padding=1)
                channels = width
        self.features = nn.ModuleDict(layers)

    def forward(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield five features (B, C, h, w) of normalised pixels (B, 3, H, W)."""
        for number, places in enumerate(_PLACES):
            if number:
                pixels = torch.max_pool2d(pixels, 2)
            for place in places:
                pixels = torch.relu(self.features[str(place)](pixels))
            yield pixels


class Lpips:
    """The distance, by the weights of a classifier that lie in a folder, named as by torchvision.

    The weights of channels come with the package.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        found = load_file(folder / WEIGHTS)
        self._vgg = Vgg()
        names = self._vgg.state_dict()
        try:
            state = {name: found[name].float() for name in names}
            self._vgg.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            raise CorruptError(
                f"{folder.name}/{WEIGHTS} is no VGG-16: {str(error).splitlines()[0]}.",
                "Name timm/vgg16.tv_in1k, or a model with the same names and shapes.",
            ) from error
        self._vgg.eval().requires_grad_(False).to(device)
        self._weights = [each.to(device) for each in channel_weights()]
        self._device = device

    def to_one(self, images: np.ndarray, other: np.ndarray) -> Tensor:
        """Return the distances (N) of images (N, H, W, 3) in [0, 1] to another, on the CPU."""
        return in_batches(lambda some: self._distances(some, other[None]), images)

    def _distances(self, images: np.ndarray, other: np.ndarray) -> Tensor:
        total = torch.zeros(len(images), device=self._device)
        both = self._vgg(self._pixels(images)), self._vgg(self._pixels(other))
        for weights, one, two in zip(self._weights, *both, strict=True):
            squared = (_unit(one) - _unit(two)) ** 2
            total += (squared * weights[:, None, None]).sum(1).mean((1, 2))
        return total

    def _pixels(self, images: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.moveaxis(images, -1, 1).astype(np.float32))
        shift, scale = (torch.tensor(each)[:, None, None] for each in (SHIFT, SCALE))
        return ((pixels * 2 - 1 - shift) / scale).to(self._device)


def channel_weights() -> list[Tensor]:
    """Return the learned weights w of each stage's channels, none of them negative."""
    path = resources.files("loba_tui.models") / "lpips-vgg" / WEIGHTS
    found = load_file(str(path))
    return [found[f"lin{number}"] for number in range(len(_WIDTHS))]


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + _EPSILON)
