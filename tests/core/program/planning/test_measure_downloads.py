"""Models that measures read with: told by a plan, counted, and asked for before training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hub_client import talking_to
from hub_server import serve

from loba_tui.core.errors import ResourceError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import train as training
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.requirements import download_notes
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

COMMIT = "32bd64288804d66eefd0ccbe215aa642df71cc41"
CLIP = {"text": "x", "model": "openai/clip-vit-large-patch14", "revision": COMMIT}


def recipe_with(measure):
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {
                "name": "text_slider",
                "concepts": [{"target": "x", "positive": "y", "negative": "z"}],
            },
            "train": {"steps": 1},
            "proof": {"measure": measure},
        },
        plugins=SHIPPED,
    )


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    with serve({}) as hub:
        pass
    with talking_to(hub, tmp_path, monkeypatch):
        yield hub


def test_a_plan_names_the_download_and_its_size_without_asking_the_hub(no_hub):
    (note,) = download_notes(recipe_with({"name": "clip_score", **CLIP}), SHIPPED)
    assert note.startswith(
        f"proof.measure reads with openai/clip-vit-large-patch14 at {COMMIT[:12]}"
    )
    assert "1.7 GB" in note
    assert not no_hub.requested
    assert not download_notes(recipe_with({"name": "shape_area"}), SHIPPED)


def test_the_model_counts_where_images_are_measured(no_hub):
    estimator = Estimator(torch.device("cpu"), SHIPPED, shapes_only=True)
    alone = estimator.estimate(recipe_with({"name": "shape_area"})).memory
    read = estimator.estimate(recipe_with({"name": "clip_score", **CLIP})).memory
    assert read.training == alone.training
    assert read.sampling >= 4 * 427_616_513
    assert read.peak == read.sampling


def test_a_run_without_hub_and_files_ends_before_the_base_model_is_loaded(
    no_hub, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "open_model", lambda *_, **__: pytest.fail("it was loaded"))
    run_dir = RunDir.create(tmp_path / "runs", "measured")
    recipe = recipe_with({"name": "clip_score", **CLIP})
    flag, start = SimpleNamespace(is_set=False), StartOptions(force=True)
    with RunWriter.open(run_dir) as writer, pytest.raises(ResourceError) as caught:
        training.train(recipe, run_dir, writer, flag, start, SHIPPED)
    assert caught.value.message.startswith("proof.measure.model: openai/clip-vit-large-patch14 at")
