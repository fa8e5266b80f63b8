"""Signs of a broken image that need no measure: burnt, noisy or blank. Pure numpy.

The base model's own images set what is normal, because a flat drawing and a photograph differ far
more from one another than a good image from a burnt one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLIP_MARGIN = 0.01
"""A pixel is clipped when each of its channels is this near to 0 or 1: a corner of the colours."""

MAX_EXTRA_CLIPPED_SHARE = 0.05
MAX_ROUGHNESS_RATIO = 3.0
MIN_CONTRAST_RATIO = 0.2
"""An image is broken when its clipped share exceeds the base images' largest by this much, when its
roughness is this many times their largest, or its contrast falls to this share of their least."""


@dataclass(frozen=True)
class ImageHealth:
    """Per scale: means over samples, and the share of images within the base images' range.

    `change` is the root mean square difference of pixels from the same sample at scale 0.
    """

    clipped_share: tuple[float, ...]
    roughness: tuple[float, ...]
    change: tuple[float, ...]
    share_sound: tuple[float, ...]


def inspect_images(images: np.ndarray, base: int) -> ImageHealth:
    """Compare images at all scales with those of the base model.

    Args:
        images: (num_samples, num_scales, H, W, 3) in [0, 1].
        base: Index of scale 0.
    """
    num_samples, num_scales = images.shape[:2]
    shape = (num_samples, num_scales)
    clipped, rough, contrast, change = (np.zeros(shape) for _ in range(4))
    for sample, scale in np.ndindex(*shape):
        image = images[sample, scale]
        clipped[sample, scale] = clipped_share(image)
        contrast[sample, scale] = _contrast(image)
        rough[sample, scale] = roughness(image)
        change[sample, scale] = np.sqrt(np.mean((image - images[sample, base]) ** 2))
    sound = (
        (clipped <= clipped[:, base].max() + MAX_EXTRA_CLIPPED_SHARE)
        & (rough <= MAX_ROUGHNESS_RATIO * rough[:, base].max())
        & (contrast >= MIN_CONTRAST_RATIO * contrast[:, base].min())
    )
    return ImageHealth(
        clipped_share=tuple(clipped.mean(0).tolist()),
        roughness=tuple(rough.mean(0).tolist()),
        change=tuple(change.mean(0).tolist()),
        share_sound=tuple(sound.mean(0).tolist()),
    )


def clipped_share(image: np.ndarray) -> float:
    """Return the share of pixels at a corner of the colour cube; oversaturation drives them there.

    All three channels must be at an end: a pure yellow has one at 1 in a sound image too.
    """
    at_an_end = (image <= CLIP_MARGIN) | (image >= 1 - CLIP_MARGIN)
    return float(np.mean(at_an_end.all(axis=-1)))


def roughness(image: np.ndarray) -> float:
    """Return high-frequency energy over squared contrast, so that dark and bright compare.

    The energy is that of the discrete Laplacian, channel by channel; the edges of one shape give
    about 0.1, white noise about 1.
    """
    pixels = image.astype(np.float64)
    laplacian = 4 * pixels[1:-1, 1:-1] - pixels[:-2, 1:-1] - pixels[2:, 1:-1]
    laplacian -= pixels[1:-1, :-2] + pixels[1:-1, 2:]
    contrast = _contrast(image)
    # A blank image has no contrast to compare with; it is caught as blank, not as rough.
    return float(np.mean(laplacian**2)) / contrast**2 if contrast > 0.02 else 0.0


def _contrast(image: np.ndarray) -> float:
    """Return the root mean square over channels of the range, without the outermost pixels."""
    low, high = np.quantile(image, (0.002, 0.998), axis=(0, 1))
    return float(np.sqrt(np.mean((high - low) ** 2)))
