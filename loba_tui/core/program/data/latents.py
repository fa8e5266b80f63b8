"""The latents of a run's images, kept in memory or made each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.program.data.validate import Image


class Latents:
    """Latents by image and cut; each is the mean of what the VAE says, and made of one image alone.

    Args:
        cache: Makes them, and may have them on the disk.
        keep: Hold them in memory too.
    """

    def __init__(self, cache: LatentCache, *, keep: bool) -> None:
        self._cache, self._keep = cache, keep
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def latent(
        self, image: Image, settings: Mapping[str, Any], load: Callable[[], Tensor]
    ) -> Tensor:
        """Return the latent (C, h, w) of an image, float32 on the CPU.

        Args:
            settings: What is done to its pixels: size, cut, mirroring.
            load: Makes the pixels (3, H, W) in [0, 1]; called where they are needed.
        """
        key = (image.digest, *settings.values())
        if key in self._kept:
            return self._kept[key]
        moments = self._cache.get_or_encode(image.digest, settings, load, name=image.item.name)
        latent = moments.mean[0].float()
        if self._keep:
            self._kept[key] = latent
        return latent
