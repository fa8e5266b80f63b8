"""Encode every image once: the latents of a data set, kept on disk between epochs and runs.

The VAE gives a distribution for each image; its mean and deviation are kept, so that every use can
draw its own latent from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from loba_tui.core.associate.caches.tensors.store import TensorStore, alone
from loba_tui.core.associate.embeds import LatentMoments


class EncodesImages(Protocol):
    """A container, as far as it is used here."""

    def encode_moments(self, images: Tensor) -> LatentMoments:
        """Turn images (B, 3, H, W) in [0, 1] into the moments of their latents."""


class LatentCache:
    """The latents of images, from a store where it has them and from the VAE where not.

    Each image is encoded alone and comes back on the CPU: what is returned is the same, bit for
    bit, whether it was kept or made, and whatever else is encoded.

    Args:
        encoder: The container; None can only return what is kept.
        store: Of the kind "latents", with the `producer_fingerprint` of the "vae"; None keeps
            nothing and encodes each time.
    """

    def __init__(self, encoder: EncodesImages | None, store: TensorStore | None) -> None:
        self._encoder = encoder
        self._store = store

    def get(self, content: str, settings: Mapping[str, Any]) -> LatentMoments | None:
        """Return what is kept of an image, None where it has to be encoded.

        Args:
            content: sha256 of the image file's bytes.
            settings: All that is done to the image before it is encoded, as plain values: size,
                crop, mirroring, the colour under its alpha.
        """
        if self._store is None:
            return None
        found = self._store.get(self._store.key({"image": content, "settings": settings}))
        if found is None or found.keys() != {"mean", "std"}:
            return None
        return LatentMoments(found["mean"], found["std"])

    def get_or_encode(
        self,
        content: str,
        settings: Mapping[str, Any],
        load: Callable[[], Tensor],
        *,
        name: str = "",
    ) -> LatentMoments:
        """Return the moments (1, C, h, w) of an image's latent, float32 on the CPU.

        Args:
            load: Reads and prepares the image, (3, H, W) in [0, 1]; called where it is needed.
            name: Of the file, for listings.
        """
        moments = self.get(content, settings)
        if moments is None:
            if self._encoder is None:
                raise LookupError(f"the latents of {name or content} are not kept")
            made = self._encoder.encode_moments(load().unsqueeze(0))
            moments = LatentMoments(alone(made.mean), alone(made.std))
            if self._store is not None:
                key = self._store.key({"image": content, "settings": settings})
                tensors = {"mean": moments.mean, "std": moments.std}
                self._store.put(key, tensors, describe={"image": name, "settings": dict(settings)})
        return moments
