"""Noise schedulers are held against diffusers' own, and against a model whose answer is known.

If every image is the same latent μ, the noise in x_t can be told exactly, provided that each x_t is
labelled with the timestep whose noise it really has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.trajectories.base import step_latents

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# As a U-Net's pipeline has it; the model's own sampler is not the one that is asked for.
CONFIG = diffusers.EulerDiscreteScheduler(
    **BETAS, steps_offset=1, timestep_spacing="leading"
).config
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config
TRAILING = {"timestep_spacing": "trailing"}
TO_ONE = {**TRAILING, "set_alpha_to_one": True}

ORACLES: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (
        diffusers.DDIMScheduler,
        {
            **TRAILING,
            "clip_sample": False,
            "set_alpha_to_one": True,
        },
    ),
    "ddpm": (diffusers.DDPMScheduler, {**TRAILING, "clip_sample": False}),
    "pndm": (
        diffusers.PNDMScheduler,
        {
            **TRAILING,
            "skip_prk_steps": True,
            "set_alpha_to_one": True,
        },
    ),
    "k_lms": (diffusers.LMSDiscreteScheduler, TRAILING),
    "euler": (diffusers.EulerDiscreteScheduler, TRAILING),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, TRAILING),
    "heun": (diffusers.HeunDiscreteScheduler, TRAILING),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, TRAILING),
    "dpmpp_sde": (
        diffusers.DPMSolverMultistepScheduler,
        {**TRAILING, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc": (diffusers.UniPCMultistepScheduler, TRAILING),
    "lcm": (diffusers.LCMScheduler, {"clip_sample": False}),
    "flow_match_euler": (diffusers.FlowMatchEulerDiscreteScheduler, {}),
}
DIFFUSION = [name for name in ORACLES if name != "flow_match_euler"]
STOCHASTIC = {"ddpm", "euler_ancestral", "dpmpp_sde", "lcm"}


def config_of(name: str) -> Mapping[str, Any]:
    return FLOW if name == "flow_match_euler" else CONFIG


def walk(
    scheduler: Any, predict: Any, steps: int = 20, trace: float = 0.0
) -> tuple[Tensor, list[Any]]:
    """Run the plain sampling loop; return its end and every model input with its timestep.

    The first latents are noise, and `trace` of the image in it.
    """
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    scale = float(getattr(scheduler, "init_noise_sigma", 1))
    latents = torch.randn(1, 4, 16, 16, generator=generator) * scale + trace
    inputs = []
    for timestep in scheduler.timesteps:
        scaled = latents
        if hasattr(scheduler, "scale_model_input"):  # diffusers' own of flow matching has none
            scaled = scheduler.scale_model_input(latents, timestep)
        inputs.append((scaled, timestep))
        latents = step_latents(scheduler, predict(scaled, timestep), timestep, latents, [generator])
    return latents, inputs


def test_there_are_the_twelve_that_are_promised() -> None:
    assert set(SHIPPED.names("noise")) == set(ORACLES)


@pytest.mark.parametrize("name", ORACLES)
def test_a_noise_scheduler_steps_as_diffusers_does(name: str) -> None:
    def predict(inputs: Tensor, timestep: Tensor) -> Tensor:
        return torch.sin(3 * inputs + float(timestep) / 300)

    scheduler_class, options = ORACLES[name]
    ours = SHIPPED.load("noise", name)(config_of(name))
    theirs = scheduler_class.from_config(config_of(name), **options)
    assert isinstance(ours, scheduler_class)
    (mine, inputs), (other, other_inputs) = walk(ours, predict), walk(theirs, predict)
    assert torch.equal(mine, other)
    assert [float(t) for _, t in inputs] == [float(t) for _, t in other_inputs]


MU = 20.0  # far from 0, so that a label that is one step off shows


def noise_in(inputs: Tensor, timestep: Tensor) -> Tensor:
    alpha = diffusers.DDIMScheduler(**BETAS).alphas_cumprod[int(timestep)]
    return (inputs - alpha.sqrt() * MU) / (1 - alpha).sqrt()


@pytest.mark.parametrize("name", DIFFUSION)
def test_every_latent_has_the_noise_that_its_timestep_says(name: str) -> None:
    scheduler = SHIPPED.load("noise", name)(CONFIG)
    scheduler.set_timesteps(20)
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[0])].sqrt()
    # Schedulers either let the image fade while noise comes, or add ever larger noise to it.
    trace = MU * float(alpha) if scheduler.init_noise_sigma == 1 else MU
    final, inputs = walk(scheduler, noise_in, trace=trace)
    torch.testing.assert_close(final, torch.full_like(final, MU), rtol=2e-3, atol=0)
    first = noise_in(*inputs[0])
    for scaled, timestep in inputs:
        noise = noise_in(scaled, timestep)
        if name in STOCHASTIC:
            assert abs(float(noise.mean())) < 0.12
            assert float(noise.std()) == pytest.approx(1, abs=0.1)
        else:
            torch.testing.assert_close(noise, first, rtol=0, atol=0.02)


def test_every_flow_matching_latent_has_the_noise_that_its_timestep_says() -> None:
    def noise(inputs: Tensor, timestep: Tensor) -> Tensor:
        sigma = timestep / 1000
        return (inputs - (1 - sigma) * MU) / sigma

    scheduler = SHIPPED.load("noise", "flow_match_euler")(FLOW)
    final, inputs = walk(scheduler, lambda x, t: noise(x, t) - MU)
    torch.testing.assert_close(final, torch.full_like(final, MU))
    for scaled, timestep in inputs:
        torch.testing.assert_close(noise(scaled, timestep), inputs[0][0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", DIFFUSION)
def test_the_models_own_betas_and_prediction_type_are_kept(name: str) -> None:
    config = diffusers.EulerDiscreteScheduler(
        **{**BETAS, "beta_end": 0.0137}, prediction_type="v_prediction"
    ).config
    scheduler = SHIPPED.load("noise", name)(config)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.beta_end == 0.0137

    def velocity(inputs: Tensor, timestep: Tensor) -> Tensor:
        alpha = scheduler.alphas_cumprod[int(timestep)]
        noise = (inputs - alpha.sqrt() * MU) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * MU

    final, _ = walk(scheduler, velocity)
    # A weighted sum of velocities at several timesteps, as PNDM takes it, is not exact.
    rtol = 0.02 if name == "pndm" else 5e-3
    torch.testing.assert_close(final, torch.full_like(final, MU), rtol=rtol, atol=0)


@pytest.mark.parametrize("name", [n for n in DIFFUSION if n not in ("pndm", "k_lms", "heun")])
def test_zero_terminal_snr_is_the_models_unless_the_recipe_says(name: str) -> None:
    def last_alpha(config: Mapping[str, Any], **options: Any) -> float:
        return float(SHIPPED.load("noise", name)(config, **options).alphas_cumprod[-1])

    plain = CONFIG
    rescaled = diffusers.EulerDiscreteScheduler(**BETAS, rescale_betas_zero_snr=True).config
    assert last_alpha(plain) > 1e-3
    assert last_alpha(rescaled) < 1e-6
    assert last_alpha(plain, rescale_betas_zero_snr=True) < 1e-6
    assert last_alpha(rescaled, rescale_betas_zero_snr=False) > 1e-3


@pytest.mark.parametrize("name", [n for n in DIFFUSION if n != "lcm"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_spacing_is_honoured(name: str, spacing: str) -> None:
    scheduler = SHIPPED.load("noise", name)(CONFIG, timestep_spacing=spacing)
    scheduler.set_timesteps(10)
    first = {"leading": 901, "trailing": 999, "linspace": 999}[spacing]
    assert float(scheduler.timesteps[0]) == first


@pytest.mark.parametrize("name", ["k_lms", "euler", "heun", "dpmpp_2m", "dpmpp_sde", "unipc"])
def test_karras_sigmas_are_equation_5(name: str) -> None:
    plain = SHIPPED.load("noise", name)(CONFIG)
    karras = SHIPPED.load("noise", name)(CONFIG, use_karras_sigmas=True)
    plain.set_timesteps(8)
    karras.set_timesteps(8)
    sigmas = karras.sigmas.unique().flip(0)[:8].double()
    low, high = sigmas[-1] ** (1 / 7), sigmas[0] ** (1 / 7)
    expected = (high + torch.linspace(0, 1, 8, dtype=torch.float64) * (low - high)) ** 7
    torch.testing.assert_close(sigmas, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(plain.sigmas, karras.sigmas)


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_scheduler_refuses_a_flow_matching_model(name: str) -> None:
    for config in (FLOW, {**CONFIG, "prediction_type": "flow_prediction"}):
        with pytest.raises(RecipeError, match="velocity"):
            SHIPPED.load("noise", name)(config)


def test_flow_match_euler_refuses_a_diffusion_model() -> None:
    with pytest.raises(RecipeError, match=r"diffusion\s+model \(epsilon\)"):
        SHIPPED.load("noise", "flow_match_euler")(CONFIG)


def test_flow_match_shift_is_the_models_unless_the_recipe_says() -> None:
    make = SHIPPED.load("noise", "flow_match_euler")
    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config
    assert make(FLOW).config.shift == 3.0
    assert make(FLOW, shift=1.0).config.shift == 1.0
    assert make(dynamic).config.use_dynamic_shifting
    assert not make(dynamic, shift=2.0).config.use_dynamic_shifting
