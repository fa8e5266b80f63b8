"""Rows at different places of a grid, stepped at once, have the bits of diffusers' own steps."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
)

from loba_tui.core.program.trajectories.base import model_input, step_latents
from loba_tui.core.program.trajectories.noise_schedulers import FlowMatchEuler
from loba_tui.core.program.trajectories.row_steps import row_steps
from loba_tui.core.program.trajectories.scheduler_history import fresh_copy

PLACES = [0, 3, 3, 7, 9]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PREDICTIONS = ("epsilon", "v_prediction")
GRIDS = {
    **{
        f"{make.__name__} {prediction} {len(options)}": make(
            prediction_type=prediction, **BETAS, **options
        )
        for make, options in (
            (EulerDiscreteScheduler, {}),
            (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
            (EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}),
            (DDIMScheduler, {"clip_sample": False, "timestep_spacing": "trailing"}),
        )
        for prediction in PREDICTIONS
    },
    "FlowMatchEuler": FlowMatchEuler(shift=3.0),
}


@pytest.mark.parametrize("name", GRIDS)
def test_steps_have_diffusers_bits(name: str) -> None:
    grid = GRIDS[name]
    grid.set_timesteps(10)
    own = row_steps(grid)
    assert own is not None
    latents = torch.randn(len(PLACES), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    latents *= float(getattr(grid, "init_noise_sigma", 1.0))
    predicted = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    places = torch.tensor(PLACES)

    inputs = own.inputs(latents, places)
    stepped = own.step(latents, predicted, places, generators())

    for row, (place, generator) in enumerate(zip(PLACES, generators(), strict=True)):
        one = slice(row, row + 1)
        theirs = at_place(grid, place)
        timestep = grid.timesteps[place]
        assert torch.equal(inputs[one], model_input(theirs, latents[one], timestep))
        expected = step_latents(theirs, predicted[one], timestep, latents[one], [generator])
        assert torch.equal(stepped[one], expected)


def at_place(grid: Any, place: int) -> Any:
    """Return a scheduler that has made its way to a place of the grid."""
    scheduler = fresh_copy(grid)
    for timestep in grid.timesteps[:place]:
        one = torch.zeros(1, 4, 8, 8)
        model_input(scheduler, one, timestep)
        step_latents(scheduler, one, timestep, one, [torch.Generator()])
    return scheduler


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(len(PLACES))]


@pytest.mark.parametrize(
    "scheduler",
    [
        DPMSolverMultistepScheduler(**BETAS),
        HeunDiscreteScheduler(**BETAS),
        DDIMScheduler(clip_sample=True, **BETAS),
        EulerDiscreteScheduler(prediction_type="sample", **BETAS),
    ],
    ids=["multistep", "Heun", "clipped", "image"],
)
def test_a_sampler_with_a_memory_or_more_to_do_steps_row_by_row(scheduler: Any) -> None:
    scheduler.set_timesteps(10)
    assert row_steps(scheduler) is None
