"""Tiny image models with random weights, saved as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from loba_tui.core.associate.image_models.lpips import Vgg
from loba_tui.models.shapes_xl_parts import make_tokenizer

WIDTH = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}


def save_tiny_clip(folder: Path) -> CLIPModel:
    """Save a CLIP for 24 pixels, and return it."""
    tokenizer = make_tokenizer("<|endoftext|>")
    text = {**WIDTH, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    text |= {"max_position_embeddings": 12, "eos_token_id": tokenizer.eos_token_id}
    vision = {**WIDTH, "num_attention_heads": 2, "image_size": 24, "patch_size": 8}
    config = CLIPConfig(projection_dim=8, text_config=text, vision_config=vision)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}
    ).save_pretrained(folder)
    return model


def save_tiny_dino(folder: Path) -> Dinov2Model:
    """Save a DINOv2 for a crop of 28 pixels out of 32, and return it."""
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28)
    model = Dinov2Model(config).eval()
    model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=3,
    ).save_pretrained(folder)
    return model


def save_random_vgg(folder: Path) -> dict[str, torch.Tensor]:
    """Save the weights of a VGG-16, head left out, and return them."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in Vgg().state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "vgg16"}))
    return state
