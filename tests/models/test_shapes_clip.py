"""The committed CLIP names and ranks what the world shows, and its script can make it again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

import loba_tui.models
from loba_tui.core.associate.image_models.clip import Clip
from loba_tui.core.associate.image_models.pixels import Processor
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.evaluation.measure import read_values
from loba_tui.core.program.evaluation.slider_effect import spearman
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.models import builtin_clip_names
from loba_tui.models import shapes_world as world
from loba_tui.models.train_shapes_clip import Budget, main, normalised, train
from loba_tui.models.training.captioned_scenes import Shown, caption, draw, random_scene

MODEL = Path(loba_tui.models.__file__).parent / "shapes-clip"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip(MODEL, torch.device("cpu"))


@pytest.fixture(scope="module")
def seen() -> tuple[list[world.Scene], np.ndarray]:
    rng = np.random.default_rng(20_000)
    scenes = [world.random_scene(rng) for _ in range(300)]
    return scenes, np.stack([world.draw(scene) for scene in scenes])


def named(clip: Clip, images: np.ndarray, texts: dict[str, str]) -> list[str]:
    """Return which of these names each image has by the text that fits it best."""
    cosines = clip.of_images(images) @ clip.of_texts(list(texts.values())).T
    return [list(texts)[index] for index in cosines.argmax(1).tolist()]


def test_it_is_found_by_its_name_and_small() -> None:
    assert builtin_clip_names() == ["shapes-clip"]
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 3 * 2**20
    assert {path.suffix for path in MODEL.iterdir()} == {".json", ".md", ".safetensors"}
    assert CLIPModel.from_pretrained(MODEL).dtype == torch.float32


@pytest.mark.parametrize(
    ("attribute", "texts", "least"),
    [
        ("color", {name: f"a {name} shape" for name in world.COLORS}, 0.95),
        (
            "background",
            {name: f"a shape on a {name} background" for name in world.BACKGROUNDS},
            0.95,
        ),
    ],
)
def test_it_names_what_held_out_images_show(clip, seen, attribute, texts, least):
    scenes, images = seen
    found = named(clip, images, texts)
    right = [name == getattr(scene, attribute) for name, scene in zip(found, scenes, strict=True)]
    assert np.mean(right) >= least


@pytest.mark.parametrize(
    ("attribute", "positive", "negative"),
    [
        ("radius", "a large shape", "a small shape"),
        ("brightness", "a bright shape", "a dark shape"),
    ],
)
def test_a_direction_ranks_scenes_that_differ_in_nothing_else(seen, attribute, positive, negative):
    low, high = {"radius": (5.0, 12.0), "brightness": (0.4, 1.0)}[attribute]
    scenes = [replace(scene, radius=8.0, center=(16.0, 16.0)) for scene in seen[0][:40]]
    steps = np.linspace(low, high, 7)
    samples = np.stack(
        [[world.draw(replace(scene, **{attribute: v})) for v in steps] for scene in scenes]
    )
    choice = Choice(
        name="clip_direction", positive=positive, negative=negative, model="builtin:shapes-clip"
    )
    values = read_values(choice, samples, SHIPPED).astype(float)
    assert np.mean([spearman(steps, row) for row in values]) >= 0.97


def test_its_processor_does_to_pixels_what_training_did() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32) / 255
    wanted = normalised(torch.from_numpy(images).permute(0, 3, 1, 2))
    mine = Processor.read(MODEL / "preprocessor_config.json")(images)
    assert torch.allclose(mine, wanted, atol=1e-5)


def test_captions_use_words_of_the_world_and_the_truer_one_more_often() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        words = caption(random_scene(rng), rng).split()
        assert set(words) <= set(world.vocabulary())
    red, gray = np.array(world.COLORS["red"]), np.array(world.BACKGROUNDS["gray"])
    for radius, likelier, rarer in ((5.0, "small", "large"), (13.0, "large", "small")):
        said = " ".join(
            caption(Shown("circle", red, gray, radius, (16.0, 16.0)), rng) for _ in range(300)
        ).split()
        assert said.count(likelier) > 10 * said.count(rarer) + 20
        assert said.count("red") > 2 * max(said.count(c) for c in world.COLORS if c != "red")


def test_a_scene_can_be_told_from_its_background() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        pixels = draw(random_scene(rng))
        assert pixels.shape == (32, 32, 3)
        assert np.linalg.norm(pixels.reshape(-1, 3).max(0) - pixels.reshape(-1, 3).min(0)) > 0.1


def test_the_script_makes_the_same_weights_again_and_what_is_committed_has_its_shape(tmp_path):
    tiny = ["--num-images", "24", "--captions-per-image", "2", "--steps", "2", "--batch", "8"]
    assert main(["--out", str(tmp_path / "one"), *tiny]) == 0
    budget = Budget(num_images=24, captions_per_image=2, steps=2, batch=8)
    model, tokenizer = train(budget)
    saved = CLIPModel.from_pretrained(tmp_path / "one").state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value.half().float(), saved[name]), name
    committed = CLIPModel.from_pretrained(MODEL).state_dict()
    assert {n: v.shape for n, v in committed.items()} == {n: v.shape for n, v in saved.items()}
    assert tokenizer.get_vocab() == Clip(MODEL, torch.device("cpu"))._tokenizer.get_vocab()
    made = json.loads((MODEL / "loba.json").read_text())["trained_with"]
    assert made == asdict(Budget())
