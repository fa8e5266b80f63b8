"""The stage that trains the denoiser and both text encoders on captioned images."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import (
    LATENT_SIZE,
    MAX_TOKENS,
    TextParts,
    make_scheduler,
    make_text_parts,
    make_unet,
)
from loba_tui.models.training.autoencoder import encode_all
from loba_tui.models.training.steps import Budget, draw_images, optimize

logger = logging.getLogger(__name__)

EMPTY_PROMPT_RATE = 0.07
ZEROED_PROMPT_RATE = 0.06
MIN_SNR_GAMMA = 5.0
"""Efficient Diffusion Training via Min-SNR Weighting Strategy, https://arxiv.org/abs/2303.09556."""


@dataclass(frozen=True)
class Captions:
    """Token ids (images, captions, 32) for both encoders."""

    ids: torch.Tensor
    ids_2: torch.Tensor
    empty: torch.Tensor
    empty_2: torch.Tensor


def write_captions(scenes: list[world.Scene], text: TextParts, budget: Budget) -> Captions:
    """Caption every scene several times over, and tokenize."""
    rng = np.random.default_rng(budget.seed + 2)
    lines = [
        world.caption(scene, rng) for scene in scenes for _ in range(budget.captions_per_image)
    ]

    def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
        batch = tokenizer(
            prompts,
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        return batch.input_ids

    shape = (len(scenes), budget.captions_per_image, MAX_TOKENS)
    return Captions(
        tokenize(text.tokenizer, lines).view(shape),
        tokenize(text.tokenizer_2, lines).view(shape),
        tokenize(text.tokenizer, [""])[0],
        tokenize(text.tokenizer_2, [""])[0],
    )


class Denoiser(torch.nn.Module):
    """The three networks that are trained together, called as the pipeline calls them."""

    def __init__(self, unet: UNet2DConditionModel, text: TextParts) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text.text_encoder
        self.text_encoder_2 = text.text_encoder_2

    def forward(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        ids: torch.Tensor,
        ids_2: torch.Tensor,
        zeroed: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the noise; rows with `zeroed` get zeros for their prompt, as SD-XL's negative."""
        first = self.text_encoder(ids, output_hidden_states=True)
        second = self.text_encoder_2(ids_2, output_hidden_states=True)
        kept = (~zeroed).float()[:, None]
        prompt_embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        side = float(world.SIZE)
        time_ids = torch.tensor([side, side, 0, 0, side, side]).expand(len(noisy), -1)
        conditions = {"text_embeds": second.text_embeds * kept, "time_ids": time_ids}
        return self.unet(
            noisy, timesteps, prompt_embeds * kept[..., None], added_cond_kwargs=conditions
        ).sample


def noise_loss(
    model: Denoiser,
    latents: torch.Tensor,
    captions: Captions,
    *,
    batch_size: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the min-SNR weighted error of the noise predicted on a random batch."""
    alphas = make_scheduler().alphas_cumprod
    num_captions = captions.ids.shape[1]
    picked = torch.randint(len(latents), (batch_size,), generator=generator)
    which = torch.randint(num_captions, (batch_size,), generator=generator)
    chance = torch.rand(batch_size, generator=generator)
    empty = (chance < EMPTY_PROMPT_RATE)[:, None]
    ids = torch.where(empty, captions.empty, captions.ids[picked, which])
    ids_2 = torch.where(empty, captions.empty_2, captions.ids_2[picked, which])
    zeroed = chance > 1 - ZEROED_PROMPT_RATE
    # Stratified timesteps: one from each of `batch_size` slices, which steadies the loss.
    offsets = torch.rand(batch_size, generator=generator)
    slices = (torch.arange(batch_size) + offsets) / batch_size
    timesteps = (slices * len(alphas)).long().clamp(max=len(alphas) - 1)
    alpha = alphas[timesteps][:, None, None, None]
    noise = torch.randn((batch_size, 4, LATENT_SIZE, LATENT_SIZE), generator=generator)
    noisy = alpha.sqrt() * latents[picked] + (1 - alpha).sqrt() * noise
    error = (model(noisy, timesteps, ids, ids_2, zeroed) - noise) ** 2
    snr = alphas[timesteps] / (1 - alphas[timesteps])
    weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
    return (error.mean((1, 2, 3)) * weight).mean()


def train_unet(
    budget: Budget, vae: AutoencoderKL, *, preview: Path | None = None
) -> dict[str, torch.Tensor]:
    """Train denoiser and text encoders; return the averaged weights of `Denoiser`.

    Every 1,000 steps the average so far is written to `preview`, to look at; it is no checkpoint.
    """
    torch.manual_seed(budget.seed + 3)
    generator = torch.Generator().manual_seed(budget.seed + 3)
    text = make_text_parts()
    model = Denoiser(make_unet(), text)
    average = copy.deepcopy(model).requires_grad_(False)
    images, scenes = draw_images(
        budget.num_images, seed=budget.seed + 3, radius_range=world.RADIUS_RANGE
    )
    captions = write_captions(scenes, text, budget)
    latents = encode_all(vae, images)
    logger.info("latents: mean %.3f, std %.3f", latents.mean().item(), latents.std().item())

    def loss_of_step() -> torch.Tensor:
        batch_size = budget.unet_batch
        return noise_loss(model, latents, captions, batch_size=batch_size, generator=generator)

    def update_average(step: int) -> None:
        decay = min(budget.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if preview and step % 1000 == 0:
            save_file(average.state_dict(), preview)

    optimize(
        "unet",
        list(model.parameters()),
        loss_of_step,
        num_steps=budget.unet_steps,
        lr=budget.unet_lr,
        betas=(0.9, 0.98),
        after_step=update_average,
    )
    return {name: value.contiguous() for name, value in average.state_dict().items()}
