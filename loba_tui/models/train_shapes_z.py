"""Train `builtin:shapes-z` from nothing: `python -m loba_tui.models.train_shapes_z --out DIR`.

Two stages, each leaving its result in the work folder:

    flow     transformer and text encoder jointly, by flow matching; kept every 500 steps
    save     everything in float16 as a `ZImagePipeline` folder

The VAE is that of `builtin:shapes-xl`. Counted in steps and never by the clock, on one thread: the
same machine gives the same bytes. A C++ compiler is needed, for `torch.compile`.
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
from loba_tui.models.shapes_z_parts import (
    make_pipeline,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
)
from loba_tui.models.training.flow_denoiser import Budget, FlowTraining
from loba_tui.models.training.flow_network import Denoiser

logger = logging.getLogger(__name__)

_SHAPES_XL = Path(__file__).parent / "shapes-xl"


def load_vae() -> AutoencoderKL:
    """Return the autoencoder of `builtin:shapes-xl`, in float32."""
    return AutoencoderKL.from_pretrained(_SHAPES_XL / "vae", torch_dtype=torch.float32)


def save_pipeline(budget: Budget, weights: dict[str, torch.Tensor], out: Path) -> None:
    """Write the float16 pipeline folder, the loader's notes and how it was made."""
    tokenizer = make_tokenizer()
    model = Denoiser(make_transformer(), make_text_encoder(tokenizer))
    model.load_state_dict(weights)
    pipeline = make_pipeline(load_vae(), tokenizer, model.text, model.transformer)
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    # Otherwise transformers would load the encoder in the file's float16, and diffusers the rest
    # in float32.
    path = out / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for path in out.rglob("*.safetensors"):
        # safetensors writes files that only their owner may read; these are to be installed.
        path.chmod(0o644)
    notes = {"cpu_threads": 1, "resolution": world.SIZE, "trained_with": asdict(budget)}
    (out / "loba.json").write_text(json.dumps(notes, indent=2) + "\n")


def run(budget: Budget, out: Path, work: Path) -> None:
    """Train, or go on where an earlier call with this work folder was interrupted, and save."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    weights = FlowTraining(budget, load_vae(), work).run()
    save_file(weights, work / "flow.safetensors")
    save_pipeline(budget, load_file(work / "flow.safetensors"), out)
    logger.info("saved %s", out)


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="train_shapes_z", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--work", type=Path, help="the state of training; default: OUT-work")
    for name, default in asdict(Budget()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    options = vars(parser.parse_args(arguments))
    out, work = options.pop("out"), options.pop("work")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run(Budget(**options), out, work or out.with_name(f"{out.name}-work"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
