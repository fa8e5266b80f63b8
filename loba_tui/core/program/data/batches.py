"""Puts images into buckets and pairs, and says which of them make up each micro-step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from loba_tui.core.program import randomness
from loba_tui.core.program.data.buckets import (
    Geometry,
    Size,
    bucket_sizes,
    is_enlarged,
    nearest_bucket,
)
from loba_tui.core.program.data.items import BadFile
from loba_tui.core.program.data.validate import Image
from loba_tui.core.recipe.sections.data import DataSection

BUCKET_SIZES = "data.buckets.sizes"
"""What is named where no image falls into a bucket that the recipe lists."""


@dataclass(frozen=True)
class Unit:
    """One row of a batch: an image, or the images of one scene at several strengths.

    Attributes:
        images: One image, or several ascending by the strength of their source.
        scales: Strength of each; None for images without one.
        bucket: Width and height that all of them are cut to.
        is_prior: It is of the class as the model knows it.
    """

    images: tuple[Image, ...]
    scales: tuple[float | None, ...]
    bucket: Size
    caption: str
    is_prior: bool = False


@dataclass(frozen=True)
class Arrangement:
    """All units of a run, each with how often it comes in an epoch."""

    units: tuple[Unit, ...]
    repeats: tuple[int, ...]

    def bucket_counts(self) -> dict[str, int]:
        """Return the number of units by bucket, as text such as 1024x768."""
        counts: dict[str, int] = {}
        for unit in self.units:
            name = f"{unit.bucket[0]}x{unit.bucket[1]}"
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))


def arrange(
    images: Sequence[Image], data: DataSection, geometry: Geometry, *, paired: bool
) -> tuple[Arrangement, list[BadFile]]:
    """Return units with their buckets, and what stands in the way of it.

    If paired, images of the same name in sources of different `scale` make one unit.
    """
    try:
        buckets = bucket_sizes(geometry, data.buckets)
    except ValueError as error:
        return Arrangement((), ()), [BadFile("data.buckets", str(error))]
    units, repeats, bad = [], [], []
    groups = _pairs(images, data) if paired else [(image,) for image in images]
    for group in groups:
        first = group[0]
        bucket = nearest_bucket(first.size, buckets)
        sources = [data.sources[image.item.source] for image in group]
        problems = _problems(group, data, bucket) if paired else []
        if not data.buckets.enlarge and is_enlarged(first.size, bucket):
            have, want = ("x".join(map(str, size)) for size in (first.size, bucket))
            problems.append(BadFile(first.item.name, f"is {have}, smaller than its bucket {want}"))
        bad += problems
        if not problems:
            caption = next((image.caption for image in group if image.caption), "")
            scales = tuple(source.scale for source in sources)
            units.append(Unit(tuple(group), scales, bucket, caption, sources[0].prior))
            repeats.append(sources[0].repeats)
    bad += [
        BadFile(BUCKET_SIZES, f"no image fits best into {size[0]}x{size[1]}")
        for size in data.buckets.sizes
        if size not in {unit.bucket for unit in units} and not bad
    ]
    return Arrangement(tuple(units), tuple(repeats)), bad


def _pairs(images: Sequence[Image], data: DataSection) -> list[tuple[Image, ...]]:
    """Return images of the same key, ascending by their source's strength."""
    groups: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        groups[image.item.key].append(image)
    return [
        tuple(sorted(group, key=lambda image: data.sources[image.item.source].scale or 0.0))
        for group in groups.values()
    ]


def _problems(group: Sequence[Image], data: DataSection, bucket: Size) -> list[BadFile]:
    """Return why images of one key cannot be compared with each other."""
    first, found = group[0], []
    paths: dict[int, str] = {}
    for image in group:
        if image.item.source in paths:
            other = paths[image.item.source]
            found.append(BadFile(image.item.name, f"has the same name as {other}"))
        paths[image.item.source] = image.item.name
        if image.size != first.size:
            have, want = ("x".join(map(str, size)) for size in (image.size, first.size))
            found.append(BadFile(image.item.name, f"is {have}, and {first.item.name} is {want}"))
        captions = {other.caption for other in group if other.caption}
        if len(captions) > 1 and image.caption != first.caption:
            found.append(
                BadFile(
                    image.item.name,
                    f"its caption is not that of {first.item.name}; images of a pair have one",
                )
            )
    lacking = [source.path for i, source in enumerate(data.sources) if i not in paths]
    if lacking:
        found.append(BadFile(first.item.name, f"has no counterpart in {', '.join(lacking)}"))
    return found


class SampleOrder:
    """Which units make up each micro-step: every unit comes `repeats` times in an epoch.

    A batch, which all processes share, holds one bucket only. What does not fill a batch is filled
    up from the bucket's own beginning, so that no image is left out. All of it is a function of
    seed and index.
    """

    def __init__(self, arrangement: Arrangement, *, batch_size: int, seed: int) -> None:
        self._seed, self._batch_size = seed, batch_size
        buckets: dict[Size, list[int]] = defaultdict(list)
        pairs = zip(arrangement.units, arrangement.repeats, strict=True)
        for index, (unit, repeats) in enumerate(pairs):
            buckets[unit.bucket] += [index] * repeats
        self._buckets: Mapping[Size, Sequence[int]] = dict(sorted(buckets.items()))
        self.batches_per_epoch = sum(
            -(-len(members) // batch_size) for members in self._buckets.values()
        )
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def units(self, index: int) -> list[int]:
        """Return the units of micro-step `index`, one for each row of the global batch."""
        epoch, place = divmod(index, self.batches_per_epoch)
        return self._epoch(epoch)[place]

    def _make_epoch(self, epoch: int) -> list[list[int]]:
        batches = []
        for (width, height), members in self._buckets.items():
            order = self._shuffled(len(members), "order", epoch, width, height)
            size = self._batch_size
            for start in range(0, len(members), size):
                rows = [order[(start + i) % len(order)] for i in range(size)]
                batches.append([members[row] for row in rows])
        return [batches[i] for i in self._shuffled(len(batches), "batches", epoch)]

    def _shuffled(self, count: int, *key: int | str) -> list[int]:
        generator = randomness.generator(self._seed, "data", *key)
        shuffled: list[int] = torch.randperm(count, generator=generator).tolist()
        return shuffled
