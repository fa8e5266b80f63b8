"""The measurer must read the drawn world without error; other figures are built on it."""

import subprocess
import sys

import numpy as np
import pytest

from loba_tui.models import shapes_world as world


def scenes(num: int, seed: int = 0) -> list[world.Scene]:
    rng = np.random.default_rng(seed)
    return [world.random_scene(rng) for _ in range(num)]


@pytest.mark.parametrize("attribute", ["shape", "color", "background"])
def test_read_names_every_true_drawing_right(attribute: str) -> None:
    for scene in scenes(200):
        assert getattr(world.read(world.draw(scene)), attribute) == getattr(scene, attribute), scene


def test_read_measures_brightness_centre_and_area() -> None:
    for scene in scenes(200, seed=1):
        reading = world.read(world.draw(scene))
        assert reading.brightness == pytest.approx(scene.brightness, abs=0.03)
        # The triangle's centre of mass is lower than the middle of its box.
        assert reading.centre == pytest.approx(scene.center, abs=0.35 * scene.radius)
        drawn = world.coverage(scene.shape, scene.center, scene.radius).sum()
        assert reading.area == pytest.approx(drawn, rel=0.08)


def test_read_survives_the_noise_of_a_decoder() -> None:
    rng = np.random.default_rng(2)
    right = 0
    for scene in scenes(100, seed=2):
        noisy = world.draw(scene) + rng.normal(0, 0.03, (world.SIZE, world.SIZE, 3))
        reading = world.read(np.clip(noisy, 0, 1))
        right += (reading.shape, reading.color) == (scene.shape, scene.color)
    assert right >= 97


def test_read_finds_nothing_on_an_empty_background() -> None:
    empty = np.ones((world.SIZE, world.SIZE, 3)) * world.BACKGROUNDS["green"]
    reading = world.read(empty)
    assert reading == world.Reading(0.0, None, "green", None, None, None)


def test_area_grows_with_radius_past_the_world_and_at_the_border() -> None:
    areas = []
    for radius in np.linspace(3.5, 16, 26):
        scene = world.Scene("circle", "red", "white", float(radius), 0.8, (16.0, 16.0))
        reading = world.read(world.draw(scene))
        assert (reading.color, reading.background) == ("red", "white")
        areas.append(reading.area)
    assert np.all(np.diff(areas) > 0)


def test_small_and_large_are_apart_in_area_for_every_shape() -> None:
    areas: dict[str, list[float]] = {"small": [], "medium": [], "large": []}
    for scene in scenes(400, seed=3):
        areas[scene.size].append(world.read(world.draw(scene)).area)
    assert max(areas["small"]) < min(areas["large"])


def test_shape_never_has_the_backgrounds_colour_and_lies_inside() -> None:
    for scene in scenes(300, seed=4):
        assert scene.color != scene.background
        drawn = world.coverage(scene.shape, scene.center, scene.radius)
        # No more than the antialiased tip of a corner on the outermost pixels.
        assert max(drawn[0].max(), drawn[-1].max(), drawn[:, 0].max(), drawn[:, -1].max()) < 0.5


def test_captions_say_only_true_words_of_the_vocabulary() -> None:
    rng = np.random.default_rng(5)
    vocabulary = set(world.vocabulary())
    for scene in scenes(500, seed=5):
        text = world.caption(scene, rng)
        words = text.replace(",", " , ").split()
        assert set(words) <= vocabulary, text
        sizes = {w for name, names in world.SIZE_WORDS.items() if name != scene.size for w in names}
        assert not sizes & set(words), (scene, text)
        if " on " in text:
            words = text.split(" on ")[0].split()
        colors = set(world.COLORS) - {scene.color, scene.background}
        assert not colors & set(words), (scene, text)


def test_captions_reach_fully_specified_prompts_and_single_words() -> None:
    rng = np.random.default_rng(6)
    texts = {world.caption(scene, rng) for scene in scenes(4000, seed=6) for _ in range(3)}
    assert "a red circle" in texts
    assert any(text.startswith("a small red ") and "background" in text for text in texts)
    assert texts & set(world.SHAPES)


def test_world_loads_no_torch() -> None:
    code = "import sys, loba_tui.models.shapes_world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
