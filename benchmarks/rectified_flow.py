"""A rectified-flow SD-XL, trained here from the embedded model, and what is learned on it.

The UNet and the text encoders of builtin:shapes-xl are trained on by flow matching (Liu et al.
2022, https://arxiv.org/abs/2209.03003): x = (1 - s) image + s noise, and the UNet, told 1,000 s,
says noise - image. The folder keeps the noise schedule of SD-XL, as checkpoints of this kind do
that come in one file: `base_model.prediction_type: flow` is what says how it is to be read. How
well it follows prompts is read off pixels, beside the same images read as noise predictions.

    python benchmarks/rectified_flow.py OUT [--steps 2000]
    loba run recipes/slider_unet.yaml --set base_model.id=OUT \
        --set base_model.prediction_type=flow \
        --set scheduler.noise.name=flow_match_euler --set sample.noise.name=flow_match_euler
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import sys
from pathlib import Path

import numpy as np
import shapes_xl
import torch
from diffusers import StableDiffusionXLPipeline
from torch.nn import functional

import loba_tui.models
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import NoScale
from loba_tui.core.program.sampling.images import sample_rows
from loba_tui.core.recipe.schema import SampleSection
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import TextParts
from loba_tui.models.training.autoencoder import encode_all
from loba_tui.models.training.denoiser import Denoiser, write_captions
from loba_tui.models.training.steps import Budget, draw_images, optimize

SHAPES_XL = Path(loba_tui.models.__file__).parent / "shapes-xl"
BUDGET = Budget(num_images=8_000)
EMPTY_RATE, ZEROED_RATE = 0.07, 0.06


def train(out: Path, steps: int, batch: int, lr: float) -> None:
    """Train the embedded model's UNet and text encoders by flow matching, and save it."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    pipeline = StableDiffusionXLPipeline.from_pretrained(SHAPES_XL)
    text = TextParts(
        pipeline.tokenizer, pipeline.tokenizer_2, pipeline.text_encoder, pipeline.text_encoder_2
    )
    model = Denoiser(pipeline.unet, text).train()
    average = copy.deepcopy(model).requires_grad_(False)
    images, scenes = draw_images(BUDGET.num_images, seed=11, radius_range=world.RADIUS_RANGE)
    captions = write_captions(scenes, text, BUDGET)
    latents = encode_all(pipeline.vae, images)

    def loss_of_step() -> torch.Tensor:
        def draw() -> torch.Tensor:
            return torch.rand(batch, generator=generator)

        picked = torch.randint(len(latents), (batch,), generator=generator)
        which = torch.randint(captions.ids.shape[1], (batch,), generator=generator)
        chance = draw()
        empty = (chance < EMPTY_RATE)[:, None]
        ids = torch.where(empty, captions.empty, captions.ids[picked, which])
        ids_2 = torch.where(empty, captions.empty_2, captions.ids_2[picked, which])
        slices = ((torch.arange(batch) + draw()) / batch).clamp(1e-4, 1 - 1e-4)
        levels = torch.sigmoid(torch.special.ndtri(slices))
        levels = torch.where(draw() < 0.2, draw(), levels)
        clean = latents[picked]
        noise = torch.randn(clean.shape, generator=generator)
        noisy = torch.lerp(clean, noise, levels[:, None, None, None])
        found = model(noisy, 1000 * levels, ids, ids_2, chance > 1 - ZEROED_RATE)
        return functional.mse_loss(found, noise - clean)

    def update(step: int) -> None:
        decay = min(0.99, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)

    optimize(
        "flow",
        list(model.parameters()),
        loss_of_step,
        num_steps=steps,
        lr=lr,
        betas=(0.9, 0.98),
        after_step=update,
    )
    model.load_state_dict(average.state_dict())
    pipeline.save_pretrained(out, safe_serialization=True)
    notes = {"cpu_threads": 1, "trained_with": {"steps": steps, "batch": batch, "lr": lr}}
    (out / "loba.json").write_text(json.dumps(notes, indent=2) + "\n")


def follows(folder: Path, prediction_type: str | None, num: int) -> str:
    """Return how many images show what their prompt says, as a row."""
    overrides = Overrides(prediction_type=prediction_type)
    container = ModelCache("cpu", torch.float32).container(str(folder), overrides=overrides)
    requests = shapes_xl.full_requests(num, np.random.default_rng(1000))
    noise = "flow_match_euler" if container.prediction_type == "flow" else "euler"
    images = sample_rows(
        container,
        NoScale(),
        container.encode_prompts([request.prompt for request in requests]),
        strength=1.0,
        seeds=list(range(1000, 1000 + num)),
        settings=SampleSection(
            steps=20, guidance_scale=4.0, batch_size=32, noise=Choice(name=noise)
        ),
        negative=container.empty_embeds(),
        plugins=SHIPPED,
    )
    found = [world.read(image) for image in images]
    shares = [
        shapes_xl.accuracy(requests, found, attribute)
        for attribute in ("color", "background", "shape")
    ]
    return f"| {container.prediction_type} | {' | '.join(f'{share:.3f}' for share in shares)} |"


def main() -> int:
    """Parse the command line, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--num", type=int, default=128, help="prompts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not (options.out / "model_index.json").is_file():
        train(options.out, options.steps, options.batch, options.lr)
    print(f"{options.num} fully specified prompts, 20 steps, guidance 4\n")
    print("| read as | colour | background | shape |\n|---|---|---|---|")
    for kind in ("flow", None):
        print(follows(options.out, kind, options.num), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
