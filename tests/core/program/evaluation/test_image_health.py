import numpy as np
import pytest

from loba_tui.core.program.evaluation.image_health import clipped_share, inspect_images, roughness
from loba_tui.models.shapes_world import SHAPES, Scene, draw


def scene(radius, *, shape="circle", brightness=0.8):
    return draw(Scene(shape, "red", "gray", radius, brightness, (16, 16)))


def sound(base, other):
    images = np.array([[base, other]])
    return inspect_images(images, 0).share_sound[1] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [4, 6, 10, 13])
def test_a_resized_shape_is_sound(shape, radius):
    assert sound(scene(8, shape=shape), scene(radius, shape=shape))


@pytest.mark.parametrize("brightness", [0.4, 1.0])
def test_a_darker_or_brighter_shape_is_sound(brightness):
    assert sound(scene(8), scene(8, brightness=brightness))


def test_noise_a_blank_and_a_burnt_image_are_not_sound():
    base = scene(8)
    rng = np.random.default_rng(0)
    assert not sound(base, np.clip(base + 0.15 * rng.standard_normal(base.shape), 0, 1))
    assert not sound(base, np.full_like(base, 0.5))
    assert not sound(base, np.clip((base - 0.5) * 30 + 0.5, 0, 1).round())


def test_pixels_are_clipped_only_when_all_channels_are():
    image = np.full((4, 4, 3), 0.5)
    image[0, 0] = (1, 0.5, 0)
    image[0, 1] = (1, 1, 0)
    assert clipped_share(image) == pytest.approx(1 / 16)


def test_roughness_does_not_depend_on_contrast():
    image = np.random.default_rng(0).random((16, 16, 3))
    assert roughness(0.3 * image) == pytest.approx(roughness(image))


def test_change_is_the_root_mean_square_from_the_same_sample():
    images = np.zeros((2, 2, 4, 4, 3))
    images[0, 1] += 0.5
    assert inspect_images(images, 0).change == pytest.approx((0, 0.25))
