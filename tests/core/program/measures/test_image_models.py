"""Measures that read with a model: values, batches, comparison with scale 0, and the proof."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_image_models import save_random_vgg, save_tiny_clip, save_tiny_dino

from loba_tui.core.associate.image_models.clip import Clip
from loba_tui.core.associate.image_models.lpips import Lpips
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.contract import check_contract
from loba_tui.core.program.evaluation.figures import measure_figures
from loba_tui.core.program.evaluation.measure import (
    MeasureContext,
    check_measures,
    kept_within,
    measure,
    read_values,
)
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.sections.method import Choice, Preserved

CPU = torch.device("cpu")
SAMPLES = np.random.default_rng(0).random((2, 3, 20, 20, 3)).astype(np.float32)
CONCEPT = {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}
WORDS = {"positive": "a large circle", "negative": "a small circle"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.manual_seed(0)
    parent = tmp_path_factory.mktemp("image-models")
    save_tiny_clip(parent / "clip")
    save_tiny_dino(parent / "dino")
    save_random_vgg(parent / "lpips")
    return parent


def choice_of(name, folders, **options):
    kind = SHIPPED.describe("measures", name).constants["MODEL"]
    return Choice(name=name, model=str(folders / kind), **options)


def options_of(name):
    return {"clip_direction": WORDS, "clip_score": {"text": "a circle"}}.get(name, {})


@pytest.mark.parametrize("name", ["clip_direction", "clip_score", "dino_similarity", "lpips"])
def test_each_keeps_the_contract_of_its_kind(name, folders):
    plugin = SHIPPED.describe("measures", name)
    choice = choice_of(name, folders, **options_of(name))
    check_contract("measures", plugin.path, **choice.options)


def test_clip_direction_projects_on_the_line_between_two_texts(folders):
    found = read_values(choice_of("clip_direction", folders, **WORDS), SAMPLES, SHIPPED)
    clip = Clip(folders / "clip", CPU)
    high, low = clip.of_texts(list(WORDS.values())).double().numpy()
    images = clip.of_images(SAMPLES.reshape(-1, 20, 20, 3)).double().numpy()
    along = (high - low) / np.linalg.norm(high - low)
    wanted = 100 * (images @ along).reshape(2, 3)
    assert found.astype(float) == pytest.approx(wanted, abs=1e-4)


def test_clip_score_is_never_below_zero(folders):
    clip = Clip(folders / "clip", CPU)
    images = clip.of_images(SAMPLES.reshape(-1, 20, 20, 3))
    for text in ("a circle", "a dark square", "yellow", "shape"):
        cosine = (images @ clip.of_texts([text])[0]).reshape(2, 3).numpy()
        found = read_values(choice_of("clip_score", folders, text=text), SAMPLES, SHIPPED)
        assert found.astype(float) == pytest.approx(100 * cosine.clip(min=0), abs=1e-4)


def test_dino_compares_each_sample_with_its_own_image_at_scale_zero(folders):
    choice = choice_of("dino_similarity", folders)
    samples = np.stack([SAMPLES[0], SAMPLES[0, ::-1]])
    found = read_values(choice, samples, SHIPPED, MeasureContext(base=1)).astype(float)
    assert found[:, 1] == pytest.approx(1, abs=1e-6)
    assert found[0, 0] == pytest.approx(found[1, 2])  # the same pair in both samples
    assert found[0, 0] < 1 - 1e-4


def test_lpips_compares_each_sample_with_its_own_image_at_scale_zero(folders):
    found = read_values(choice_of("lpips", folders), SAMPLES, SHIPPED, MeasureContext(base=2))
    reader = Lpips(folders / "lpips", CPU)
    for sample, values in zip(SAMPLES, found.astype(float), strict=True):
        assert values == pytest.approx(reader.to_one(sample, sample[2]).numpy(), abs=1e-7)


def test_what_compares_says_so_where_scale_zero_is_not_drawn(folders):
    with pytest.raises(RecipeError, match="scale 0"):
        read_values(choice_of("lpips", folders), SAMPLES, SHIPPED)


def test_a_model_is_loaded_once_for_all_images_and_is_gone_after(folders, monkeypatch):
    made = []

    class Counted(Clip):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr("loba_tui.core.program.measures.clip_score.Clip", Counted)
    measure(choice_of("clip_score", folders, text="a circle"), SAMPLES, SHIPPED)
    assert len(made) == 1


def test_a_preserved_number_is_held_against_what_the_recipe_or_the_measure_says():
    scales = (-1.0, 0.0, 1.0)
    values = np.array([[0.85, 1.0, 0.97], [0.95, 1.0, 0.99]], dtype=object)
    images = np.random.default_rng(0).random((2, 3, 8, 8, 3))
    for within, shares in ((None, (0.5, 1, 1)), (0.02, (0, 1, 0.5)), (0.2, (1, 1, 1))):
        figures = measure_figures(scales, images, labels={"x": values}, within={"x": within})
        assert figures.preservation[0].share_unchanged == shares


def test_the_measure_says_how_far_is_near_unless_the_recipe_does():
    assert kept_within(Preserved(name="lpips", model="x"), SHIPPED) == 0.1
    assert kept_within(Preserved(name="lpips", model="x", within=0.3), SHIPPED) == 0.3
    assert kept_within(Preserved(name="mean_brightness"), SHIPPED) is None
    assert Preserved(name="lpips", model="x", within=0.3).options == {"model": "x"}


def test_equal_texts_are_found_before_training(folders):
    words = {"positive": "a circle", "negative": "a circle"}
    measured = choice_of("clip_direction", folders, **words).model_dump()
    recipe = parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl"},
            "method": {"name": "text_slider", "concepts": [CONCEPT]},
            "proof": {"measure": measured},
        },
        plugins=SHIPPED,
    )
    with pytest.raises(RecipeError, match="both 'a circle'"):
        check_measures(recipe, SHIPPED)
