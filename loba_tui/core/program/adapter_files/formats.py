"""Layers of an adapter, diffusers' form of them, and what files of every form say beside them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peft.utils.other import get_pattern_key
from torch import Tensor

from loba_tui.core.adapter_keys.names import DENOISERS
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_files.families import ARCHITECTURE_KEY, AdapterFamily

CONFIG_KEY = "lora_adapter_metadata"

EncoderLayers = Mapping[str, Mapping[str, "LoraLayer"]]
"""Layers of text encoders, by component and by module as files call it."""
NO_ENCODERS: EncoderLayers = MappingProxyType({})

DENOISER_PREFIXES = tuple(f"{component}." for component in DENOISERS)
"""What diffusers' keys of a denoiser's layers begin with."""

_TEXT_MODEL = "text_model."


@dataclass(frozen=True)
class LoraLayer:
    """The update of one module, W + (alpha / rank) up down.

    With a magnitude it is DoRA's: the rows of that sum, brought to these lengths.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return self.down.shape[0]

    def with_alpha_of_rank(self) -> LoraLayer:
        """Return the same update with alpha = rank, the factor multiplied into `up`.

        Exact where alpha / rank is a power of two; else each weight is rounded once, by at most
        half a unit in its last place.
        """
        if self.alpha == self.rank:
            return self
        up = (self.up.double() * (self.alpha / self.rank)).to(self.up.dtype)
        return replace(self, up=up, alpha=float(self.rank))


