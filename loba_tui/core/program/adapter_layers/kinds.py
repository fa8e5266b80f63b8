"""The kinds of adapter that can be trained, scaled row by row, and exported.

A scale s means the same for all of them: every layer's weight goes from W to W + s·(W' − W), where
W' is what was trained. For LoRA, LoHa and LoKr that is their own definition. DoRA and OFT have no
scale of their own: W' = m·(W + BA)/‖W + BA‖ does not become W where BA is scaled to nothing, as the
magnitude m was trained too. Going a part of the way to W' is continuous, exact at 0 and 1, and what
other tools do with the change that is exported for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from peft import PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisLayer
from peft.tuners.oft.layer import OFTLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.added import AddedLayer

_PARAMETER = re.compile(r"(?P<module>.+?)\.(?:lora|hada|lokr|oft)_.+")
# down_blocks.1.attentions.0 … belongs to down_blocks.1, mid_block.resnets.0 … to mid_block.
_BLOCK = re.compile(r"^[^.]+(?:\.\d+)?")
_BLOCK_ORDER = (
    *("conv_in", "time_embedding", "add_embedding"),
    *("down_blocks", "mid_block", "up_blocks"),
    *("noise_refiner", "context_refiner", "layers"),
    *("transformer_blocks", "single_transformer_blocks"),
)
_NAMES = {"LORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr", "OFT": "OFT"}


def adapted_module(parameter_name: str) -> str:
    """Return the module that an adapter's parameter belongs to."""
    match = _PARAMETER.fullmatch(parameter_name)
    return match["module"] if match else parameter_name


def block_of(module: str) -> str:
    """Return the block of a denoiser that a module belongs to, such as down_blocks.1."""
    match = _BLOCK.match(module)
    return match.group() if match else module


def block_place(block: str) -> tuple[int, str, int]:
    """Return a key that sorts blocks in the order that latents pass through them."""
    name, _, number = block.partition(".")
    place = _BLOCK_ORDER.index(name) if name in _BLOCK_ORDER else len(_BLOCK_ORDER)
    return place, name, int(number or 0)


def kind_of(config: PeftConfig | dict[str, Any]) -> str:
    """Return the kind of a PEFT configuration: LoRA, DoRA, LoHa, LoKr or OFT.

    Raises:
        RecipeError: It is another, which could be trained but neither scaled nor exported.
    """
    settings = config if isinstance(config, dict) else config.to_dict()
    peft_type = str(getattr(settings["peft_type"], "value", settings["peft_type"]))
    if peft_type == "LORA" and settings.get("use_dora"):
        return "DoRA"
    if peft_type not in _NAMES:
        raise RecipeError(
            f"adapter: a PEFT adapter of type {peft_type} can be neither scaled nor exported here",
            f"What can be: {', '.join(_NAMES.values())} and DoRA.",
        )
    return _NAMES[peft_type]


def leave_out_others(network: nn.Module, config: PeftConfig) -> None:
    """Have a configuration target the layers that it names and no others.

    PEFT takes a name for the end of names: FLUX.1's proj_out is that of its single blocks too.
    """
    if not isinstance(config.target_modules, list | set | tuple):
        return
    ends = tuple(f".{name}" for name in config.target_modules)
    named = set(config.target_modules)
    others = [n for n, _ in network.named_modules() if n.endswith(ends) and n not in named]
    if others:
        config.exclude_modules = sorted(others)


def tuner_layers(network: nn.Module, adapter_name: str) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Yield the layers that carry an adapter of this name, with their modules' names."""
    for name, module in network.named_modules():
        if isinstance(module, BaseTunerLayer) and _carries(module, adapter_name):
            yield name, module


def adapted_layers(
    network: nn.Module, adapter_name: str
) -> Iterator[tuple[str, BaseTunerLayer | AddedLayer]]:
    """Yield PEFT's layers of this name, and those that are added beside PEFT."""
    yield from tuner_layers(network, adapter_name)
    for name, module in network.named_modules():
        if isinstance(module, AddedLayer) and module.adapter_name == adapter_name:
            yield name.rpartition(".")[0], module


def _carries(layer: BaseTunerLayer, adapter_name: str) -> bool:
    if isinstance(layer, LoraLayer):
        return adapter_name in layer.lora_B
    if isinstance(layer, LycorisLayer):
        return adapter_name in layer.r
    if isinstance(layer, OFTLayer):
        return adapter_name in layer.oft_R
    return False


def make_deterministic(
    network: nn.Module, config: PeftConfig, adapter_name: str = "default"
) -> None:
    """Take the chance out of an adapter's layers, and refuse what PEFT would only warn about.

    Raises:
        RecipeError: A layer cannot have what the recipe asks for.
    """
    for name, layer in tuner_layers(network, adapter_name):
        if isinstance(layer, LycorisLayer):
            # They compare a number drawn from the global generator with it in every forward pass,
            # and leave the layer out where that is exactly 0.
            layer.module_dropout[adapter_name] = -1.0
        if isinstance(layer, OFTLayer):
            wanted = config.oft_block_size
            if layer.oft_block_size[adapter_name] != wanted:
                raise RecipeError(
                    f"adapter.rank: blocks of {wanted} do not divide the {layer.in_features} inputs"
                    f" of {name}",
                    "Take a divisor of all layers' inputs, such as 4 or 8.",
                )
