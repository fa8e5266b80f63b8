"""Put an adapter file of any form on a model.

What PEFT can hold is held by PEFT, as in training: LoRA, DoRA, LoHa, LoKr and OFT of one kind in
the whole file. Everything else is added beside it (`adapter_layers.added`), layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusers.utils import convert_unet_state_dict_to_peft
from peft.tuners.lokr.layer import factorization
from torch import Tensor, nn

from loba_tui.core.adapter_keys.families import SD_1, SD_2, SD_XL, Family
from loba_tui.core.adapter_keys.names import DENOISERS
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.file_sources import Source
from loba_tui.core.program.adapter_files.adapter import adapter_in
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.formats import (
    CONFIG_KEY,
    LoraLayer,
    bare,
    config_of,
    diffusers_tensors,
)
from loba_tui.core.program.adapter_files.lycoris import files as adapter_lycoris
from loba_tui.core.program.adapter_files.read.changes import Dora, LowRank
from loba_tui.core.program.adapter_files.read.layers import AdapterFile, AdapterLayer
from loba_tui.core.program.adapter_files.read.multiplicative import InputRotation
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.added import add_layers, base_of, check_host, host_named

_LOADED_CONFIG = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "use_rslora",
    "use_dora",
)
_WIDTHS = {768: SD_1, 1024: SD_2}
_PeftState = tuple[Mapping[str, Tensor], dict[str, Any]]


def load_adapter(
    container: ModelContainer, source: Source, adapter_name: str = "default"
) -> AdapterFile:
    """Read an adapter file of any form and put what it has for the denoiser on a container's.

    Its weights keep their precision over a base of any dtype, as they were trained.

    Args:
        container: A model without an adapter of that name.

    Raises:
        RecipeError: There is no such file, or it is no adapter for this model.
        CorruptError: It is damaged, or contradicts itself.
        NumericsError: A weight is not finite.
    """
    file = read_adapter_file(source)
    attach_to_denoiser(container, file, adapter_name)
    return file


def attach_to_denoiser(
    container: ModelContainer,
    file: AdapterFile,
    adapter_name: str = "default",
    *,
    peft: bool = True,
) -> bool:
    """Put the denoiser's layers of a file that was read on a model; say whether PEFT holds them.

    Args:
        peft: Let PEFT hold what it can; else all is added beside it.

    Raises:
        RecipeError: It is no adapter for this model.
    """
    check_family(container, file)
    layers = file.denoiser_layers
    if not layers:
        return False
    denoiser = container.denoiser
    try:
        for name, layer in layers.items():
            check_host(name, base_of(host_named(denoiser, name)), layer)
    except KeyError as error:
        raise _not_for_this_model(file, f"it has no layer {error.args[0]}") from error
    except ValueError as error:
        raise _not_for_this_model(file, str(error)) from error
    held = _for_peft(file, layers, container) if peft else None
    if held is None:
        if any(isinstance(layer.weight, InputRotation) for layer in layers.values()):
            raise RecipeError(
                f"{file.path} is an OFT as PEFT has it, which cannot be used together with"
                " adapters of other kinds, or without PEFT's configuration."
            )
        add_layers(denoiser, layers, adapter_name)
        return False
    try:
        _let_peft_hold(container, *held, adapter_name)
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        raise _not_for_this_model(file, _reason(error)) from error
    return True


def check_family(container: ModelContainer, file: AdapterFile) -> None:
    """Raise `RecipeError` where a file says that it is for models of another family."""
    wanted, here = file.keys.family, family_of_model(container)
    component = adapter_family(container.denoiser).component
    others = {layer.component for layer in file.layers} & {*DENOISERS} - {component}
    if wanted.can_be(here) and not others:
        return
    width = container.denoiser.config.get("cross_attention_dim")
    # SD 1.x and 2.x have layers of the same names; which one it is, widths say.
    if {wanted, here} != {SD_1, SD_2} or width in _WIDTHS:
        told = wanted.name or f"a {min(others)}"
        raise RecipeError(
            f"{file.path} is an adapter for {told}, and this model is {here.with_article}.",
            "Name an adapter for this model, or another model by base_model.id.",
        )


def family_of_model(container: ModelContainer) -> Family:
    """Return the family that adapters for a model are of."""
    named = adapter_family(container.denoiser)
    if named.transformer is not None:
        return Family(named.transformer.name)
    if named.layout is not None:
        return SD_XL
    return SD_2 if named.is_version_2 else SD_1


def _not_for_this_model(file: AdapterFile, reason: str) -> RecipeError:
    return RecipeError(
        f"{file.path} is not an adapter for this model: {reason}",
        "Name an adapter trained on the same architecture.",
    )


def _reason(error: Exception) -> str:
    """Return the first line that says something; torch's is a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if not line.endswith(":")), type(error).__name__)
    return told[:300]


