"""Train `builtin:shapes-clip`: `python -m loba_tui.models.train_shapes_clip --out DIR`.

A CLIP (https://arxiv.org/abs/2103.00020) of transformers' own class, from nothing, for the drawn
world: images and captions of `training/captioned_scenes.py`, and the symmetric cross-entropy over
a batch. Half of the images went through the VAE of `builtin:shapes-xl`, whose images it is to read.
Counted in steps and never by the clock, on one thread, with generators of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import make_tokenizer
from loba_tui.models.training.captioned_scenes import Shown, caption, disturbed, draw, random_scene
from loba_tui.models.training.steps import optimize

logger = logging.getLogger(__name__)

MEAN, STD = (0.45, 0.4, 0.4), (0.3, 0.28, 0.3)


@dataclass(frozen=True)
class Budget:
    """How much of everything; the defaults are those of the weights in the repository."""

    seed: int = 0
    num_images: int = 10_000
    captions_per_image: int = 8
    steps: int = 1_500
    batch: int = 192
    lr: float = 1.5e-3
    latent_noise: float = 0.3
    pixel_noise: float = 0.03


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return a fresh CLIP of half a million parameters: three layers for images, two for texts."""
    config = CLIPConfig(
        projection_dim=64,
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": 64,
        },
        vision_config={
            "image_size": world.SIZE,
            "patch_size": 8,
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "projection_dim": 64,
        },
    )
    return CLIPModel(config)


def train(budget: Budget) -> tuple[CLIPModel, CLIPTokenizer]:
    """Train a fresh model."""
    torch.manual_seed(budget.seed)
    rng = np.random.default_rng(budget.seed)
    generator = torch.Generator().manual_seed(budget.seed)
    tokenizer = make_tokenizer("<|endoftext|>")
    model = make_model(tokenizer)
    scenes = [random_scene(rng) for _ in range(budget.num_images)]
    images = pictures(scenes, budget, rng)
    texts = [caption(scene, rng) for scene in scenes for _ in range(budget.captions_per_image)]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    logger.info("%d images, captions of at most %d tokens", len(images), tokens.input_ids.shape[1])

    def loss_of_step() -> torch.Tensor:
        picked = torch.randint(len(images), (budget.batch,), generator=generator)
        which = torch.randint(budget.captions_per_image, (budget.batch,), generator=generator)
        row = picked * budget.captions_per_image + which
        pixels = images[picked].float() / 255
        strength = torch.rand((budget.batch, 1, 1, 1), generator=generator) * budget.pixel_noise
        pixels = pixels + torch.randn(pixels.shape, generator=generator) * strength
        output = model(
            pixel_values=normalised(pixels),
            input_ids=tokens.input_ids[row],
            attention_mask=tokens.attention_mask[row],
        )
        logits, truth = output.logits_per_image, torch.arange(budget.batch)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    trained = list(model.parameters())
    optimize("clip", trained, loss_of_step, num_steps=budget.steps, lr=budget.lr, betas=(0.9, 0.98))
    return model.eval(), tokenizer


def pictures(scenes: list[Shown], budget: Budget, rng: np.random.Generator) -> torch.Tensor:
    """Return the images (n, 3, 32, 32) uint8 of scenes, disturbed as `disturbed` says."""
    drawn = np.stack([np.rint(draw(scene) * 255).astype(np.uint8) for scene in scenes])
    images = torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous()
    folder = resources.files("loba_tui.models") / "shapes-xl" / "vae"
    vae = AutoencoderKL.from_pretrained(str(folder), torch_dtype=torch.float32).eval()
    return disturbed(images, vae, rng, most_noise=budget.latent_noise)


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Return pixels in [0, 1] as the model takes them."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def save(model: CLIPModel, tokenizer: CLIPTokenizer, budget: Budget, out: Path) -> None:
    """Write model, tokenizer, image processor and how it was made, weights in float16."""
    model.to(torch.float16).save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"  # of use, not of the file
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(out)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": world.SIZE},
        crop_size={"height": world.SIZE, "width": world.SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    processor.save_pretrained(out)
    (out / "loba.json").write_text(json.dumps({"trained_with": asdict(budget)}, indent=2) + "\n")
    # safetensors writes files that only their owner may read; these are to be installed.
    (out / "model.safetensors").chmod(0o644)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="train_shapes_clip", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the model's folder")
    for name, default in asdict(Budget()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out = options.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    budget = Budget(**options)
    model, tokenizer = train(budget)
    save(model, tokenizer, budget, out)
    logger.info("saved %s", out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
