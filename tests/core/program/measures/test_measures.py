import numpy as np
import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.models.shapes_world import Scene, draw

SCENE = Scene("square", "green", "white", 8.0, 0.7, (16.0, 16.0))
BLANK = np.full((32, 32, 3), 0.5, dtype=np.float32)


def measure(name, image, **options):
    return SHIPPED.load("measures", name)(**options)(image)


OF_ONE_IMAGE = [
    name
    for name in SHIPPED.names("measures")
    if "MODEL" not in SHIPPED.describe("measures", name).constants
]


@pytest.mark.parametrize("name", OF_ONE_IMAGE)
def test_every_measure_takes_an_image_and_gives_a_plain_value(name):
    for image in (draw(SCENE), BLANK):
        assert isinstance(measure(name, image), float | str | None)


@pytest.mark.parametrize("name", OF_ONE_IMAGE)
def test_limits_hold_for_random_images(name):
    limits = SHIPPED.describe("measures", name).constants.get("LIMITS")
    value = measure(name, np.random.default_rng(0).random((32, 32, 3)))
    if limits is not None and value is not None:
        assert limits[0] <= value <= limits[1]


def test_shape_measures_read_what_was_drawn():
    image = draw(SCENE)
    assert measure("shape_area", image) == pytest.approx(4 * (0.89 * 8) ** 2, rel=0.05)
    assert measure("shape_brightness", image) == pytest.approx(0.7, abs=0.03)
    assert measure("shape_color", image) == "green"
    assert measure("shape_background", image) == "white"
    assert measure("shape_name", image) == "square"


@pytest.mark.parametrize("name", ["shape_area", "shape_brightness", "shape_color", "shape_name"])
def test_no_shape_is_none_not_zero(name):
    assert measure(name, BLANK) is None


def test_mean_brightness_weighs_channels_as_eyes_do():
    assert measure("mean_brightness", np.ones((4, 4, 3))) == pytest.approx(1)
    assert measure("mean_brightness", np.tile([0.0, 1, 0], (4, 4, 1))) == pytest.approx(0.7152)


def test_mean_saturation_is_zero_for_gray_and_one_for_pure_colour():
    assert measure("mean_saturation", BLANK) == 0
    assert measure("mean_saturation", np.tile([1.0, 0, 0], (4, 4, 1))) == 1


def test_color_axis_is_zero_at_one_colour_and_one_at_the_other():
    low, high = (0.1, 0.2, 0.9), (0.8, 0.5, 0.1)
    for share in (0, 0.25, 1):
        color = (1 - share) * np.array(low) + share * np.array(high)
        value = measure("color_axis", np.tile(color, (4, 4, 1)), low=low, high=high)
        assert value == pytest.approx(share)


@pytest.mark.parametrize("options", [{"low": (1, 0, 0), "high": (1, 0, 0)}, {"low": (1, 0)}])
def test_color_axis_refuses_a_line_that_is_none(options):
    with pytest.raises(ValueError, match="color_axis"):
        measure("color_axis", BLANK, **options)


def test_palette_share_counts_pixels_near_any_of_its_colours():
    image = np.array([[(0.9, 0.1, 0.0), (0.0, 0.0, 1.0)], [(0.5, 0.5, 0.5), (0.2, 0.9, 0.2)]])
    colors = [(1.0, 0.0, 0.0), (0.0, 0.0, 1.0)]
    assert measure("palette_share", image, colors=colors) == 0.5
    assert measure("palette_share", image, colors=colors, tolerance=0.1) == 0.25
    assert measure("palette_share", image, colors=colors, tolerance=0) == 0.25


@pytest.mark.parametrize("colors", [[], [(1, 0)], [(1, 0, 0), (1, 0, 0, 1)]])
def test_palette_share_refuses_what_is_no_colour(colors):
    with pytest.raises(ValueError, match="palette_share"):
        measure("palette_share", BLANK, colors=colors)


def test_blurring_lowers_sharpness():
    image = draw(SCENE)
    blurred = (image + np.roll(image, 1, 0) + np.roll(image, 1, 1)) / 3
    assert measure("sharpness", blurred) < measure("sharpness", image)
