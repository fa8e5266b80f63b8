"""A UNet that was trained by flow matching: SD-XL's wiring, read by base_model.prediction_type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import NoScale
from loba_tui.core.program.sampling.images import sample_rows
from loba_tui.core.program.trajectories.held_out import roll_out
from loba_tui.core.recipe.schema import SampleSection
from loba_tui.core.recipe.sections.method import Choice

FLOW = Overrides(prediction_type="flow")


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path) -> ModelContainer:
    return ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder), overrides=FLOW)


def test_its_noise_schedule_is_the_straight_line(container: ModelContainer) -> None:
    assert container.prediction_type == "flow"
    scheduler = SHIPPED.load("noise", "flow_match_euler")(container.scheduler_config)
    container.lay_out_steps(scheduler, 4, container.latent_shape())
    assert scheduler.sigmas[0] == 1.0
    assert scheduler.sigmas[-1] == 0.0
    with pytest.raises(RecipeError, match="flow_match_euler"):
        SHIPPED.load("noise", "ddim")(container.scheduler_config)


@torch.no_grad()
def test_its_pipeline_samples_by_the_steps_that_training_rolls_out(
    container: ModelContainer,
) -> None:
    """The pipeline's image is that of Euler steps from the same noise, without guidance."""
    embeds = container.encode_prompts(["a red circle"])
    settings = SampleSection(steps=3, guidance_scale=1.0, noise=Choice(name="flow_match_euler"))
    images = sample_rows(
        container,
        NoScale(),
        embeds,
        strength=1.0,
        seeds=[5],
        settings=settings,
        negative=container.empty_embeds(),
        plugins=SHIPPED,
    )
    scheduler = SHIPPED.load("noise", "flow_match_euler")(container.scheduler_config)
    container.lay_out_steps(scheduler, 3, container.latent_shape())
    shape = (1, *container.latent_shape())
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    for timestep, (high, low) in zip(
        scheduler.timesteps, scheduler.sigmas.unfold(0, 2, 1), strict=True
    ):
        velocity = container.predict(latents, timestep, embeds)
        latents = latents + (low - high) * velocity
    drawn = container.decode(latents).permute(0, 2, 3, 1).numpy()
    assert abs(images - drawn).max() < 1e-5


def test_held_out_latents_are_of_its_own_rollouts(container: ModelContainer) -> None:
    make = SHIPPED.load("noise", "flow_match_euler")
    held = roll_out(
        container,
        NoScale(),
        container.encode_prompts(["a red circle"]),
        make_scheduler=lambda: make(container.scheduler_config),
        seed=3,
        num_steps=4,
        keep=(1, 3),
    )
    assert held.inputs.shape == (2, *container.latent_shape())
    assert held.timesteps.tolist() == sorted(held.timesteps.tolist(), reverse=True)


def test_a_flow_matching_model_takes_no_other_prediction() -> None:
    with pytest.raises(RecipeError, match=r"flow-matching model, and predicts no\s+v_prediction"):
        ModelCache("cpu", torch.float32).container(
            "builtin:shapes-z", overrides=Overrides(prediction_type="v_prediction")
        )


def test_zero_snr_is_not_for_flow_matching(tiny_sdxl_folder: Path) -> None:
    overrides = Overrides(prediction_type="flow", zero_snr=True)
    with pytest.raises(RecipeError, match="zero_snr"):
        ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder), overrides=overrides)
