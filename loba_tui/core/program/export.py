"""A trained adapter as the two files that other tools load, back again, and between the two.

`adapter.safetensors` has diffusers' keys and the PEFT configuration in its metadata, without which
diffusers takes alpha for the rank. `adapter.kohya.safetensors` has kohya's keys, and the true alpha
of every layer: diffusers' own converter writes the rank there, which makes a rank-4 alpha-1 slider
four times too strong.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.program import kohya_keys
from loba_tui.core.program.adapter_file import (
    WrittenFile,
    check_weights,
    read_file,
    serialize,
    write_file,
)
from loba_tui.core.program.kohya_keys import SDXL_LAYOUT, BlockLayout

DIFFUSERS_NAME = "adapter.safetensors"
KOHYA_NAME = "adapter.kohya.safetensors"
AdapterFormat = Literal["diffusers", "kohya"]

_CONFIG_KEY = "lora_adapter_metadata"
_UNET = "unet."
_ARCHITECTURE = "stable-diffusion-xl-v1-base/lora"


@dataclass(frozen=True)
class LoraLayer:
    """The update of one module, W + (alpha / rank) up down."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Columns of `up`."""
        return self.down.shape[0]


def write_adapter(
    unet: nn.Module,
    folder: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    adapter_name: str = "default",
) -> dict[str, WrittenFile]:
    """Write a UNet's adapter in both formats and read both back.

    The same weights and metadata give the same bytes.

    Args:
        unet: A diffusers UNet with a PEFT LoRA on it.
        folder: Where to; made if it is not there.
        metadata: What both files carry beside their own: recipe, base model, provenance.
        adapter_name: Which of the UNet's adapters.

    Returns:
        The written files by format, "diffusers" and "kohya".

    Raises:
        NumericsError: A weight is not finite, or all are zero.
        RecipeError: The adapter is of a kind these formats cannot hold.
    """
    config = unet.peft_config[adapter_name].to_dict()
    layers = _lora_layers(unet, adapter_name, config)
    layout = BlockLayout.of(unet.config)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "diffusers": (DIFFUSERS_NAME, _diffusers_file(layers, config, metadata or {})),
        "kohya": (KOHYA_NAME, _kohya_file(layers, metadata or {}, layout)),
    }
    return {kind: write_file(folder / name, *content) for kind, (name, content) in files.items()}


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Read an adapter file of either format.

    Returns:
        The weights under diffusers' keys (`unet.<module>.lora_A.weight`), the PEFT configuration
        they belong to, and the file's other metadata.

    Raises:
        RecipeError: No such file, or not an adapter of a UNet alone.
        CorruptError: It is damaged.
    """
    tensors, metadata = read_file(path)
    if any(name.startswith(kohya_keys.PREFIX) for name in tensors):
        layers = _layers_from_kohya(path, tensors)
        return _diffusers_tensors(layers), _config_of(layers), metadata
    if not tensors or not all(n.startswith(_UNET) and ".lora_" in n for n in tensors):
        raise _not_an_adapter(path, next(iter(tensors), "nothing"))
    packed = json.loads(metadata.pop(_CONFIG_KEY, "{}"))
    config = {name.removeprefix(_UNET): value for name, value in packed.items()}
    # A file without a configuration means alpha = rank by diffusers' convention.
    return tensors, config or _config_of(_layers_from_diffusers(tensors, {})), metadata


def convert(path: Path, to: AdapterFormat, destination: Path | None = None) -> Path:
    """Write an adapter file in the other format.

    Args:
        path: An adapter file of either format.
        to: The format to write.
        destination: Where to; None puts it beside `path`, `.kohya` in its name or not.

    Returns:
        The file that was written, or found there with the same content.
    """
    tensors, config, metadata = read_adapter(path)
    layers = _layers_from_diffusers(tensors, config)
    # What says which format a file is in is written anew; everything else is carried over.
    carried = {k: v for k, v in metadata.items() if not k.startswith(("modelspec.", "ss_network_"))}
    content = (
        _diffusers_file(layers, config, carried)
        if to == "diffusers"
        else _kohya_file(layers, carried, SDXL_LAYOUT)
    )
    if destination is None:
        stem = path.name.removesuffix(".safetensors").removesuffix(".kohya")
        suffix = ".kohya.safetensors" if to == "kohya" else ".safetensors"
        destination = path.with_name(stem + suffix)
    if destination.exists():
        check_weights(content[0])
        if destination.read_bytes() == serialize(*content):
            return destination
        raise RecipeError(
            f"{destination} is there already, with other content.", "Name another file."
        )
    return write_file(destination, *content).path


def load_adapter(container: ModelContainer, path: Path, adapter_name: str = "default") -> None:
    """Put an adapter file on a container's denoiser through diffusers' own loader.

    Args:
        container: A model without an adapter of that name.
        path: A .safetensors file, ours or of any tool that diffusers reads.
        adapter_name: What PEFT calls it from then on.

    Raises:
        RecipeError: There is no such file, or it is no adapter for this model.
        CorruptError: It is damaged.
        NumericsError: A weight is not finite, or all are zero.
    """
    tensors, _ = read_file(path)
    check_weights(tensors)
    pipeline = container.pipeline
    try:
        # Given as folder and name: diffusers asks the hub about a path that it does not find.
        state_dict, alphas, config = pipeline.lora_state_dict(
            str(path.parent.resolve()),
            weight_name=path.name,
            local_files_only=True,
            unet_config=container.denoiser.config,
            return_lora_metadata=True,
        )
        if not all(name.startswith(_UNET) for name in state_dict):
            raise _not_an_adapter(path, next(n for n in state_dict if not n.startswith(_UNET)))
        pipeline.load_lora_into_unet(
            state_dict,
            network_alphas=alphas,
            unet=container.denoiser,
            adapter_name=adapter_name,
            metadata=config,
            _pipeline=pipeline,
        )
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RecipeError(
            f"{path} is not an adapter for this model: {str(error).strip().splitlines()[0][:300]}",
            "Name an adapter trained on the same architecture.",
        ) from error


def _lora_layers(
    unet: nn.Module, adapter_name: str, config: Mapping[str, Any]
) -> dict[str, LoraLayer]:
    """Return the adapter's layers by module name, in the UNet's order."""
    weights = get_peft_model_state_dict(unet, adapter_name=adapter_name)
    extra = {name for name in weights if not name.endswith(("lora_A.weight", "lora_B.weight"))}
    if config["peft_type"] != "LORA" or extra or config["use_dora"]:
        kind = "DoRA" if config["use_dora"] else config["peft_type"]
        raise RecipeError(f"A {kind} adapter cannot be exported as LoRA.", "Use lora or locon.")
    layers = {}
    for name, module in unet.named_modules():
        if isinstance(module, BaseTunerLayer) and adapter_name in module.r:
            alpha, rank = module.lora_alpha[adapter_name], module.r[adapter_name]
            layers[name] = LoraLayer(
                down=weights[f"{name}.lora_A.weight"].detach(),
                up=weights[f"{name}.lora_B.weight"].detach(),
                # These formats scale by alpha / rank; rank-stabilised LoRA by alpha / sqrt(rank).
                alpha=float(alpha) * (math.sqrt(rank) if config["use_rslora"] else 1.0),
            )
    return layers


def _diffusers_file(
    layers: Mapping[str, LoraLayer], config: Mapping[str, Any], metadata: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of diffusers' format."""
    # PEFT shortens the list of targets to suffixes, by way of a set; the exact names are the same
    # in every process.
    exact = {**_jsonable(config), "target_modules": sorted(layers)}
    packed = {f"{_UNET}{name}": value for name, value in exact.items()}
    return _diffusers_tensors(layers), {
        "format": "pt",
        "modelspec.implementation": "diffusers",
        **_model_spec(metadata),
        **metadata,
        _CONFIG_KEY: json.dumps(packed, sort_keys=True),
    }


