"""Which of an adapter's parameters train, at which learning rates, by which optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.kinds import adapted_module
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice


def build_optimizer(
    recipe: Recipe, groups: list[dict[str, Any]], plugins: Plugins
) -> torch.optim.Optimizer:
    """Return the recipe's optimizer over these groups.

    Raises:
        RecipeError: It refuses its options, or one learning rate is all that it can have.
    """
    section = recipe.optimizer
    choice: Choice = section
    constants = plugins.describe("optimizers", section.name).constants
    if recipe.train.exactness == "fast" and "FAST_OPTIONS" in constants:
        choice = Choice(name=section.name, **{**constants["FAST_OPTIONS"], **section.options})
    if constants.get("ONE_LEARNING_RATE") and len(groups) > 1:
        raise RecipeError(
            f"scheduler.layer: {section.name} has one learning rate for all layers, and the recipe"
            f" asks for {len(groups)} of them",
            "Take scheduler.layer: uniform and leave adapter.text_encoders.lr out, or take another"
            " optimizer.",
        )
    try:
        make = load_choice("optimizers", choice, plugins)
        optimizer: torch.optim.Optimizer = make(groups, section.lr)
    except ValueError as error:  # each library checks the ranges of its own options
        raise RecipeError(f"optimizer: {section.name} refuses its options: {error}") from error
    return optimizer


def layer_factors(
    recipe: Recipe, trainable: Mapping[str, nn.Parameter], plugins: Plugins
) -> list[float]:
    """Return the learning-rate factor of each parameter; the layer scheduler sees a group for each.

    Groups are named by the module that is adapted.
    """
    probe = SimpleNamespace(
        param_groups=[
            {"name": adapted_module(name), "params": [parameter]}
            for name, parameter in trainable.items()
        ]
    )
    factors: list[float] = load_choice("layer", recipe.scheduler.layer, plugins)(probe)
    return factors


def parameter_groups(
    recipe: Recipe,
    trainable: Mapping[str, nn.Parameter],
    plugins: Plugins,
    in_text: Mapping[str, nn.Parameter] = MappingProxyType({}),
) -> tuple[list[dict[str, Any]], list[float], dict[str, nn.Parameter]]:
    """Return optimizer groups, their layer factors, and the parameters that train.

    Parameters of the same factor share a group, because optimizers run one kernel launch per group;
    factor 0 means that the parameter is left out.

    Args:
        trainable: Of the denoiser's adapter, by name.
        in_text: Of the text encoders', which have one rate and no layer scheduler.
    """
    factors = layer_factors(recipe, trainable, plugins)
    by_factor: dict[float, dict[str, nn.Parameter]] = {}
    for (name, parameter), factor in zip(trainable.items(), factors, strict=True):
        if factor == 0:
            parameter.requires_grad_(False)
        else:
            by_factor.setdefault(float(factor), {})[name] = parameter
    if in_text:
        section = recipe.adapter.text_encoders
        own = section.lr if section is not None else None
        rate = recipe.optimizer.lr if own is None else own
        by_factor.setdefault(rate / recipe.optimizer.lr, {}).update(in_text)
    if not by_factor:
        raise RecipeError(
            f"scheduler.layer: {recipe.scheduler.layer.name} leaves nothing of it to train",
            "Choose other adapter.layers or another layer scheduler.",
        )
    groups = [{"params": list(members.values())} for members in by_factor.values()]
    trained = {name: p for members in by_factor.values() for name, p in members.items()}
    return groups, list(by_factor), trained
