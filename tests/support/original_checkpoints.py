"""Writes diffusers pipelines as checkpoints of one file, with the names of the first code.

The names are made by following the order of the original modules, not by the tables of the program,
so that either can show a mistake of the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]
_VAE_RESNET = [("conv_shortcut", "nin_shortcut")]
_VAE_ATTENTION = [
    ("group_norm", "norm"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
]


def _moved(state: Mapping[str, Tensor], old: str, new: str, table: Any = ()) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        if key.startswith(f"{old}."):
            rest = key[len(old) + 1 :]
            for mine, theirs in table:
                rest = re.sub(rf"^{re.escape(mine)}\.", f"{theirs}.", rest)
            found[f"{new}.{rest}"] = value
    return found


def original_unet(unet: Any) -> dict[str, Tensor]:
    """Return a UNet's weights by the names of openaimodel.py, without a prefix."""
    state, out = unet.state_dict(), {}
    for old, new in (
        ("conv_in", "input_blocks.0.0"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
    ):
        out |= _moved(state, old, new)
    at = 1
    for i, block in enumerate(unet.down_blocks):
        for j in range(len(block.resnets)):
            here = f"down_blocks.{i}"
            out |= _moved(state, f"{here}.resnets.{j}", f"input_blocks.{at}.0", _RESNET)
            out |= _moved(state, f"{here}.attentions.{j}", f"input_blocks.{at}.1")
            at += 1
        if block.downsamplers:
            out |= _moved(state, f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{at}.0.op")
            at += 1
    out |= _moved(state, "mid_block.resnets.0", "middle_block.0", _RESNET)
    out |= _moved(state, "mid_block.attentions.0", "middle_block.1")
    out |= _moved(state, "mid_block.resnets.1", "middle_block.2", _RESNET)
    at = 0
    for i, block in enumerate(unet.up_blocks):
        has_attention = bool(getattr(block, "attentions", None))
        for j in range(len(block.resnets)):
            here = f"up_blocks.{i}"
            out |= _moved(state, f"{here}.resnets.{j}", f"output_blocks.{at}.0", _RESNET)
            out |= _moved(state, f"{here}.attentions.{j}", f"output_blocks.{at}.1")
            if block.upsamplers and j == len(block.resnets) - 1:
                part = 2 if has_attention else 1
                old = f"up_blocks.{i}.upsamplers.0.conv"
                out |= _moved(state, old, f"output_blocks.{at}.{part}.conv")
            at += 1
    assert len(out) == len(state)
    return out


def original_vae(vae: Any) -> dict[str, Tensor]:
    """Return a VAE's weights by the names of autoencoder.py; matrices become 1×1 convolutions."""
    state, out = vae.state_dict(), {}
    for old in ("quant_conv", "post_quant_conv"):
        out |= _moved(state, old, old)
    for side in ("encoder", "decoder"):
        out |= _moved(state, f"{side}.conv_in", f"{side}.conv_in")
        out |= _moved(state, f"{side}.conv_out", f"{side}.conv_out")
        out |= _moved(state, f"{side}.conv_norm_out", f"{side}.norm_out")
        mid = f"{side}.mid_block"
        out |= _moved(state, f"{mid}.resnets.0", f"{side}.mid.block_1", _VAE_RESNET)
        out |= _moved(state, f"{mid}.resnets.1", f"{side}.mid.block_2", _VAE_RESNET)
        attention = _moved(state, f"{mid}.attentions.0", f"{side}.mid.attn_1", _VAE_ATTENTION)
        out |= {
            key: value[:, :, None, None] if value.ndim == 2 else value
            for key, value in attention.items()
        }
    count = len(vae.decoder.up_blocks)
    for i in range(count):
        for j in range(len(vae.encoder.down_blocks[i].resnets)):
            old = f"encoder.down_blocks.{i}.resnets.{j}"
            out |= _moved(state, old, f"encoder.down.{i}.block.{j}", _VAE_RESNET)
        old = f"encoder.down_blocks.{i}.downsamplers.0.conv"
        out |= _moved(state, old, f"encoder.down.{i}.downsample.conv")
        for j in range(len(vae.decoder.up_blocks[i].resnets)):
            old = f"decoder.up_blocks.{i}.resnets.{j}"
            out |= _moved(state, old, f"decoder.up.{count - 1 - i}.block.{j}", _VAE_RESNET)
        old = f"decoder.up_blocks.{i}.upsamplers.0.conv"
        out |= _moved(state, old, f"decoder.up.{count - 1 - i}.upsample.conv")
    assert len(out) == len(state)
    return out


def original_clip(encoder: Any) -> dict[str, Tensor]:
    """Return a text encoder's weights as older versions of transformers named them."""
    state = encoder.state_dict()
    return {f"text_model.{key.removeprefix('text_model.')}": value for key, value in state.items()}


def original_open_clip(encoder: Any) -> dict[str, Tensor]:
    """Return a text encoder's weights as OpenCLIP has them: query, key and value in one matrix."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    out = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in state:
        out["text_projection"] = state["text_projection.weight"].T.contiguous()
    num_layers = encoder.config.num_hidden_layers
    for i in range(num_layers):
        old, new = f"encoder.layers.{i}", f"transformer.resblocks.{i}"
        for what in ("weight", "bias"):
            parts = [state[f"{old}.self_attn.{each}_proj.{what}"] for each in "qkv"]
            out[f"{new}.attn.in_proj_{what}"] = torch.cat(parts)
            for mine, theirs in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                out[f"{new}.{theirs}.{what}"] = state[f"{old}.{mine}.{what}"]
    return out


def original_state(pipeline: Any, *, open_clip: bool = False) -> dict[str, Tensor]:
    """Return all weights of a pipeline as a checkpoint of its family has them.

    Args:
        open_clip: Whether an SD's text encoder is written as SD 2.x has it.
    """
    out = {f"model.diffusion_model.{k}": v for k, v in original_unet(pipeline.unet).items()}
    out |= {f"first_stage_model.{k}": v for k, v in original_vae(pipeline.vae).items()}
    if hasattr(pipeline, "text_encoder_2"):
        first = original_clip(pipeline.text_encoder)
        out |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in first.items()}
        second = original_open_clip(pipeline.text_encoder_2)
        out |= {f"conditioner.embedders.1.model.{k}": v for k, v in second.items()}
    elif open_clip:
        state = original_open_clip(pipeline.text_encoder)
        out |= {f"cond_stage_model.model.{k}": v for k, v in state.items()}
    else:
        state = original_clip(pipeline.text_encoder)
        out |= {f"cond_stage_model.transformer.{k}": v for k, v in state.items()}
    return out


def save_original(
    state: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype = torch.float32,
    *,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a checkpoint, floating point weights in a dtype."""
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().clone()
        for key, value in state.items()
    }
    save_file(tensors, path, metadata)
    return path
