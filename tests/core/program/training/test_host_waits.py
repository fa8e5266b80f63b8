"""A step lets the host wait for the accelerator once, whatever the size of the model."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from host_waits import HostWaits
from torch import Tensor

from loba_tui.core.associate.device_copies import rows_of, sent
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking.subject import Subject, make_subject
from loba_tui.core.program.data.training_data import StandInData
from loba_tui.core.program.open_model import OpenModel, prompts_of
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir

ONCE = {"core/program/training/step_figures.py:_read": 1}
CONCEPT = {"target": "a man", "positive": "an old man", "negative": "a boy", "preserve": ["a car"]}
BANK = {"trajectories": "bank", "bank_samples": 8, "bank_images": 1, "rollout_steps": 2}
ROLLING = {"trajectories": "rolling", "rollout_steps": 3}


def recipe(method: dict[str, Any], sampler: str = "euler_ancestral", **sections: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "dtype": "float32", "device": "cpu"},
            "method": method,
            "scheduler": {"noise": {"name": sampler}},
            "train": {"steps": 9, "batch_size": 2, "gradient_accumulation": 2},
            **sections,
        }
    )


class Shapes:
    """Opens a model without weights."""

    plugins = SHIPPED

    def open(self, recipe: Recipe, records: object) -> OpenModel:
        container = open_shapes(recipe.base_model.id, None, torch.float32).container
        row = container.zero_embeds()
        embeds = {prompt: row.of(prompt) for prompt in [*prompts_of(recipe), ""]}
        data = None if recipe.data is None else cast(Any, _Images(recipe))
        wrapper = cast(Any, SimpleNamespace(cache=None))
        model = OpenModel(wrapper, container, embeds, cast(Any, None))
        return replace(model, data=data)


class _Images:
    """Batches of latents that are on the host, as those of images are."""

    fingerprint = "none"

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def batches(self, container: Any, *, rank: int, num_processes: int) -> Any:
        assert self._recipe.data is not None
        shape = container.latent_shape(self._recipe.train.resolution)
        images = StandInData(self._recipe.data, shape, self._recipe.train.micro_batch_size)
        return SimpleNamespace(batch=lambda index: _on_device(images.batch(index)))


def _on_device(batch: Any) -> Any:
    def moved(tensor: Tensor) -> Tensor:
        return sent(tensor, torch.device("meta"))

    latents = tuple(moved(latent) for latent in batch.latents)
    return replace(batch, latents=latents, weights=moved(batch.weights))


def waits_of_second_step(recipe: Recipe, folder: Path) -> dict[str, int]:
    subject: Subject = make_subject(recipe, cast(Any, Shapes()), RunDir(folder))
    with HostWaits():
        subject.step()
    with HostWaits() as waits:
        subject.step()
    return dict(waits.places)


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(
            recipe({"name": "text_slider", "concepts": [CONCEPT], **BANK}), id="slider with a bank"
        ),
        pytest.param(
            recipe({"name": "text_slider", "concepts": [CONCEPT], **ROLLING}), id="rolling slider"
        ),
        pytest.param(
            recipe({"name": "lora_finetune"}, data={"sources": [{"path": "images"}]}),
            id="plain LoRA",
        ),
    ],
)
def test_a_step_waits_once(recipe: Recipe, tmp_path: Path) -> None:
    assert waits_of_second_step(recipe, tmp_path) == ONCE


def test_waits_are_seen() -> None:
    there = torch.zeros(4, 2, device="meta")
    with HostWaits() as waits:
        float(there.sum())
        there.cpu()
        torch.zeros(3).to("meta")
        torch.zeros(3).to("meta", non_blocking=True)
        rows_of(there, [1, 2])
    assert sum(waits.places.values()) == 3
