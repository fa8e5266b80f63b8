"""Train `builtin:shapes-xl` from nothing: `python -m loba_tui.models.train_shapes_xl --out DIR`.

Four stages, each leaving its result in the work folder, so that a run goes on from the first one
missing there and `--from STAGE` does that one again:

    vae      autoencoder, with noise in its latents; whitened afterwards
    decoder  the decoder alone, learning to snap noisy latents to crisp shapes
    unet     denoiser and text encoders jointly, exponential moving average kept
    save     everything in float16 as a `StableDiffusionXLPipeline` folder

Counted in steps and never by the clock, on one thread, with a generator per stage: the same machine
gives the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import (
    LATENT_SIZE,
    MAX_TOKENS,
    SCALING_FACTOR,
    TextParts,
    make_pipeline,
    make_scheduler,
    make_text_parts,
    make_unet,
    make_vae,
)

log = logging.getLogger("train_shapes_xl")

STAGES = ("vae", "decoder", "unet", "save")
# Wider than the captioned world: sliders push sizes past it, and the decoder has to follow.
VAE_RADIUS_RANGE = (4.0, 16.0)
POSTERIOR_STD = 0.05
EMPTY_PROMPT_RATE = 0.07
ZEROED_PROMPT_RATE = 0.06
MIN_SNR_GAMMA = 5.0
"""Efficient Diffusion Training via Min-SNR Weighting Strategy, https://arxiv.org/abs/2303.09556."""


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


def picture_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return L1 + 2 MSE + L1 of the differences between neighbours, which keeps edges sharp."""
    across = (output.diff(dim=-1) - target.diff(dim=-1)).abs().mean()
    down = (output.diff(dim=-2) - target.diff(dim=-2)).abs().mean()
    return F.l1_loss(output, target) + 2 * F.mse_loss(output, target) + across + down


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
) -> Iterator[int]:
    """Take AdamW steps, yielding each step's number after it is done."""
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
        yield step
        if step % 100 == 0 or step == num_steps:
            spent = time.perf_counter() - began
            log.info(
                "%-8s %6d/%d  loss %.4f  %5.0f s, %4.0f s to go",
                *(name, step, num_steps, np.mean(recent), spent),
                spent / step * (num_steps - step),
            )
            recent.clear()


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

    for _ in optimize(
        "vae",
        list(vae.parameters()),
        loss_of_step,
        num_steps=budget.vae_steps,
        lr=budget.vae_lr,
        betas=(0.9, 0.99),
    ):
        pass
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

    for _ in optimize(
        "decoder",
        trained,
        loss_of_step,
        num_steps=budget.decoder_steps,
        lr=budget.decoder_lr,
        betas=(0.9, 0.99),
    ):
        pass
    return vae


def encode_all(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Encode uint8 images in chunks, so that the floats of a whole data set never exist at once."""
    return torch.cat([encode(vae, to_unit(chunk)) for chunk in images.split(1024)])


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
        """Hold the networks; the tokenizers are not part of it."""
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
    log.info("latents: mean %.3f, std %.3f", latents.mean().item(), latents.std().item())
    alphas = make_scheduler().alphas_cumprod
    batch = budget.unet_batch

    def loss_of_step() -> torch.Tensor:
        picked = torch.randint(len(latents), (batch,), generator=generator)
        which = torch.randint(budget.captions_per_image, (batch,), generator=generator)
        ids, ids_2 = captions.ids[picked, which], captions.ids_2[picked, which]
        chance = torch.rand(batch, generator=generator)
        empty = (chance < EMPTY_PROMPT_RATE)[:, None]
        ids, ids_2 = (
            torch.where(empty, captions.empty, ids),
            torch.where(empty, captions.empty_2, ids_2),
        )
        zeroed = chance > 1 - ZEROED_PROMPT_RATE
        # Stratified timesteps: one from each of `batch` slices, which steadies the loss.
        offsets = torch.rand(batch, generator=generator)
        slices = (torch.arange(batch) + offsets) / batch
        timesteps = (slices * len(alphas)).long().clamp(max=len(alphas) - 1)
        alpha = alphas[timesteps][:, None, None, None]
        noise = torch.randn((batch, 4, LATENT_SIZE, LATENT_SIZE), generator=generator)
        noisy = alpha.sqrt() * latents[picked] + (1 - alpha).sqrt() * noise
        error = (model(noisy, timesteps, ids, ids_2, zeroed) - noise) ** 2
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        weight = snr.clamp(max=MIN_SNR_GAMMA) / snr
        return (error.mean((1, 2, 3)) * weight).mean()

    for step in optimize(
        "unet",
        list(model.parameters()),
        loss_of_step,
        num_steps=budget.unet_steps,
        lr=budget.unet_lr,
        betas=(0.9, 0.98),
    ):
        decay = min(budget.ema_decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if preview and step % 1000 == 0:
            save_file(average.state_dict(), preview)
    return {name: value.contiguous() for name, value in average.state_dict().items()}


def save_pipeline(
    budget: Budget, vae: AutoencoderKL, weights: dict[str, torch.Tensor], out: Path
) -> None:
    """Write the float16 pipeline folder, the loader's notes and how it was made."""
    text = make_text_parts()
    model = Denoiser(make_unet(), text)
    model.load_state_dict(weights)
    pipeline = make_pipeline(vae, text, model.unet).to(torch.float16)
    pipeline.save_pretrained(out, safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2"):
        # Otherwise transformers would load these in the file's float16 and diffusers the rest in
        # float32, and a plain `from_pretrained` would fail at its first prompt.
        path = out / name / "config.json"
        config = json.loads(path.read_text())
        config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in out.rglob("*.safetensors"):
        # safetensors writes files that only their owner may read; these are to be installed.
        path.chmod(0o644)
    notes = {"cpu_threads": 1, "resolution": world.SIZE, "trained_with": asdict(budget)}
    (out / "loba.json").write_text(json.dumps(notes, indent=2) + "\n")


def run(budget: Budget, out: Path, work: Path, *, first_stage: str | None = None) -> None:
    """Run the stages whose results are missing, or all from `first_stage` on."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    redo = STAGES[STAGES.index(first_stage) :] if first_stage else ()

    def todo(stage: str) -> bool:
        return stage in redo or not (work / f"{stage}.safetensors").exists()

    vae = make_vae()
    if todo("vae"):
        vae = train_vae(budget)
        save_file(vae.state_dict(), work / "vae.safetensors")
    vae.load_state_dict(load_file(work / "vae.safetensors"))
    if todo("decoder"):
        save_file(train_decoder(budget, vae).state_dict(), work / "decoder.safetensors")
    vae.load_state_dict(load_file(work / "decoder.safetensors"))
    if todo("unet"):
        preview = work / "unet-preview.safetensors"
        save_file(train_unet(budget, vae, preview=preview), work / "unet.safetensors")
    save_pipeline(budget, vae, load_file(work / "unet.safetensors"), out)
    log.info("saved %s", out)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="train_shapes_xl", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--work", type=Path, help="results of stages; default: OUT-work")
    parser.add_argument("--from", dest="first_stage", choices=STAGES, help="do again from here")
    for name, default in asdict(Budget()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out, work, first_stage = (options.pop(name) for name in ("out", "work", "first_stage"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run(
        Budget(**options),
        out,
        work or out.with_name(f"{out.name}-work"),
        first_stage=first_stage,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
