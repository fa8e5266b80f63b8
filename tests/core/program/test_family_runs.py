"""Each family's shipped recipes, on a tiny model of its true architecture, from start to files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from program_runs import events, new_run, run_here
from tiny_families import RESOLUTION, save_tiny

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.run.directory import RunDir

MODELS = {
    "z-image": "z-image",
    "flux2-klein": "flux2-klein",
    "qwen-image": "qwen-image",
    "sd3": "sd3",
    "flux": "flux-dev",
}
"""The tiny model of each folder of recipes."""
OF_METHOD = {
    "slider": ["method.rollout_steps=3", "train.efficacy_every=2"],
    "leco": ["method.rollout_steps=3"],
    "lora": ["data.buckets.step=16", "data.workers=0"],
}
PROMPT = "a portrait of a sailor"


def finished(family: str, kind: str, tmp_path: Path) -> RunDir:
    """Train the recipe for two steps, small enough for a processor."""
    save_tiny(MODELS[family], tmp_path / "model")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        Image.new("RGB", (20, 20), (90 * number, 40, 200)).save(images / f"{number}.png")
        (images / f"{number}.txt").write_text(f"picture {number}")
    changes = [
        f"base_model.id={tmp_path / 'model'}",
        "base_model.device=cpu",
        "base_model.dtype=float32",
        f"train.resolution={RESOLUTION}",
        "train.steps=2",
        "train.gradient_accumulation=1",
        "sample.every=2",
        "sample.steps=2",
        "proof.enabled=false",
        *OF_METHOD[kind],
        *([f"data.sources.0.path={images}"] if kind == "lora" else []),
    ]
    path = shipped.folder() / family / f"{kind}.yaml"
    recipe = load_recipe(str(path), changes, plugins=SHIPPED)
    return run_here(recipe, new_run(recipe, tmp_path / "runs"))


def drawn(folder: Path, adapter: Path | None) -> torch.Tensor:
    """Draw with diffusers alone, and an adapter file as it reads it."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipeline.load_lora_weights(str(adapter.parent), weight_name=adapter.name)
    return pipeline(
        prompt=PROMPT,
        height=RESOLUTION,
        width=RESOLUTION,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


@pytest.mark.slow
@pytest.mark.parametrize("kind", OF_METHOD)
@pytest.mark.parametrize("family", MODELS)
def test_a_shipped_recipe_trains_and_diffusers_reads_its_adapter(
    family: str, kind: str, tmp_path: Path
):
    run = finished(family, kind, tmp_path)

    assert len(events(run, "sampled")) == 1
    folder = tmp_path / "model"
    base = drawn(folder, None)
    own = drawn(folder, run.adapter.path)
    comfy = drawn(folder, run.adapter.path.with_name("adapter.comfy.safetensors"))
    assert (own - base).abs().max() > 1e-4
    torch.testing.assert_close(comfy, own, rtol=0.0, atol=1e-5)