def _for_peft(
    file: AdapterFile, layers: Mapping[str, AdapterLayer], container: ModelContainer
) -> _PeftState | None:
    """Return weights by PEFT's names and their configuration; None where PEFT cannot hold them."""
    if any(layer.bias is not None for layer in layers.values()):
        return None
    kinds = {(layer.keys.kind.name, layer.keys.is_dora) for layer in layers.values()}
    if len(kinds) != 1:
        return None
    ((kind, is_dora),) = kinds
    if kind == "LoRA":
        return _lora_for_peft(file, layers, container.denoiser)
    if is_dora or kind not in ("LoHa", "LoKr", "OFT of inputs") or file.keys.unused:
        return None
    try:
        tensors, config, _ = adapter_in(file.path, dict(file.tensors), dict(file.metadata))
    except RecipeError:
        return None
    return (tensors, config) if _peft_splits_alike(config, tensors) else None


def _peft_splits_alike(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bool:
    """Say whether PEFT makes LoKr's factors of the sizes that a file has in every layer."""
    if config["peft_type"] != "LOKR" or "decompose_factor" not in config:
        return True
    sizes: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, part = key.rpartition(".")
        sizes.setdefault(module, {})[part] = tensor
    factor = config["decompose_factor"]
    for parts in sizes.values():
        one = parts.get("lokr_w1")
        left = one.shape if one is not None else _outer(parts, "lokr_w1")
        two = parts.get("lokr_w2")
        right = two.shape if two is not None else _outer(parts, "lokr_w2")
        for axis in (0, 1):
            if factorization(left[axis] * right[axis], factor) != (left[axis], right[axis]):
                return False
    return True


def _outer(parts: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    left, right = parts[f"{name}_a"], parts[f"{name}_b"]
    is_tucker = f"{name[:-2]}t{name[-1]}" in parts or ("lokr_t2" in parts and name == "lokr_w2")
    return (left.shape[1 if is_tucker else 0], right.shape[1])


def _lora_for_peft(
    file: AdapterFile, layers: Mapping[str, AdapterLayer], denoiser: nn.Module
) -> _PeftState | None:
    plain: dict[str, LoraLayer] = {}
    for name, layer in layers.items():
        change = layer.weight
        magnitude = None
        if isinstance(change, Dora) and not change.over_inputs:
            magnitude, change = change.magnitude, change.inner
        if not isinstance(change, LowRank) or change.mid is not None:
            return None
        plain[name] = _like_host(
            LoraLayer(change.down, change.up, change.alpha, magnitude),
            base_of(host_named(denoiser, name)),
        )
    if CONFIG_KEY in file.metadata and not file.keys.unused and not file.text_encoder_layers:
        # As our own files say it themselves, to the bit.
        try:
            tensors, config, _ = adapter_in(file.path, dict(file.tensors), dict(file.metadata))
        except RecipeError:
            config = {}
        targets = config.get("target_modules")
        if isinstance(targets, list) and set(map(str, targets)) == set(plain):
            chosen = {name: config[name] for name in _LOADED_CONFIG if name in config}
            return tensors, {"peft_type": "LORA", **chosen}
    config = {"peft_type": "LORA", **config_of(plain), "use_rslora": False}
    return diffusers_tensors(plain, adapter_family(denoiser).prefix), config


def _like_host(layer: LoraLayer, host: nn.Module) -> LoraLayer:
    """Return a layer in the layout that PEFT makes for a host: matrices, or convolutions."""
    magnitude = layer.magnitude
    if isinstance(host, nn.Linear):
        return replace(layer, down=layer.down.flatten(1), up=layer.up.flatten(1))
    down = layer.down.reshape(layer.rank, *host.weight.shape[1:])
    if magnitude is not None:  # PEFT has the outputs second for a convolution
        magnitude = magnitude.reshape(1, -1, 1, 1)
    return LoraLayer(down, layer.up.flatten(1)[..., None, None], layer.alpha, magnitude)


def _let_peft_hold(
    container: ModelContainer,
    tensors: Mapping[str, Tensor],
    config: dict[str, Any],
    adapter_name: str,
) -> None:
    if config["peft_type"] != "LORA":
        adapter_lycoris.attach(container.denoiser, tensors, config, adapter_name)
        return
    component = adapter_family(container.denoiser).component
    chosen = {f"{component}.{name}": config[name] for name in _LOADED_CONFIG if name in config}
    # diffusers takes the form of all keys from the first one: it has to be a lora_A.
    state_dict = dict(sorted(tensors.items()))
    container.denoiser.load_lora_adapter(
        dict(state_dict),
        prefix=component,
        network_alphas=None,
        adapter_name=adapter_name,
        metadata=chosen,
        _pipeline=container.pipeline,
    )
    _restore_precision(container.denoiser, state_dict, adapter_name)


def _restore_precision(
    denoiser: nn.Module, state_dict: Mapping[str, Tensor], adapter_name: str
) -> None:
    """Undo PEFT's rounding of an adapter to the dtype of its base layer."""
    weights = {bare(key): value for key, value in state_dict.items()}
    if not any(".lora_A." in key for key in weights):
        weights = convert_unet_state_dict_to_peft(weights)
    for key, weight in weights.items():
        # A magnitude has no .weight in the file.
        parameter = denoiser.get_parameter(f"{key.removesuffix('.weight')}.{adapter_name}.weight")
        if parameter.dtype != weight.dtype and not parameter.is_meta:
            parameter.data = weight.to(parameter.device)