def _kohya_file(
    layers: Mapping[str, LoraLayer], metadata: Mapping[str, str], layout: BlockLayout
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of kohya's format.

    The PEFT configuration is left out: diffusers refuses a file that has both it and alphas.
    """
    tensors = {}
    for module, layer in layers.items():
        name = kohya_keys.to_kohya(module, layout)
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    return tensors, {
        "format": "pt",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        **_model_spec(metadata),
        **_network_metadata(layers),
        "ss_base_model_version": "sdxl_base_v1-0",
        **{name: value for name, value in metadata.items() if name != _CONFIG_KEY},
    }


def _model_spec(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what every file says by the model metadata standard (Stability-AI/ModelSpec)."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _ARCHITECTURE,
        "modelspec.title": metadata.get("ss_output_name", "adapter"),
    }


def _network_metadata(layers: Mapping[str, LoraLayer]) -> dict[str, str]:
    """Return the ss_network_* entries that kohya's tools show and resize by."""
    linear = [layer for layer in layers.values() if layer.down.ndim == 2]
    conv = [layer for layer in layers.values() if layer.down.ndim == 4]
    main = (linear or conv)[0]
    arguments = {}
    if conv:
        arguments = {"conv_dim": str(conv[0].rank), "conv_alpha": f"{conv[0].alpha:g}"}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(main.rank),
        "ss_network_alpha": f"{main.alpha:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
    }


