"""Layers of a denoiser that can take an adapter, by the part that they play."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

Marks = tuple[tuple[str, str], ...]
"""What a module's name has in it, with the group that it is of; the first that fits counts.

A name is looked at with a dot before and behind it.
"""


def grouped_layers(denoiser: nn.Module, marks: Marks) -> dict[str, list[str]]:
    """Return exact names of linear layers and convolutions by group, in the order of modules."""
    groups: dict[str, list[str]] = {group: [] for _, group in marks}
    for name, module in denoiser.named_modules():
        # An adapter that is already there holds the layer it wraps as `base_layer`.
        if not isinstance(module, nn.Linear | nn.Conv2d) or ".lora_" in name:
            continue
        name = name.removesuffix(".base_layer")
        group = next((group for mark, group in marks if mark in f".{name}."), None)
        if group is not None:
            groups[group].append(name)
    return groups


def layers_named(denoiser: nn.Module, names: Iterable[str]) -> dict[str, nn.Linear]:
    """Return the denoiser's own layers; with an adapter on one, the layer itself is inside."""
    modules = {name: denoiser.get_submodule(name) for name in names}
    return {name: getattr(module, "base_layer", module) for name, module in modules.items()}
