"""Aspect-ratio buckets: the sizes that images are cut to, all of about the same area.

NovelAI's scheme (2022, https://github.com/NovelAI/novelai-aspect-ratio-bucketing): images keep
their shape, and every batch holds one shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.core.recipe.sections.data import BucketSection

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Geometry:
    """Image sizes that a model works with.

    Attributes:
        resolution: Side of its square images, in pixels.
        multiple: What sides have to be multiples of.
    """

    resolution: int
    multiple: int


def bucket_sizes(geometry: Geometry, settings: BucketSection) -> tuple[Size, ...]:
    """Return the sizes of all buckets, ascending by width.

    Raises:
        ValueError: The recipe's sizes or step do not fit the model.
    """
    if not settings.enabled:
        return ((geometry.resolution, geometry.resolution),)
    step = settings.step or geometry.multiple
    if step % geometry.multiple:
        raise ValueError(
            f"data.buckets.step: {step} is not a multiple of {geometry.multiple}, as this model"
            " needs"
        )
    for width, height in settings.sizes:
        if width % geometry.multiple or height % geometry.multiple:
            raise ValueError(
                f"data.buckets.sizes: {width}x{height} is not in multiples of"
                f" {geometry.multiple}, as this model needs"
            )
    if settings.sizes:
        return tuple(sorted(set(settings.sizes)))
    area = geometry.resolution**2
    found = set()
    for width in range(step, area // step + 1, step):
        height = area // width // step * step
        if height and max(width, height) <= settings.most_aspect * min(width, height):
            found |= {(width, height), (height, width)}
    return tuple(sorted(found)) or ((geometry.resolution, geometry.resolution),)


def nearest_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """Return the bucket whose shape is most like an image's; of two alike, the larger one."""

    def distance(bucket: Size) -> tuple[float, int]:
        off = abs(math.log(size[0] / size[1]) - math.log(bucket[0] / bucket[1]))
        return round(off, 9), -bucket[0] * bucket[1]

    return min(buckets, key=distance)


def is_enlarged(size: Size, bucket: Size) -> bool:
    """Whether an image has to be scaled up to cover its bucket."""
    return size[0] < bucket[0] or size[1] < bucket[1]
