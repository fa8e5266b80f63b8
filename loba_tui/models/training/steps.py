"""Budget, drawn images and AdamW steps of all stages of training `builtin:shapes-xl`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from loba_tui.models import shapes_world as world

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How much of everything; the defaults are those of the weights in the repository."""

    seed: int = 0
    num_images: int = 24_000
    captions_per_image: int = 4
    vae_steps: int = 5_000
    vae_batch: int = 16
    vae_lr: float = 2e-3
    vae_latent_noise: float = 0.1
    decoder_steps: int = 1_500
    decoder_lr: float = 1e-3
    decoder_latent_noise: float = 0.15
    unet_steps: int = 5_600
    unet_batch: int = 40
    unet_lr: float = 1.5e-3
    ema_decay: float = 0.998


def draw_images(
    num_images: int, *, seed: int, radius_range: tuple[float, float]
) -> tuple[torch.Tensor, list[world.Scene]]:
    """Draw (n, 3, 32, 32) uint8 images and say what is on each."""
    rng = np.random.default_rng(seed)
    scenes = [world.random_scene(rng, radius_range=radius_range) for _ in range(num_images)]
    images = np.stack([np.rint(world.draw(scene) * 255).astype(np.uint8) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), scenes


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Map uint8 pixels to the [-1, 1] that a VAE takes."""
    return images.float() / 127.5 - 1


def warmup_cosine(step: int, num_steps: int, *, warmup: int) -> float:
    """Return the learning-rate factor: a linear rise, then half a cosine down to nearly zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))


def optimize(
    name: str,
    parameters: list[torch.nn.Parameter],
    loss_of_step: Callable[[], torch.Tensor],
    *,
    num_steps: int,
    lr: float,
    betas: tuple[float, float],
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Take AdamW steps; `after_step` is told the number of each, from 1 on."""
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, num_steps, warmup=min(100, num_steps // 2))
    )
    recent: list[float] = []
    began = time.perf_counter()
    for step in range(1, num_steps + 1):
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        after_step(step)
        if step % 100 == 0 or step == num_steps:
            spent = time.perf_counter() - began
            to_go = spent / step * (num_steps - step)
            told = (name, step, num_steps, np.mean(recent), spent, to_go)
            logger.info("%-8s %6d/%d  loss %.4f  %5.0f s, %4.0f s to go", *told)
            recent.clear()
