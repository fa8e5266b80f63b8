"""SD-XL's architecture with half the layers of shapes-xl, and random weights."""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DConditionModel

from loba_tui.models.shapes_xl_parts import make_pipeline, make_text_parts, make_unet, make_vae


def save_small_sdxl(folder: Path) -> None:
    """Write its diffusers folder; its tokenizers know the words of shapes-xl."""
    unet = UNet2DConditionModel(
        **{
            **make_unet().config,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (16, 32),
            "layers_per_block": 1,
            "transformer_layers_per_block": (1, 1),
            "attention_head_dim": (2, 4),
        }
    )
    make_pipeline(make_vae(), make_text_parts(), unet).save_pretrained(folder)
