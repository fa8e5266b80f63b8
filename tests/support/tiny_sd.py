"""A pipeline of SD 1.x architecture that is small enough for tests."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import (
    DiffusionPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)

from loba_tui.models.shapes_xl_parts import make_text_parts, make_vae


def open_plain(folder: Path) -> DiffusionPipeline:
    """Open a pipeline with diffusers alone, without what is a stand-in in `save_tiny_sd`."""
    pipeline = DiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def make_sd_unet() -> UNet2DConditionModel:
    """SD 1.x's block types, convolutions for projections, and nothing told but the prompt."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=48,
        norm_num_groups=8,
    )


def save_tiny_sd(folder: Path) -> None:
    """Save it as the hub has SD 1.x: with an entry for a safety checker whose weights are large."""
    text, vae = make_text_parts(), make_vae()
    vae.register_to_config(force_upcast=True)  # what diffusers takes where a configuration is older
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text.text_encoder,
        tokenizer=text.tokenizer,
        unet=make_sd_unet(),
        scheduler=PNDMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            skip_prk_steps=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    del index["requires_safety_checker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"not to be opened")
