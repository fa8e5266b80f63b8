"""Buckets against their definition."""

from __future__ import annotations

import itertools
import math

import pytest

from loba_tui.core.program.data.buckets import (
    Geometry,
    bucket_sizes,
    is_enlarged,
    nearest_bucket,
)
from loba_tui.core.recipe.sections.data import BucketSection

SDXL = Geometry(1024, 32)


def test_buckets_are_all_sizes_of_at_most_the_models_area() -> None:
    settings = BucketSection(step=64)
    sizes = bucket_sizes(SDXL, settings)
    assert (1024, 1024) in sizes
    # Sizes that SD-XL itself was trained at (appendix I of https://arxiv.org/abs/2307.01952).
    assert {(832, 1216), (896, 1152), (768, 1344), (1216, 832)} <= set(sizes)
    for width, height in sizes:
        assert width % 64 == height % 64 == 0
        assert width * height <= 1024**2
        assert max(width, height) <= 2 * min(width, height)
        assert (height, width) in sizes
    lone = {w: max(h for x, h in sizes if x == w) for w, _ in sizes}
    assert all((lone[w] + 64) * w > 1024**2 or lone[w] + 64 > 2 * w for w in lone)


def test_without_buckets_there_is_one_square() -> None:
    assert bucket_sizes(SDXL, BucketSection(enabled=False)) == ((1024, 1024),)
    assert (32, 32) in bucket_sizes(Geometry(32, 16), BucketSection(most_aspect=1.0))


def test_own_sizes_and_steps_have_to_fit_the_model() -> None:
    given = BucketSection(sizes=((512, 768), (768, 512)))
    assert bucket_sizes(SDXL, given) == ((512, 768), (768, 512))
    with pytest.raises(ValueError, match="520x768 is not in multiples of 32"):
        bucket_sizes(SDXL, BucketSection(sizes=((520, 768),)))
    with pytest.raises(ValueError, match="40 is not a multiple of 32"):
        bucket_sizes(SDXL, BucketSection(step=40))


def test_an_image_goes_where_least_of_it_is_cut_off() -> None:
    sizes = bucket_sizes(SDXL, BucketSection(step=64))
    for width, height in itertools.product((300, 512, 1000, 4000), repeat=2):
        bucket = nearest_bucket((width, height), sizes)

        def lost(size: tuple[int, int], w: int = width, h: int = height) -> float:
            return abs(math.log(w / h) - math.log(size[0] / size[1]))

        assert lost(bucket) == pytest.approx(min(map(lost, sizes)))
    assert nearest_bucket((100, 100), ((16, 16), (32, 32))) == (32, 32)


def test_enlarging_is_noticed() -> None:
    assert is_enlarged((500, 2000), (512, 512))
    assert not is_enlarged((512, 512), (512, 512))
