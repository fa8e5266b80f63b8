"""Files of the kinds that diffusers' LoRA loader does not take: LoHa, LoKr and OFT.

`adapter.safetensors` has PEFT's keys under the denoiser's module names and PEFT's configuration in
its metadata. Beside it lies the folder `peft`, which `PeftModel.from_pretrained(pipe.unet, folder)`
takes as it is; of a transformer that is `pipe.transformer`. LoHa and LoKr also have LyCORIS' keys,
which A1111 and ComfyUI read; OFT has none: there a layer's outputs are rotated, and PEFT rotates
its inputs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from peft import LoHaConfig, LoKrConfig, OFTConfig, PeftConfig, get_peft_model_state_dict
from peft.tuners.lycoris_utils import LycorisLayer
from torch import Tensor, nn

from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.families import DIFFUSERS_NAME, AdapterFamily
from loba_tui.core.program.adapter_files.file import WrittenFile, write_file
from loba_tui.core.program.adapter_files.formats import (
    bare,
    jsonable,
    model_spec,
    not_an_adapter,
)
from loba_tui.core.program.adapter_files.lycoris.keys import (
    from_lycoris,
    is_lycoris,
    to_lycoris,
    with_alpha_of_rank,
)
from loba_tui.core.program.adapter_layers.kinds import (
    adapted_module,
    kind_of,
    leave_out_others,
    make_deterministic,
    tuner_layers,
)

PEFT_CONFIG_KEY = "peft_config"
PEFT_FOLDER = "peft"
_PEFT_PREFIX = "base_model.model."

# What decides shapes and meaning of the weights. The rest of a configuration says how training
# started; from a foreign file it is not taken.
_LOADED: Mapping[str, tuple[type[PeftConfig], tuple[str, ...]]] = MappingProxyType(
    {
        "LoHa": (LoHaConfig, ("r", "alpha", "use_effective_conv2d")),
        "LoKr": (
            LoKrConfig,
            ("r", "alpha", "use_effective_conv2d", "decompose_both", "decompose_factor"),
        ),
        "OFT": (OFTConfig, ("r", "oft_block_size", "block_share", "use_cayley_neumann")),
    }
)
_PATTERNS = ("rank_pattern", "alpha_pattern")
KINDS = frozenset(_LOADED)
"""The kinds that this module reads and writes."""


def write_files(
    denoiser: nn.Module,
    folder: OwnedFolder,
    metadata: Mapping[str, str],
    adapter_name: str,
    family: AdapterFamily,
) -> dict[str, WrittenFile]:
    """Write a LoHa, LoKr or OFT adapter in all forms that it has, and read each back."""
    config = denoiser.peft_config[adapter_name]
    kind = kind_of(config)
    layers = dict(tuner_layers(denoiser, adapter_name))
    weights = {
        name: weight.detach()
        for name, weight in get_peft_model_state_dict(denoiser, adapter_name=adapter_name).items()
    }
    # PEFT shortens the list of targets to suffixes; the exact names are the same to every reader.
    exact = {**jsonable(config.to_dict()), "target_modules": sorted(layers)}
    packed = json.dumps(exact, sort_keys=True)
    common = {"format": "pt", **model_spec(metadata, family)}
    strengths = {} if kind == "OFT" else _strengths(layers, adapter_name)
    own = {**common, PEFT_CONFIG_KEY: json.dumps(_folded(exact, strengths), sort_keys=True)}
    own |= metadata
    folded = with_alpha_of_rank(weights, strengths)
    tensors = {f"{family.prefix}{name}": weight for name, weight in folded.items()}
    written = {"diffusers": write_file(folder.file(DIFFUSERS_NAME), tensors, own)}
    peft = folder.folder(PEFT_FOLDER)
    peft.make()
    plain = {f"{_PEFT_PREFIX}{name}": weight for name, weight in weights.items()}
    written["peft"] = write_file(peft.file("adapter_model.safetensors"), plain, {"format": "pt"})
    peft.file("adapter_config.json").replace(packed.encode() + b"\n", mode=0o666, sync=True)
    if kind != "OFT":
        lycoris = to_lycoris(weights, strengths, family)
        own = {
            **common,
            "ss_network_module": "lycoris.kohya",
            "ss_network_dim": str(config.r),
            "ss_network_alpha": f"{config.alpha:g}",
            "ss_network_args": json.dumps({"algo": kind.lower()}),
            **metadata,
        }
        written[family.other_form] = write_file(folder.file(family.other_name), lycoris, own)
    return written


def _strengths(
    layers: Mapping[str, LycorisLayer], adapter_name: str
) -> dict[str, tuple[float, int]]:
    """Return alpha and rank of each layer."""
    return {
        name: (float(layer.alpha[adapter_name]), layer.r[adapter_name])
        for name, layer in layers.items()
    }


def _folded(
    config: Mapping[str, Any], strengths: Mapping[str, tuple[float, int]]
) -> dict[str, Any]:
    """Return a configuration whose alpha is the rank in every layer; a rotation has neither."""
    if not strengths:
        return dict(config)
    ranks = {name: rank for name, (_, rank) in strengths.items() if rank != config["r"]}
    alphas = {name: float(rank) for name, rank in ranks.items()}
    return {**config, "alpha": float(config["r"]), "rank_pattern": ranks, "alpha_pattern": alphas}


def read_layers(
    path: Path, metadata: dict[str, str], tensors: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], dict[str, Any]] | None:
    """Return weights by PEFT's names and their configuration; None where it is another kind's file.

    Args:
        metadata: Its metadata; a configuration is taken out of it.
        tensors: Its content: with PEFT's or with LyCORIS' keys.

    Raises:
        CorruptError: It is damaged.
        RecipeError: It is of another kind of adapter.
    """
    if is_lycoris(tensors):
        return from_lycoris(path, tensors)
    if PEFT_CONFIG_KEY not in metadata:
        return None
    return tensors, _config_in(path, metadata, tensors)


def _config_in(
    path: Path, metadata: dict[str, str], tensors: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Take PEFT's configuration out of a file's metadata: checked, and only what is loaded of it.

    Patterns are not: a file could name layers by regular expressions that never end.
    """
    try:
        config = parse_json(metadata.pop(PEFT_CONFIG_KEY))
        kind = kind_of(config)
        _, keys = _LOADED[kind]
        modules = config["target_modules"]
        if not (isinstance(modules, list) and all(isinstance(name, str) for name in modules)):
            raise ValueError("target_modules is not a list of names")
        numbers = [config[key] for key in keys if config.get(key) is not None]
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise ValueError("a number is not finite")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(f"{path}: its {PEFT_CONFIG_KEY} cannot be read.") from error
    known = set(modules)
    for name in tensors:
        if adapted_module(bare(name)) not in known:
            raise not_an_adapter(path, name)
    return {key: config[key] for key in ("peft_type", "target_modules", *keys) if key in config}


