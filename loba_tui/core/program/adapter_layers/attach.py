"""Put the adapter that a recipe asks for on a model."""

from __future__ import annotations

import torch
from diffusers.training_utils import cast_training_params

from loba_tui.core.associate.caches.memory.block_offload import offload_of
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program import randomness
from loba_tui.core.program.adapter_layers.kinds import (
    kind_of,
    leave_out_others,
    make_deterministic,
)
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.recipe.checks.method import layers_of
from loba_tui.core.recipe.schema import AdapterSection, Recipe


def adapter_section(recipe: Recipe, plugins: Plugins) -> AdapterSection:
    """Return the recipe's adapter, with the layers that the method's options ask for."""
    section = recipe.adapter
    layers = layers_of(
        plugins.describe("methods", recipe.method.name),
        recipe.method.options,
        plugins.describe("adapters", section.name),
    )
    if layers is None or "layers" in section.options:
        return section
    return AdapterSection(**{**section.model_dump(), "layers": layers})


def attach_adapter(recipe: Recipe, container: ModelContainer, plugins: Plugins) -> None:
    """Attach the recipe's adapter, float32 and reproducibly initialised."""
    section = adapter_section(recipe, plugins)
    make = load_choice("adapters", section, plugins)
    config = make(container.adapter_targets(), rank=section.rank, alpha=section.alpha)
    if not config.target_modules:
        raise RecipeError(
            f"adapter.layers: none of them names a layer of this {container.family} model"
        )
    kind_of(config)
    leave_out_others(container.denoiser, config)
    container.denoiser.requires_grad_(False)
    with torch.random.fork_rng():
        # PEFT draws its initial weights from the global generator.
        seed = randomness.integer(2**31, recipe.train.seed, "adapter")
        torch.manual_seed(seed)
        container.denoiser.add_adapter(config)
    offload = offload_of(container.denoiser)
    if offload is not None:  # PEFT has put the adapter where the blocks wait
        offload.take_in()
    make_deterministic(container.denoiser, config)
    # Updates of a slider are smaller than bfloat16 resolves: the trained weights stay float32.
    cast_training_params(container.denoiser, torch.float32)
