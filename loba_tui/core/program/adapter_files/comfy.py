"""A transformer's LoRA under keys that ComfyUI and diffusers' `load_lora_weights` both take.

| family | keys |
|---|---|
| Z-Image, Qwen-Image | `diffusion_model.`, diffusers' names, and an alpha a layer |
| FLUX.1 | `transformer.`, diffusers' names, and the alpha where all layers have the same |
| SD 3 | `transformer.`, diffusers' names; diffusers refuses a file with alphas |
| FLUX.2 | `diffusion_model.`, black-forest-labs' names; diffusers refuses a file with alphas |

Where one matrix of the first implementation has several of diffusers' modules, their updates are
put side by side: B is block-diagonal, and A has the rows of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from loba_tui.core.adapter_keys.transformers.families import TransformerFamily
from loba_tui.core.adapter_keys.transformers.layout import Original, TransformerLayout
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.families import AdapterFamily
from loba_tui.core.program.adapter_files.formats import (
    CONFIG_KEY,
    NO_ENCODERS,
    EncoderLayers,
    LoraLayer,
    folded,
    model_spec,
    network_metadata,
    text_tensors,
)
from loba_tui.core.program.adapter_files.kohya import kohya_file


def other_file(
    layers: Mapping[str, LoraLayer],
    metadata: Mapping[str, str],
    family: AdapterFamily,
    encoders: EncoderLayers = NO_ENCODERS,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a family's file for other tools than diffusers."""
    if family.transformer is None:
        return kohya_file(layers, metadata, family, encoders)
    return _comfy_file(layers, metadata, family, family.transformer, encoders)


def require_kohya(family: AdapterFamily) -> None:
    """Raise `RecipeError` for a transformer, which kohya's keys are not written for."""
    if family.transformer is not None:
        raise RecipeError(
            "kohya's keys name the layers of a UNet, and this adapter is for"
            f" {family.transformer.name}.",
            "Take --format comfy, which ComfyUI and diffusers read.",
        )


def _comfy_file(
    layers: Mapping[str, LoraLayer],
    metadata: Mapping[str, str],
    family: AdapterFamily,
    transformer: TransformerFamily,
    encoders: EncoderLayers,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    keys = transformer.comfy
    num_alphas = len({layer.alpha for layer in layers.values()})
    has_alpha = keys.alphas == "any" or (keys.alphas == "alike" and num_alphas == 1)
    own = dict(layers) if has_alpha else folded(layers)
    named = _by_original(own, transformer.layout) if keys.are_original else own
    tensors: dict[str, Tensor] = {}
    for name, layer in named.items():
        tensors[f"{keys.prefix}{name}.lora_A.weight"] = layer.down
        tensors[f"{keys.prefix}{name}.lora_B.weight"] = layer.up
        if has_alpha:
            tensors[f"{keys.prefix}{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    for component, in_text in encoders.items():
        tensors |= text_tensors(folded(in_text), f"{component}.")
    return tensors, {
        "format": "pt",
        "modelspec.implementation": "diffusers",
        **model_spec(metadata, family),
        **network_metadata(own or next(iter(encoders.values()))),
        **{name: value for name, value in metadata.items() if name != CONFIG_KEY},
    }


def _by_original(
    layers: Mapping[str, LoraLayer], layout: TransformerLayout
) -> dict[str, LoraLayer]:
    """Return layers whose alphas are their ranks by the first implementation's names."""
    together: dict[str, list[tuple[Original, LoraLayer]]] = {}
    for module, layer in layers.items():
        original = layout.original(module)
        together.setdefault(original.name, []).append((original, layer))
    return {name: _joined(members) for name, members in together.items()}


def _joined(members: Iterable[tuple[Original, LoraLayer]]) -> LoraLayer:
    """Return the update of a matrix of which each member has some rows."""
    downs, ups = [], []
    for original, layer in members:
        rows = layer.up.shape[0]
        if original.share is not None:
            first, end = original.share
            rows = int(rows / (end - first))
        spans = original.spans(rows, layer.down.shape[1]) or ((0, rows),)
        order = torch.cat([torch.arange(*span) for span in spans])
        up = layer.up.new_zeros(rows, *layer.up.shape[1:])
        up[order.to(up.device)] = layer.up
        downs.append(layer.down)
        ups.append(up)
    down = torch.cat(downs)
    return LoraLayer(down, torch.cat(ups, dim=1), float(down.shape[0]))
