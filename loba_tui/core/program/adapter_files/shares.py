"""Files of the adapters that a computed one is the sum of, each of which works by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from loba_tui.core.adapter_metadata import EFFECT_PREFIX, SHARE_KEY
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.adapter import lora_layers
from loba_tui.core.program.adapter_files.comfy import other_file
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.file import WrittenFile, write_file
from loba_tui.core.program.adapter_files.formats import (
    LoraLayer,
    config_of,
    diffusers_file,
)


@dataclass(frozen=True)
class AdapterShare:
    """One of the adapters that a computed one is the sum of.

    Attributes:
        concepts: What it erases.
        ranks: Which of each layer's ranks it has, first and one past the last.
    """

    concepts: tuple[str, ...]
    ranks: Mapping[str, tuple[int, int]]


def write_shares(
    denoiser: nn.Module,
    shares: Sequence[AdapterShare],
    folder: OwnedFolder,
    metadata: Mapping[str, str],
) -> list[WrittenFile]:
    """Write adapter-1of4.safetensors and so on, and the same for other tools."""
    layers = lora_layers(denoiser, "default", denoiser.peft_config["default"].to_dict())
    family, written = adapter_family(denoiser), []
    # The proof is of the whole.
    common = {key: text for key, text in metadata.items() if not key.startswith(EFFECT_PREFIX)}
    for number, share in enumerate(shares, start=1):
        own = {name: _part(layers[name], *share.ranks[name]) for name in layers}
        own = {name: layer for name, layer in own.items() if len(layer.down)}
        told = {**common, SHARE_KEY: json.dumps(share.concepts, ensure_ascii=False)}
        stem = f"adapter-{number}of{len(shares)}"
        config = {**config_of(own), "use_rslora": False, "use_dora": False}
        for name, content in (
            (f"{stem}.safetensors", diffusers_file(own, config, told, family)),
            (f"{stem}.{family.other_form}.safetensors", other_file(own, told, family)),
        ):
            written.append(write_file(folder.file(name), *content))
    return written


def _part(layer: LoraLayer, first: int, end: int) -> LoraLayer:
    """Return some ranks of a layer, whose alpha is theirs of the whole one's."""
    alpha = layer.alpha * (end - first) / len(layer.down)
    return replace(layer, down=layer.down[first:end], up=layer.up[:, first:end], alpha=alpha)