def _diffusers_tensors(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    tensors = {}
    for module, layer in layers.items():
        tensors[f"{_UNET}{module}.lora_A.weight"] = layer.down
        tensors[f"{_UNET}{module}.lora_B.weight"] = layer.up
    return tensors


def _layers_from_diffusers(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, LoraLayer]:
    """Return layers by module; without a configuration alpha is the rank."""
    layers = {}
    for key, down in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight").removeprefix(_UNET)
        alpha = config.get("alpha_pattern", {}).get(module, config.get("lora_alpha", down.shape[0]))
        if config.get("use_rslora"):
            alpha *= math.sqrt(down.shape[0])
        layers[module] = LoraLayer(down, tensors[key.replace(".lora_A.", ".lora_B.")], float(alpha))
    return layers


def _layers_from_kohya(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, LoraLayer]:
    """Return layers by diffusers' module name; a file without alphas means alpha = rank."""
    layers = {}
    for key, down in tensors.items():
        name, _, kind = key.partition(".")
        try:
            module = kohya_keys.from_kohya(name)
            if kind == "lora_down.weight":
                alpha = tensors.get(f"{name}.alpha", torch.tensor(float(down.shape[0])))
                # The shortest decimal of a float32: 0.7 comes back as 0.7.
                exact = float(f"{alpha.item():.7g}")
                layers[module] = LoraLayer(down, tensors[f"{name}.lora_up.weight"], exact)
            elif kind not in ("lora_up.weight", "alpha"):
                raise KeyError(key)
        except KeyError as error:
            raise _not_an_adapter(path, key) from error
    return layers


def _config_of(layers: Mapping[str, LoraLayer]) -> dict[str, Any]:
    """Return the PEFT configuration that gives these layers these ranks and alphas."""
    (rank, _), *_ = Counter(layer.rank for layer in layers.values()).most_common(1)
    (alpha, _), *_ = Counter(layer.alpha for layer in layers.values()).most_common(1)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {n: la.rank for n, la in layers.items() if la.rank != rank},
        "alpha_pattern": {n: la.alpha for n, la in layers.items() if la.alpha != alpha},
        "target_modules": sorted(layers),
    }


def _jsonable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a PEFT configuration as JSON holds it: sets sorted, enumerations by value."""
    plain = {}
    for name, value in config.items():
        if isinstance(value, set | frozenset):
            value = sorted(value)
        plain[name] = getattr(value, "value", value)
    return plain


def _not_an_adapter(path: Path, key: str) -> RecipeError:
    return RecipeError(
        f"{path} is not a UNet's LoRA or LoCon in diffusers' or kohya's keys ({key[:100]!r}).",
        "Name an adapter.safetensors or adapter.kohya.safetensors of a run.",
    )
