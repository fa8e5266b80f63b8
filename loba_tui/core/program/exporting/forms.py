"""An adapter of any form as a file in another: its keys, its dtype and its rank.

Of a UNet `comfy` is kohya's form. ComfyUI reads that whole in every version, as A1111 and Forge do,
while of `diffusion_model.…` keys it knows more or less by its version, and the others know none.
Of a transformer it is what `adapter_files.comfy` writes, and there is no kohya's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from peft import LoraConfig
from torch import Tensor

from loba_tui.core.adapter_keys.names import DENOISERS, Component
from loba_tui.core.adapter_keys.twin_files import Twin
from loba_tui.core.adapter_metadata import (
    APPROXIMATION_KEY,
    CALIBRATION_PREFIX,
    EFFECT_PREFIX,
    TWIN_KEY,
)
from loba_tui.core.errors import NumericsError, RecipeError
from loba_tui.core.file_sources import file_at
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.comfy import other_file, require_kohya
from loba_tui.core.program.adapter_files.dora import approximation
from loba_tui.core.program.adapter_files.families import family_of_file
from loba_tui.core.program.adapter_files.file import WrittenFile, write_file
from loba_tui.core.program.adapter_files.formats import (
    CONFIG_KEY,
    LoraLayer,
    config_of,
    diffusers_file,
    folded,
    jsonable,
    num_inputs,
)
from loba_tui.core.program.adapter_files.kohya import bias_file, bias_tensors
from loba_tui.core.program.adapter_files.losses import Loss, Losses
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.exporting.factors import lora_layer, scaled
from loba_tui.core.text import counted

Form = Literal["diffusers", "kohya", "peft", "comfy"]
Dtype = Literal["fp32", "fp16", "bf16"]
DTYPES = MappingProxyType({"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16})
_REPLACED = (
    *("modelspec.", "ss_network_", "ss_base_model_version", "ss_v2", "format"),
    *(CONFIG_KEY, "peft_config", APPROXIMATION_KEY),
)


@dataclass(frozen=True)
class Wanted:
    """How an adapter is to be written.

    Attributes:
        rank: Most that a layer may have; None keeps all of it.
        strength: What strength 1 of the new file is of the old one.
        twin: Which of two files for tools without negative weights it is; None for one alone.
    """

    form: Form = "diffusers"
    dtype: Dtype = "fp32"
    rank: int | None = None
    strength: float = 1.0
    twin: Twin | None = None

    @property
    def signed_strength(self) -> float:
        """The strength, negative in the minus twin."""
        return -self.strength if self.twin == "minus" else self.strength


@dataclass(frozen=True)
class LoraParts:
    """An adapter as LoRA layers, by component and module.

    Attributes:
        biases: What biases gain, for the one form that holds them.
        losses: What was lost at the rank; by layer in their order.
        left_out: What has no form as a LoRA, each a sentence.
        family_name: Of the model, where that is known.
    """

    layers: Mapping[Component, Mapping[str, LoraLayer]]
    losses: tuple[Loss, ...]
    left_out: tuple[str, ...]
    biases: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    family_name: str = ""

    @property
    def denoiser(self) -> Mapping[str, LoraLayer]:
        """The layers of the UNet or the transformer; none where text encoders alone change."""
        return next((self.layers[name] for name in DENOISERS if name in self.layers), {})

    @property
    def text_encoders(self) -> dict[str, Mapping[str, LoraLayer]]:
        """The layers of text encoders, by component."""
        return {name: layers for name, layers in self.layers.items() if name not in DENOISERS}

    @property
    def largest_rank(self) -> int:
        """The rank of the largest layer; 0 where biases alone change."""
        ranks = [each.rank for layers in self.layers.values() for each in layers.values()]
        return max(ranks, default=0)


def as_lora(
    adapter: AdapterFile, wanted: Wanted, progress: Callable[[int, int], None]
) -> LoraParts:
    """Return an adapter's layers as LoRA layers, with what that loses.

    Raises:
        RecipeError: A layer's change depends on the base model's weights, or there is none.
    """
    layers: dict[Component, dict[str, LoraLayer]] = {}
    biases: dict[str, dict[str, Tensor]] = {}
    losses, norms, strength = [], 0, wanted.signed_strength
    is_sd_1 = adapter.keys.family.name == "SD 1.x"
    for done, layer in enumerate(adapter.layers):
        progress(done, len(adapter.layers))
        change = layer.weight
        if layer.bias is not None:
            gain = strength * layer.bias.flatten()
            biases.setdefault(layer.component, {})[layer.module] = gain
        if change is None:
            continue
        if change.needs_base:
            raise RecipeError(
                f"{adapter.path}: the change that {change.kind} makes depends on the base model's"
                " weights.",
                "Bake it into a checkpoint by --into FILE; loba extract makes a LoRA of that.",
            )
        if len(change.size() or ()) < 2:
            norms += 1
            continue
        made, loss = lora_layer(layer.module, change, wanted.rank, is_sd_1=is_sd_1)
        layers.setdefault(layer.component, {})[layer.module] = scaled(made, strength)
        losses.append(loss)
    # The parts of a matrix that several modules of a transformer share have no bias of their own.
    is_of_transformer = any(layer.component == "transformer" for layer in adapter.layers)
    held = biases if wanted.form == "comfy" and not is_of_transformer else {}
    if not layers and not held:
        raise RecipeError(
            f"{adapter.path} has no layer that a LoRA could hold.",
            "Changes of biases are written with --format comfy." if biases else "",
        )
    num_biases = 0 if held else sum(map(len, biases.values()))
    told = [
        f"{counted(number, noun)}, which a LoRA does not hold"
        for number, noun in ((norms, "norm layer"), (num_biases, "bias change"))
        if number
    ]
    left_out = (*adapter.keys.unused_lines(), *told)
    return LoraParts(layers, tuple(losses), left_out, held, adapter.keys.family.name)


def write_form(
    parts: LoraParts, metadata: Mapping[str, str], wanted: Wanted, target: Path
) -> tuple[WrittenFile, list[str]]:
    """Write LoRA layers in a form; return the file, and what that form has no place for.

    Args:
        metadata: The former file's; what it says of its form is written anew.
        target: A file, or for PEFT a folder.
    """
    carried = _carried(metadata, wanted)
    losses = Losses.of(parts.losses)
    if losses.share > 0:
        of = "a larger rank"
        carried[APPROXIMATION_KEY] = approximation(losses, _of_denoiser_or_first(parts), of=of)
    left_out = []
    if wanted.form == "peft":
        others = sum(map(len, parts.text_encoders.values()))
        if others:
            layers = counted(others, "layer")
            network = "transformer" if "transformer" in parts.layers else "UNet"
            left_out = [f"{layers} of text encoders, which a PEFT folder of a {network} lacks"]
        return _write_peft(parts, wanted, target), left_out
    tensors, own = _content(parts, metadata, carried, wanted)
    return write_file(file_at(target), _cast(tensors, wanted.dtype), own), left_out


def _carried(metadata: Mapping[str, str], wanted: Wanted) -> dict[str, str]:
    """Return what a new file takes over; what was measured holds at the old strength alone."""
    measured = () if wanted.signed_strength == 1.0 else (EFFECT_PREFIX, CALIBRATION_PREFIX)
    gone = (*_REPLACED, *measured)
    kept = {key: value for key, value in metadata.items() if not key.startswith(gone)}
    return kept if wanted.twin is None else {**kept, TWIN_KEY: wanted.twin}


def _of_denoiser_or_first(parts: LoraParts) -> Mapping[str, LoraLayer]:
    return parts.denoiser or next(iter(parts.layers.values()))


def _content(
    parts: LoraParts, metadata: Mapping[str, str], carried: Mapping[str, str], wanted: Wanted
) -> tuple[dict[str, Tensor], dict[str, str]]:
    denoiser, encoders = parts.denoiser, parts.text_encoders
    family = family_of_file(metadata, num_inputs(denoiser), parts.family_name)
    if not parts.layers:
        return bias_file(parts.biases, carried, family)
    if wanted.form == "kohya":
        require_kohya(family)
    if wanted.form != "diffusers":
        tensors, own = other_file(denoiser, carried, family, encoders)
        return tensors | bias_tensors(parts.biases, family), own
    config = {"peft_type": "LORA", **config_of(_of_denoiser_or_first(parts)), "use_rslora": False}
    return diffusers_file(denoiser, config, carried, family, encoders)


def _write_peft(parts: LoraParts, wanted: Wanted, target: Path) -> WrittenFile:
    if not parts.denoiser:
        raise RecipeError(
            "The adapter changes text encoders alone; a PEFT folder is for a denoiser."
        )
    layers = folded(parts.denoiser)
    config = LoraConfig(**config_of(layers))
    target.mkdir(parents=True, exist_ok=True)
    folder = OwnedFolder(target.resolve())
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = layer.down
        tensors[f"base_model.model.{name}.lora_B.weight"] = layer.up
    file = folder.file("adapter_model.safetensors")
    written = write_file(file, _cast(tensors, wanted.dtype), {"format": "pt"})
    plain = {**jsonable(config.to_dict()), "target_modules": sorted(layers)}
    text = json.dumps(plain, sort_keys=True, indent=2) + "\n"
    folder.file("adapter_config.json").replace(text.encode(), mode=0o666, sync=True)
    return replace(written, path=target)


def _cast(tensors: Mapping[str, Tensor], dtype: Dtype) -> dict[str, Tensor]:
    """Return weights in a dtype; a number such as alpha stays as it is."""
    cast = {k: v.to(DTYPES[dtype]) if v.ndim else v for k, v in tensors.items()}
    for name, tensor in cast.items():
        if not bool(torch.isfinite(tensor).all()) and bool(torch.isfinite(tensors[name]).all()):
            raise NumericsError(
                f"{name[:100]!r} is too large for {dtype}.", "Write it with --dtype bf16."
            )
    return cast
