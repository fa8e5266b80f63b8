"""An adapter file in kohya's keys: from layers to tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from loba_tui.core.adapter_keys import kohya_keys
from loba_tui.core.program.adapter_files.families import SGM_URL, AdapterFamily
from loba_tui.core.program.adapter_files.formats import (
    CONFIG_KEY,
    NO_ENCODERS,
    EncoderLayers,
    LoraLayer,
    model_spec,
    network_metadata,
    not_an_adapter,
)


def kohya_file(
    layers: Mapping[str, LoraLayer],
    metadata: Mapping[str, str],
    family: AdapterFamily,
    encoders: EncoderLayers = NO_ENCODERS,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of kohya's format.

    The PEFT configuration is left out: diffusers refuses a file that has both it and alphas.

    Args:
        layers: Of the denoiser; none where text encoders alone are adapted.
    """
    tensors = {}
    named = {kohya_keys.to_kohya(module, family.layout): la for module, la in layers.items()}
    for component, own in encoders.items():
        named |= {_kohya_in_text(component, module, family): la for module, la in own.items()}
    for name, layer in named.items():
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
        if layer.magnitude is not None:
            tensors[f"{name}.dora_scale"] = layer.magnitude.reshape(-1, *[1] * (layer.up.ndim - 1))
    return tensors, {
        "format": "pt",
        "modelspec.implementation": "diffusers" if family.layout is None else SGM_URL,
        **model_spec(metadata, family),
        **network_metadata(layers or next(iter(encoders.values()))),
        **{name: value for name, value in metadata.items() if name != CONFIG_KEY},
    }


def bias_file(
    biases: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str], family: AdapterFamily
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a file of what biases of text encoders gain, by component.

    The keys are LyCORIS' for full differences, with `diff_b` for a bias.
    """
    return bias_tensors(biases, family), _plain_metadata(metadata, family)


def bias_tensors(
    biases: Mapping[str, Mapping[str, Tensor]], family: AdapterFamily
) -> dict[str, Tensor]:
    """Return what biases gain, by component and module, under LyCORIS' keys."""
    tensors = {}
    for component, gains in biases.items():
        for module, gain in gains.items():
            if component == "unet":
                name = kohya_keys.to_kohya(module, family.layout)
            else:
                name = _kohya_in_text(component, module, family)
            tensors[f"{name}.diff_b"] = gain
    return tensors


def _plain_metadata(metadata: Mapping[str, str], family: AdapterFamily) -> dict[str, str]:
    """Return what every file of kohya's form says, whatever layers it has."""
    return {
        "format": "pt",
        "modelspec.implementation": "diffusers" if family.layout is None else SGM_URL,
        **model_spec(metadata, family),
        **{name: value for name, value in metadata.items() if name != CONFIG_KEY},
    }


def _kohya_in_text(component: str, module: str, family: AdapterFamily) -> str:
    """Return what kohya's keys call a text encoder's module; they count where there are two."""
    number = "1" if component == "text_encoder" else "2"
    return f"lora_te{number if family.layout is not None else ''}_{module.replace('.', '_')}"


def layers_from_kohya(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, LoraLayer]:
    """Return layers by diffusers' module name; a file without alphas means alpha = rank."""
    layers = {}
    for key, down in tensors.items():
        name, _, kind = key.partition(".")
        try:
            module = kohya_keys.from_kohya(name)
            if kind == "lora_down.weight":
                if down.ndim < 2 or not down.numel():
                    raise KeyError(key)
                alpha = tensors.get(f"{name}.alpha", torch.tensor(float(down.shape[0])))
                if alpha.numel() != 1:
                    raise KeyError(key)
                # The shortest decimal of a float32: 0.7 comes back as 0.7.
                exact = float(f"{alpha.item():.7g}")
                up, magnitude = tensors[f"{name}.lora_up.weight"], tensors.get(f"{name}.dora_scale")
                if magnitude is not None:  # PEFT has the outputs second for a convolution
                    shape = (-1,) if up.ndim == 2 else (1, -1, 1, 1)
                    magnitude = magnitude.reshape(shape)
                layers[module] = LoraLayer(down, up, exact, magnitude)
            elif kind not in ("lora_up.weight", "alpha", "dora_scale"):
                raise KeyError(key)
        except KeyError as error:
            raise not_an_adapter(path, key) from error
    return layers
