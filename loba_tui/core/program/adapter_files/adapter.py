"""A trained adapter as the two files that other tools load, back again, and between the two.

`adapter.safetensors` has diffusers' keys and the PEFT configuration in its metadata. Its alpha is
the rank in every layer, as readers take it that do not know that configuration: the strength is in
the weights. `adapter.kohya.safetensors` has kohya's keys, and the trained alpha of every layer; of
a DoRA it has the change that it makes. A transformer has `adapter.comfy.safetensors` in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from peft import get_peft_model_state_dict
from torch import Tensor, nn

from loba_tui.core.adapter_keys import kohya_keys
from loba_tui.core.adapter_metadata import APPROXIMATION_KEY
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.file_sources import Source, file_at, path_of
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.comfy import other_file
from loba_tui.core.program.adapter_files.dora import approximation, change_at_rank
from loba_tui.core.program.adapter_files.families import (
    DIFFUSERS_NAME,
    adapter_family,
    family_of_file,
)
from loba_tui.core.program.adapter_files.file import (
    WrittenFile,
    check_weights,
    read_file,
    serialize,
    write_file,
)
from loba_tui.core.program.adapter_files.formats import (
    CONFIG_KEY,
    DENOISER_PREFIXES,
    LoraLayer,
    bare,
    config_of,
    diffusers_file,
    diffusers_tensors,
    layers_from_diffusers,
    not_an_adapter,
    num_inputs,
)
from loba_tui.core.program.adapter_files.kohya import kohya_file, layers_from_kohya
from loba_tui.core.program.adapter_files.lycoris import files as adapter_lycoris
from loba_tui.core.program.adapter_layers.kinds import kind_of, tuner_layers
from loba_tui.core.program.adapter_layers.text_encoders import name_in_files

AdapterFormat = Literal["diffusers", "kohya"]


def write_adapter(
    denoiser: nn.Module,
    folder: OwnedFolder,
    *,
    metadata: Mapping[str, str] | None = None,
    adapter_name: str = "default",
    encoders: Mapping[str, nn.Module] = MappingProxyType({}),
) -> dict[str, WrittenFile]:
    """Write a denoiser's adapter in both formats and read both back.

    The same weights and metadata give the same bytes.

    Args:
        metadata: What both files carry beside their own: recipe, base model, provenance.
        encoders: Text encoders with a LoRA of the same name, by component.

    Returns:
        The written files by format: "diffusers", and "kohya" (of a transformer "comfy") and "peft"
        where there is such a form.

    Raises:
        NumericsError: A weight is not finite, or all are zero.
        RecipeError: The adapter is of a kind these formats cannot hold.
    """
    configs = getattr(denoiser, "peft_config", {})
    family = adapter_family(denoiser)
    if adapter_name in configs and kind_of(configs[adapter_name]) in adapter_lycoris.KINDS:
        return adapter_lycoris.write_files(denoiser, folder, metadata or {}, adapter_name, family)
    config: dict[str, Any] = {"use_dora": False}
    layers: dict[str, LoraLayer] = {}
    if adapter_name in configs:  # text encoders may be all that is adapted
        config = configs[adapter_name].to_dict()
        layers = lora_layers(denoiser, adapter_name, config)
    theirs, lost = dict(metadata or {}), None
    in_text = {name: _encoder_layers(each, adapter_name) for name, each in encoders.items()}
    own = write_file(
        folder.file(DIFFUSERS_NAME), *diffusers_file(layers, config, theirs, family, in_text)
    )
    if config["use_dora"]:
        layers, lost = change_at_rank(denoiser, layers)
        theirs[APPROXIMATION_KEY] = approximation(lost, layers)
    other = write_file(folder.file(family.other_name), *other_file(layers, theirs, family, in_text))
    return {"diffusers": own, family.other_form: replace(other, lost=lost)}


def read_adapter(source: Source) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Read an adapter file of either format.

    Returns:
        The weights under diffusers' keys (`unet.<module>.lora_A.weight`), the PEFT configuration
        they belong to, and the file's other metadata.

    Raises:
        RecipeError: No such file, or not an adapter of a UNet alone.
        CorruptError: It is damaged.
    """
    tensors, metadata = read_file(source)
    return adapter_in(path_of(source), tensors, metadata)