def diffusers_file(
    layers: Mapping[str, LoraLayer],
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
    family: AdapterFamily,
    encoders: EncoderLayers = NO_ENCODERS,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of diffusers' format.

    Each alpha is the rank: readers that do not know the configuration's key take no other.

    Args:
        layers: Of the denoiser; none where text encoders alone are adapted.
        config: The PEFT configuration of these.
    """
    packed: dict[str, Any] = {}
    if layers:
        packed |= _packed(layers, config, family.prefix)
    tensors = diffusers_tensors(folded(layers), family.prefix)
    for component, own in encoders.items():
        # Targets match by their ends: encoders have had `text_model.` before these, and have not.
        short = {name.removeprefix(_TEXT_MODEL): layer for name, layer in own.items()}
        packed |= _packed(short, {"peft_type": "LORA", **config_of(own)}, f"{component}.")
        tensors |= text_tensors(folded(own), f"{component}.")
    return tensors, {
        "format": "pt",
        "modelspec.implementation": "diffusers",
        **model_spec(metadata, family),
        **metadata,
        CONFIG_KEY: json.dumps(packed, sort_keys=True),
    }


def folded(layers: Mapping[str, LoraLayer]) -> dict[str, LoraLayer]:
    """Return the same updates with alpha = rank."""
    return {name: layer.with_alpha_of_rank() for name, layer in layers.items()}


def _packed(
    layers: Mapping[str, LoraLayer], config: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """Return a PEFT configuration for layers whose alphas are folded, as metadata holds it."""
    # PEFT shortens the list of targets to suffixes, by way of a set, and takes patterns that match
    # several layers; the exact names are the same in every process and to every reader.
    ranks = {_exact(n, layers): la.rank for n, la in layers.items() if la.rank != config["r"]}
    exact = {
        **jsonable(config),
        "target_modules": sorted(layers),
        "lora_alpha": float(config["r"]),
        "use_rslora": False,
        "rank_pattern": ranks,
        "alpha_pattern": {name: float(rank) for name, rank in ranks.items()},
    }
    return {f"{prefix}{name}": value for name, value in exact.items()}


def _exact(name: str, names: Iterable[str]) -> str:
    """Return a layer's name as PEFT's patterns have it; they match by the ends of names."""
    is_end = any(each.endswith(f".{name}") for each in names)
    return f"^{name}" if is_end else name


def model_spec(metadata: Mapping[str, str], family: AdapterFamily) -> dict[str, str]:
    """Return what every file says of its base model.

    By the model metadata standard (Stability-AI/ModelSpec), and by sd-scripts' entries: A1111 and
    its descendants know SD-XL and SD 2.x by those alone, and take all other files for SD 1.x.
    """
    is_unet = family.transformer is None
    return {
        "ss_base_model_version": family.base_version,
        **({"ss_v2": str(family.is_version_2)} if is_unet else {}),
        "modelspec.sai_model_spec": "1.0.0",
        ARCHITECTURE_KEY: f"{family.architecture}/lora",
        "modelspec.title": metadata.get("ss_output_name", "adapter"),
    }


def network_metadata(layers: Mapping[str, LoraLayer]) -> dict[str, str]:
    """Return the ss_network_* entries that kohya's tools show and resize by."""
    linear = [layer for layer in layers.values() if layer.down.ndim == 2]
    # A 1x1 convolution has the rank of linear layers; SD 1.x's projections are such.
    pointwise = [layer for layer in layers.values() if layer.down.shape[2:] == (1, 1)]
    conv = [layer for layer in layers.values() if max(layer.down.shape[2:], default=1) > 1]
    main = (linear or pointwise or conv)[0]
    arguments = {}
    if conv:
        arguments = {"conv_dim": str(conv[0].rank), "conv_alpha": f"{conv[0].alpha:g}"}
    is_dora = main.magnitude is not None
    if is_dora:
        arguments |= {"algo": "lora", "dora_wd": "True"}
    return {
        "ss_network_module": "lycoris.kohya" if is_dora else "networks.lora",
        "ss_network_dim": str(main.rank),
        "ss_network_alpha": f"{main.alpha:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
    }


def diffusers_tensors(layers: Mapping[str, LoraLayer], prefix: str) -> dict[str, Tensor]:
    """Return weights under diffusers' keys."""
    tensors = {}
    for module, layer in layers.items():
        tensors[f"{prefix}{module}.lora_A.weight"] = layer.down
        tensors[f"{prefix}{module}.lora_B.weight"] = layer.up
        if layer.magnitude is not None:
            tensors[f"{prefix}{module}.lora_magnitude_vector"] = layer.magnitude
    return tensors


def text_tensors(layers: Mapping[str, LoraLayer], prefix: str) -> dict[str, Tensor]:
    """Return weights of a text encoder under the keys that diffusers reads in all of its layers.

    Of PEFT's keys it takes those of attention alone, and refuses a file that has no others.
    """
    tensors = {}
    for module, layer in layers.items():
        tensors[f"{prefix}{module}.lora_linear_layer.down.weight"] = layer.down
        tensors[f"{prefix}{module}.lora_linear_layer.up.weight"] = layer.up
    return tensors


def layers_from_diffusers(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, LoraLayer]:
    """Return layers by module; without a configuration alpha is the rank."""
    layers = {}
    for key, down in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = bare(key.removesuffix(".lora_A.weight"))
        patterns = config.get("alpha_pattern") or {}
        alpha = patterns.get(
            get_pattern_key(patterns, module), config.get("lora_alpha", down.shape[0])
        )
        if config.get("use_rslora"):
            alpha *= math.sqrt(down.shape[0])
        up = tensors[key.replace(".lora_A.", ".lora_B.")]
        magnitude = tensors.get(key.replace(".lora_A.weight", ".lora_magnitude_vector"))
        layers[module] = LoraLayer(down, up, float(alpha), magnitude)
    return layers


def bare(key: str) -> str:
    """Return a key of diffusers' form without the denoiser's component."""
    prefix = next((each for each in DENOISER_PREFIXES if key.startswith(each)), "")
    return key.removeprefix(prefix)


def num_inputs(layers: Mapping[str, LoraLayer]) -> dict[str, int]:
    """Return how many inputs each layer has."""
    return {name: layer.down.shape[1] for name, layer in layers.items()}


def config_of(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Return the PEFT configuration that gives these layers these ranks and alphas."""
    (rank, _), *_ = Counter(layer.rank for layer in layers.values()).most_common(1)
    (alpha, _), *_ = Counter(layer.alpha for layer in layers.values()).most_common(1)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {_exact(n, layers): la.rank for n, la in layers.items() if la.rank != rank},
        "alpha_pattern": {
            _exact(n, layers): la.alpha for n, la in layers.items() if la.alpha != alpha
        },
        "target_modules": sorted(layers),
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
    }


def jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a PEFT configuration as JSON holds it: sets sorted, enumerations by value."""
    plain = {}
    for name, value in config.items():
        if isinstance(value, set | frozenset):
            value = sorted(value)
        plain[name] = getattr(value, "value", value)
    return plain


def not_an_adapter(path: Path, key: str) -> RecipeError:
    """Return the error for a file whose `key` belongs to neither format."""
    if key.startswith(("lora_te", "text_encoder")):
        return RecipeError(
            f"{path} also adapts text encoders ({key[:100]!r}), which are not adapted here.",
            "Only what changes the UNet alone can be drawn, measured and merged.",
        )
    return RecipeError(
        f"{path} is not a UNet's LoRA, LoCon, LoHa or LoKr in diffusers' or kohya's keys"
        f" ({key[:100]!r}).",
        "Name an adapter.safetensors or adapter.kohya.safetensors of a run.",
    )