def attach(
    denoiser: nn.Module, tensors: Mapping[str, Tensor], config: Mapping[str, Any], adapter_name: str
) -> None:
    """Put weights that `read_layers` vouched for on a denoiser, in their own precision.

    Raises:
        ValueError: They are not those of this denoiser.
        RecipeError: They are not those of such a configuration.
    """
    make, keys = _LOADED[kind_of(dict(config))]
    chosen = {key: config[key] for key in keys if config.get(key) is not None}
    for key in _PATTERNS:  # PEFT takes the names in them for regular expressions
        if config.get(key):
            chosen[key] = {re.escape(name): value for name, value in config[key].items()}
    peft_config = make(target_modules=list(config["target_modules"]), **chosen)
    leave_out_others(denoiser, peft_config)
    with torch.random.fork_rng():
        # PEFT draws initial weights, which are overwritten, from the global generator.
        denoiser.add_adapter(peft_config, adapter_name)
    make_deterministic(denoiser, peft_config, adapter_name)
    wanted = get_peft_model_state_dict(denoiser, adapter_name=adapter_name)
    given = {bare(name): weight for name, weight in tensors.items()}
    if odd := wanted.keys() ^ given.keys():
        raise ValueError(f"{min(odd)} is in one of the two only")
    for name, weight in given.items():
        parameter = denoiser.get_parameter(_parameter_name(name, adapter_name))
        if parameter.shape != weight.shape:
            raise ValueError(f"{name} is {list(weight.shape)}, not {list(parameter.shape)}")
        if not parameter.is_meta:
            parameter.data = weight.to(parameter.device)


def _parameter_name(name: str, adapter_name: str) -> str:
    """Return the name of a parameter that PEFT's state dictionary calls `name`."""
    if name.endswith(".weight"):  # oft_R.weight is oft_R.default.weight
        return f"{name.removesuffix('.weight')}.{adapter_name}.weight"
    return f"{name}.{adapter_name}"


def refuse_conversion(path: Path, config: Mapping[str, Any]) -> None:
    """Raise `RecipeError` for a kind whose other forms are written by its run alone."""
    kind = kind_of(dict(config))
    if kind in KINDS:
        raise RecipeError(
            f"{path} holds a {kind} adapter, which is not converted.",
            "Its run has written all forms that there are beside it.",
        )
