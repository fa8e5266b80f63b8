"""Pixels as image models take them: resized, cropped and normalised as a processor's file says.

Pillow and numpy alone: transformers' own processors ask for torchvision, or warn that it is
missing. What comes out is what its processors of the Pillow backend make.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loba_tui.core.errors import CorruptError
from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_object

_MAX_BYTES = 256 * 1024
_MAX_SIDE = 4096
_BICUBIC = 3


@dataclass(frozen=True)
class Processor:
    """Steps that an image goes through before a model reads it.

    Attributes:
        shortest_edge: Pixels that the shorter side gets; None where `size` says both.
        size: Height and width that an image gets; None keeps its ratio, or its size.
        crop: Height and width of the middle that is kept; None keeps all.
        resample: Pillow's number of the filter.
        rescale: What an 8-bit value is multiplied by.
    """

    shortest_edge: int | None
    size: tuple[int, int] | None
    crop: tuple[int, int] | None
    resample: int
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> Processor:
        """Read a preprocessor_config.json, as transformers writes and wrote it.

        Raises:
            CorruptError: It cannot be read, or says what no image can be.
        """
        try:
            return cls._parsed(parse_object(read_source(path, _MAX_BYTES)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptError(
                f"{path.name} cannot be read ({type(error).__name__}: {error}).",
                "Fetch or save the model again.",
            ) from error

    @classmethod
    def _parsed(cls, config: dict[str, Any]) -> Processor:
        edge, size, crop = None, None, None
        if config.get("do_resize", True):
            wanted = config.get("size", {"shortest_edge": 224})
            if isinstance(wanted, int):  # as processors were written until 2022
                wanted = {"shortest_edge": wanted}
            if "shortest_edge" in wanted:
                edge = _side(wanted["shortest_edge"])
            else:
                size = _side(wanted["height"]), _side(wanted["width"])
        if config.get("do_center_crop", False):
            wanted = config.get("crop_size", 224)
            wanted = {"height": wanted, "width": wanted} if isinstance(wanted, int) else wanted
            crop = _side(wanted["height"]), _side(wanted["width"])
        is_normalised = config.get("do_normalize", True)
        mean = _three(config["image_mean"]) if is_normalised else (0.0,) * 3
        std = _three(config["image_std"]) if is_normalised else (1.0,) * 3
        if min(std) <= 0:
            raise ValueError("image_std is not positive")
        resample = int(config.get("resample", _BICUBIC))
        rescale = float(config.get("rescale_factor", 1 / 255))
        if not config.get("do_rescale", True):
            rescale = 1.0
        return cls(edge, size, crop, int(Image.Resampling(resample)), rescale, mean, std)

    def __call__(self, images: np.ndarray) -> Tensor:
        """Return images (N, H, W, 3) in [0, 1] as pixel values (N, 3, h, w), float32."""
        return torch.from_numpy(np.stack([self._one(image) for image in as_bytes(images)]))

    def _one(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        wanted = self.size
        if self.shortest_edge is not None:
            short, long = min(height, width), max(height, width)
            edges = self.shortest_edge, int(self.shortest_edge * long / short)
            wanted = edges if height <= width else edges[::-1]
        if wanted is not None:
            picture = Image.fromarray(image)
            image = np.asarray(picture.resize((wanted[1], wanted[0]), resample=self.resample))
        if self.crop is not None:
            image = _center(image, *self.crop)
        values = image.astype(np.float32) * np.float32(self.rescale)
        mean, std = (np.array(each, dtype=np.float32) for each in (self.mean, self.std))
        values = (values - mean) / std
        return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Return images in [0, 1] with 8 bits a channel, as they are written into files."""
    return np.rint(np.clip(images, 0.0, 1.0) * 255).astype(np.uint8)


def _center(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the middle of an image, with black around it where it is smaller."""
    missing = max(height - image.shape[0], 0), max(width - image.shape[1], 0)
    if any(missing):
        around = [(-(-each // 2), each // 2) for each in missing]
        image = np.pad(image, [*around, (0, 0)])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _side(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _MAX_SIDE:
        raise ValueError(f"a side of {value!r} pixels")
    return value


def _three(values: Any) -> tuple[float, ...]:
    found = tuple(float(value) for value in values)
    if len(found) != 3 or not np.isfinite(found).all():
        raise ValueError("not three numbers")
    return found
