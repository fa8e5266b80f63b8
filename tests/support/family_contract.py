"""What the contract of families needs: how each pipeline is called, and what it does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny_families import RESOLUTION
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds

PROMPTS = ["a red circle", "a large blue square, from above"]
"""Of different lengths."""
STEPS, SCALE = 3, 3.5


@dataclass(frozen=True)
class Case:
    """How the pipeline of a family is called for what the contract says in the same words.

    Attributes:
        unguided: Arguments for the prompt's own prediction.
        guided: Arguments for guidance of `SCALE`.
        unpacked: Turns the scheduler's latents into (B, C, H, W).
        lengthens: Whether guidance also brings the prediction to the length of the prompt's own.
    """

    unguided: dict[str, Any]
    guided: dict[str, Any]
    unpacked: Callable[[Any, Tensor], Tensor] = lambda pipeline, latents: latents
    lengthens: bool = False


def _unpacked_flux(pipeline: Any, latents: Tensor) -> Tensor:
    found = pipeline._unpack_latents(latents, RESOLUTION, RESOLUTION, pipeline.vae_scale_factor)
    return found[:, :, 0] if found.ndim == 5 else found


def _unpacked_flux2(pipeline: Any, latents: Tensor) -> Tensor:
    side = RESOLUTION // pipeline.vae_scale_factor // 2
    grid = latents.transpose(1, 2).unflatten(2, (side, side))
    return pipeline._unpatchify_latents(grid)


NEGATIVE = {"negative_prompt": [""] * len(PROMPTS)}
CASES = {
    "z-image": Case({"guidance_scale": 0.0}, {"guidance_scale": SCALE - 1, **NEGATIVE}),
    "sd3": Case({"guidance_scale": 1.0}, {"guidance_scale": SCALE, **NEGATIVE}),
    "flux2-klein": Case({"guidance_scale": 1.0}, {"guidance_scale": SCALE}, _unpacked_flux2),
    # Neither distilled kind predicts twice: one is told the scale, the other knows none.
    "flux2-klein-distilled": Case({"guidance_scale": 1.0}, {}, _unpacked_flux2),
    "flux-dev": Case({"guidance_scale": 1.0}, {"guidance_scale": SCALE}, _unpacked_flux),
    "flux-schnell": Case({}, {"true_cfg_scale": SCALE, **NEGATIVE}, _unpacked_flux),
    "qwen-image": Case(
        {"true_cfg_scale": 1.0},
        {"true_cfg_scale": SCALE, **NEGATIVE},
        _unpacked_flux,
        lengthens=True,
    ),
}
PREDICTS_ONCE = ("flux-dev", "flux2-klein-distilled")


@dataclass
class Family:
    """A tiny model of a family, loaded as any other."""

    name: str
    case: Case
    container: ModelContainer

    @property
    def pipeline(self) -> Any:
        return self.container.pipeline

    def draw(self, **inputs: Any) -> Tensor:
        """Call the pipeline; return images (B, 3, H, W)."""
        # Copies of lists: Z-Image's pipeline writes into those that it is given.
        inputs = {k: list(v) if isinstance(v, list) else v for k, v in inputs.items()}
        return self.pipeline(
            height=RESOLUTION,
            width=RESOLUTION,
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))],
            output_type="pt",
            **inputs,
        ).images


@dataclass
class Steps:
    """What the scheduler was given at each step: latents, their timestep and the prediction."""

    latents: list[Tensor] = field(default_factory=list)
    timesteps: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor] = field(default_factory=list)


@contextmanager
def noted(family: Family, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    """Note what the pipeline's scheduler is given, latents unpacked by the pipeline itself."""
    steps, own = Steps(), family.pipeline.scheduler.step

    def step(prediction: Tensor, timestep: Tensor, latents: Tensor, **more: Any) -> Any:
        unpacked = family.case.unpacked
        steps.latents.append(unpacked(family.pipeline, latents))
        steps.timesteps.append(timestep)
        steps.predictions.append(unpacked(family.pipeline, prediction))
        return own(prediction, timestep, latents, **more)

    with monkeypatch.context() as patch:
        patch.setattr(family.pipeline.scheduler, "step", step)
        yield steps


def both(row: PromptEmbeds) -> PromptEmbeds:
    return row.select([0] * len(PROMPTS))


def tokens(latents: Tensor) -> Tensor:
    """Return one column for each square of 2 × 2 latent pixels, (B, 4 C, N)."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)
