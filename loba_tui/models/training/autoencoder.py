"""The stages that train the autoencoder: both halves with noisy latents, then the decoder alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from loba_tui.models.shapes_xl_parts import SCALING_FACTOR, make_vae
from loba_tui.models.training.steps import Budget, draw_images, optimize, to_unit

# Wider than the captioned world: sliders push sizes past it, and the decoder has to follow.
VAE_RADIUS_RANGE = (4.0, 16.0)
POSTERIOR_STD = 0.05
BETAS = (0.9, 0.99)


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return L1 + 2 MSE + L1 of the differences between neighbours, which keeps edges sharp."""
    across = (output.diff(dim=-1) - target.diff(dim=-1)).abs().mean()
    down = (output.diff(dim=-2) - target.diff(dim=-2)).abs().mean()
    return F.l1_loss(output, target) + 2 * F.mse_loss(output, target) + across + down


def train_vae(budget: Budget) -> AutoencoderKL:
    """Train encoder and decoder jointly, then whiten the latents.

    The posterior's width is fixed (`vae_latent_noise`, against latents held near unit variance)
    rather than learned: that is what makes nearby latents decode alike.
    """
    torch.manual_seed(budget.seed)
    generator = torch.Generator().manual_seed(budget.seed)
    images, _ = draw_images(budget.num_images, seed=budget.seed, radius_range=VAE_RADIUS_RANGE)
    vae = make_vae()

    def loss_of_step() -> torch.Tensor:
        picked = torch.randint(len(images), (budget.vae_batch,), generator=generator)
        target = to_unit(images[picked])
        mean = vae.encode(target).latent_dist.mean
        noise = torch.randn(mean.shape, generator=generator) * budget.vae_latent_noise
        output = vae.decode(mean + noise).sample
        return picture_loss(output, target) + 1e-3 * (mean**2).mean()

    trained = list(vae.parameters())
    steps, lr = budget.vae_steps, budget.vae_lr
    optimize("vae", trained, loss_of_step, num_steps=steps, lr=lr, betas=BETAS)
    whiten(vae, to_unit(images[:2048]))
    return vae


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Make the scaled latents of these images zero-mean, unit-variance and uncorrelated, in place.

    The transform goes into `quant_conv`, its inverse into `post_quant_conv`; what is decoded stays
    the same. The posterior's width becomes the constant `POSTERIOR_STD` (in scaled latents).
    """
    channels = vae.config.latent_channels
    latents = encode(vae, images) / SCALING_FACTOR
    values = latents.permute(1, 0, 2, 3).flatten(1).double()
    mean = values.mean(1)
    # ZCA, the whitening that turns the latents least: L = U diag(1 / sqrt(S)) U^T.
    variances, directions = torch.linalg.eigh(torch.cov(values))
    forward = directions @ torch.diag(variances.rsqrt()) @ directions.T / SCALING_FACTOR
    backward = torch.linalg.inv(forward)

    quant, post_quant = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:channels, :, 0, 0].double(), quant.bias[:channels].double()
    quant.weight.zero_()
    quant.weight[:channels, :, 0, 0] = (forward @ weight).float()
    quant.bias[:channels] = (forward @ (bias - mean)).float()
    quant.bias[channels:] = 2 * math.log(POSTERIOR_STD / SCALING_FACTOR)
    weight = post_quant.weight[:, :, 0, 0].double()
    post_quant.bias += (weight @ mean).float()
    post_quant.weight[:, :, 0, 0] = (weight @ backward).float()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Return the scaled latents (n, 4, 8, 8) of images in [-1, 1], the posterior's mean."""
    means = [vae.encode(chunk).latent_dist.mean for chunk in images.split(64)]
    return torch.cat(means) * SCALING_FACTOR


def train_decoder(budget: Budget, vae: AutoencoderKL) -> AutoencoderKL:
    """Train the decoder alone, in place, on noisy latents: the denoiser's will not be exact."""
    generator = torch.Generator().manual_seed(budget.seed + 1)
    images, _ = draw_images(budget.num_images, seed=budget.seed, radius_range=VAE_RADIUS_RANGE)
    latents = encode_all(vae, images)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]

    def loss_of_step() -> torch.Tensor:
        picked = torch.randint(len(images), (budget.vae_batch,), generator=generator)
        clean = latents[picked]
        noise = torch.randn(clean.shape, generator=generator)
        strength = torch.rand((len(clean), 1, 1, 1), generator=generator)
        noisy = clean + noise * strength * (2 * budget.decoder_latent_noise)
        return picture_loss(vae.decode(noisy / SCALING_FACTOR).sample, to_unit(images[picked]))

    steps, lr = budget.decoder_steps, budget.decoder_lr
    optimize("decoder", trained, loss_of_step, num_steps=steps, lr=lr, betas=BETAS)
    return vae


def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode uint8 images in chunks, so that the floats of a whole data set never exist at once."""
    return torch.cat([encode(vae, to_unit(chunk)) for chunk in images.split(1024)])
