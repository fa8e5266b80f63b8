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
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import make_pipeline, make_text_parts, make_unet, make_vae
from loba_tui.models.training.autoencoder import train_decoder, train_vae
from loba_tui.models.training.denoiser import Denoiser, train_unet
from loba_tui.models.training.steps import Budget

logger = logging.getLogger(__name__)

STAGES = ("vae", "decoder", "unet", "save")


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
    logger.info("saved %s", out)


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
    work = work or out.with_name(f"{out.name}-work")
    run(Budget(**options), out, work, first_stage=first_stage)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