def adapter_in(
    path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str]]:
    """Return what `read_adapter` does of a file that was read; what it takes leaves `metadata`."""
    other = adapter_lycoris.read_layers(path, metadata, tensors)
    if other is not None:
        return dict(other[0]), other[1], metadata
    if any(name.startswith(kohya_keys.PREFIX) for name in tensors):
        layers = layers_from_kohya(path, tensors)
        config = {**config_of(layers), "use_rslora": False}
        return diffusers_tensors(layers, "unet."), config, metadata
    for name in tensors or ["nothing"]:
        partner = name.replace(".lora_A.", ".lora_B.") if ".lora_A." in name else name
        is_weight = name.endswith((".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"))
        if not (name.startswith(DENOISER_PREFIXES) and is_weight and partner in tensors):
            raise not_an_adapter(path, name)
    try:
        packed = parse_json(metadata.pop(CONFIG_KEY, "{}"))
        config = {bare(name): value for name, value in packed.items()}
    except (ValueError, AttributeError) as error:
        raise CorruptError(f"{path}: its {CONFIG_KEY} is not a JSON table.") from error
    if not config:
        # A file without a configuration means alpha = rank by diffusers' convention.
        config = {**config_of(layers_from_diffusers(tensors, {})), "use_rslora": False}
    return tensors, config, metadata


def convert(path: Path, to: AdapterFormat, destination: Path | None = None) -> Path:
    """Write an adapter file in the other format, and return where it is.

    A file with the same content may be there already. Without a destination it lies beside `path`,
    `.kohya` in its name or not.
    """
    tensors, config, metadata = read_adapter(path)
    adapter_lycoris.refuse_conversion(path, {"peft_type": "LORA", **config})
    if to == "kohya" and config.get("use_dora"):
        raise RecipeError(
            f"{path} holds a DoRA, whose form for other tools takes the base model's weights.",
            "Its run has written that beside it.",
        )
    layers = layers_from_diffusers(tensors, config)
    family = family_of_file(metadata, num_inputs(layers))
    if to == "kohya":
        _check_kohya_can_name(path, layers)
    # What says which format a file is in is written anew; everything else is carried over.
    carried = {k: v for k, v in metadata.items() if not k.startswith(("modelspec.", "ss_network_"))}
    content = (
        diffusers_file(layers, config, carried, family)
        if to == "diffusers"
        else kohya_file(layers, carried, family)
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
    return write_file(file_at(destination), *content).path


def _check_kohya_can_name(path: Path, layers: Mapping[str, LoraLayer]) -> None:
    for module in layers:
        try:
            kohya_keys.to_kohya(module)
        except KeyError as error:
            raise not_an_adapter(path, module) from error


def _encoder_layers(encoder: nn.Module, adapter_name: str) -> dict[str, LoraLayer]:
    """Return the layers of a text encoder's LoRA by the names that files have for its modules."""
    return {
        name_in_files(name): LoraLayer(
            down=layer.lora_A[adapter_name].weight.detach(),
            up=layer.lora_B[adapter_name].weight.detach(),
            alpha=float(layer.lora_alpha[adapter_name]),
        )
        for name, layer in tuner_layers(encoder, adapter_name)
    }


def lora_layers(
    denoiser: nn.Module, adapter_name: str, config: Mapping[str, Any]
) -> dict[str, LoraLayer]:
    """Return the adapter's layers by module name, in the denoiser's order."""
    weights = get_peft_model_state_dict(denoiser, adapter_name=adapter_name)
    parts = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    if extra := [name for name in weights if not name.endswith(parts)]:
        raise RecipeError(f"{extra[0]} of this adapter has no place in a LoRA file.")
    layers = {}
    for name, module in tuner_layers(denoiser, adapter_name):
        alpha, rank = module.lora_alpha[adapter_name], module.r[adapter_name]
        layers[name] = LoraLayer(
            down=weights[f"{name}.lora_A.weight"].detach(),
            up=weights[f"{name}.lora_B.weight"].detach(),
            # These formats scale by alpha / rank; rank-stabilised LoRA by alpha / sqrt(rank).
            alpha=float(alpha) * (math.sqrt(rank) if config["use_rslora"] else 1.0),
            magnitude=weights.get(f"{name}.lora_magnitude_vector"),
        )
    return layers
