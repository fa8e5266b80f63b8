"""Curves of a recipe's schedules, as numbers to draw; no weights are loaded.

The factories that a run will call are called here, shipped or of the user, on a model that has
shapes only. A section is a plain dictionary that JSON can hold, null where a number is not finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_shapes import ModelShapes, shapes_of
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.adapter_layers.kinds import adapted_module, block_of, block_place
from loba_tui.core.program.changed_text import changes_text_alone, solves
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.program.learning_rates import stand_in_optimizer
from loba_tui.core.program.planning.requirements import requirements
from loba_tui.core.program.training.parameter_groups import layer_factors
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice

MOST_POINTS = 200
_DENSITY_POINTS = 101
_PROGRESS = (0.0, 0.5, 1.0)
_BLOCK = re.compile(
    r"mid_block|(?:down_blocks|up_blocks|noise_refiner|context_refiner|layers"
    r"|transformer_blocks|single_transformer_blocks)\.\d+"
)


def learning_rate(recipe: Recipe, shapes: ModelShapes, plugins: Plugins) -> dict[str, Any]:
    """Return the learning rate of an unscaled layer at up to 200 steps of the run."""
    base, num_steps = recipe.optimizer.lr, recipe.train.steps
    make = load_choice("model", recipe.scheduler.model, plugins)
    factor = make(stand_in_optimizer(base), num_steps)
    steps = np.linspace(0, num_steps - 1, min(num_steps, MOST_POINTS)).round().astype(int).tolist()
    return {
        "scheduler": recipe.scheduler.model.name,
        "base": base,
        "num_steps": num_steps,
        "step": steps,
        "lr": _finite(base * factor(step) for step in steps),
    }


@dataclass(frozen=True)
class AdaptedShapes:
    """A model of shapes with an adapter on it: what layer factors are worked out for.

    `num_parameters` is of the denoiser alone.
    """

    origin: str
    blocks: tuple[str, ...]
    num_parameters: int
    trainable: Mapping[str, torch.nn.Parameter]


def adapt(recipe: Recipe, shapes: ModelShapes, plugins: Plugins) -> AdaptedShapes:
    """Put the recipe's adapter on a model of shapes, which has none yet."""
    denoiser = shapes.container.denoiser
    blocks = tuple(name for name, _ in denoiser.named_modules() if _BLOCK.fullmatch(name))
    num_parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    if not changes_text_alone(recipe, plugins):
        attach_adapter(recipe, shapes.container, plugins)
    trainable = {name: p for name, p in denoiser.named_parameters() if p.requires_grad}
    return AdaptedShapes(shapes.origin, blocks, num_parameters, trainable)


def layers(recipe: Recipe, shapes: ModelShapes, plugins: Plugins) -> dict[str, Any]:
    """Return the learning-rate factors of the adapter's modules, by block of the denoiser."""
    return layers_of(recipe, adapt(recipe, shapes, plugins), plugins)


def layers_of(recipe: Recipe, adapted: AdaptedShapes, plugins: Plugins) -> dict[str, Any]:
    """Return the learning-rate factors of an adapter that is there already."""
    blocks: dict[str, dict[str, float]] = {name: {} for name in adapted.blocks}
    factors = layer_factors(recipe, adapted.trainable, plugins)
    num_trained = 0
    for (name, parameter), factor in zip(adapted.trainable.items(), factors, strict=True):
        module = adapted_module(name)
        blocks.setdefault(block_of(module), {})[module] = float(factor)
        num_trained += parameter.numel() if factor else 0
    return {
        "scheduler": recipe.scheduler.layer.name,
        "adapter": recipe.adapter.name,
        "denoiser_parameters": adapted.num_parameters,
        "trained_parameters": num_trained,
        "model": adapted.origin,
        "blocks": [
            {
                "name": name,
                "part": name.partition("_block")[0],
                "num_modules": len(values),
                "least": min(values.values(), default=None),
                "mean": sum(values.values()) / len(values) if values else None,
                "most": max(values.values(), default=None),
            }
            for name, values in sorted(blocks.items(), key=lambda item: block_place(item[0]))
        ],
    }


def timesteps(recipe: Recipe, shapes: ModelShapes, plugins: Plugins) -> dict[str, Any]:
    """Return the density of timesteps, of mean 1, at the run's beginning, middle and end.

    Only the first is given where it does not depend on the run's progress.
    """
    density = load_choice("timestep", recipe.scheduler.timestep, plugins)()
    t = torch.linspace(0, 1, _DENSITY_POINTS, dtype=torch.float64)
    curves: list[dict[str, Any]] = []
    for progress in _PROGRESS:
        weights = torch.as_tensor(density(t.clone(), progress)).double()
        mean = float(weights.mean())
        values = _finite((weights / mean if mean > 0 else weights).tolist())
        if not curves or values != curves[0]["density"]:
            curves.append({"progress": progress, "density": values})
    return {
        "scheduler": recipe.scheduler.timestep.name,
        "t": [round(value, 4) for value in t.tolist()],
        "curves": curves,
    }


def noise(recipe: Recipe, shapes: ModelShapes, plugins: Plugins) -> dict[str, Any]:
    """Return timesteps and noise levels σ of the training rollouts' and the samples' grids."""
    options = recipe.method.options
    described = plugins.describe("methods", recipe.method.name).options
    rollout = options.get("rollout_steps")
    if rollout is None and "rollout_steps" in described:
        rollout = described["rollout_steps"].default
    num_steps = rollout if isinstance(rollout, int) else recipe.sample.steps
    container = shapes.container
    return {
        "num_train_timesteps": container.scheduler_config.get("num_train_timesteps", 1000),
        "prediction_type": shapes.container.prediction_type,
        "training": _noise_levels(recipe.scheduler.noise, num_steps, container, plugins),
        "sampling": _noise_levels(recipe.sample.noise, recipe.sample.steps, container, plugins),
    }


Section = Callable[[Recipe, ModelShapes, Plugins], dict[str, Any]]

SECTIONS: Mapping[str, Section] = MappingProxyType(
    {
        "learning_rate": learning_rate,
        # Before `layers`, which puts the adapter on the model.
        "timesteps": timesteps,
        "noise": noise,
        "needs": requirements,
        "layers": layers,
    }
)
"""What a plan holds, in the order that it is computed; another section is one line here."""


def preview(
    recipe: Recipe, plugins: Plugins, *, sections: Mapping[str, Section] = SECTIONS
) -> dict[str, dict[str, Any]]:
    """Return the sections of a recipe's plan, all of them unless said otherwise.

    Raises:
        LobaError: A choice of the recipe cannot be used, or there is no such model.
    """
    if solves(recipe, plugins):  # nothing is trained, so there is nothing to schedule
        sections = {name: section for name, section in sections.items() if name == "needs"}
    shapes = shapes_of(recipe)
    return {name: section(recipe, shapes, plugins) for name, section in sections.items()}


def _noise_levels(
    choice: Choice, num_steps: int, container: ModelContainer, plugins: Plugins
) -> dict[str, Any]:
    scheduler = load_choice("noise", choice, plugins)(container.scheduler_config)
    container.lay_out_steps(scheduler, num_steps, container.latent_shape())
    grid = torch.as_tensor(scheduler.timesteps).double().cpu()
    sigmas = getattr(scheduler, "sigmas", None)
    if sigmas is not None and len(sigmas) >= len(grid):
        sigmas = torch.as_tensor(sigmas).double().cpu()[: len(grid)]
    else:
        kept = scheduler.alphas_cumprod.double().cpu()[grid.round().long().clamp(min=0)]
        sigmas = ((1 - kept) / kept).sqrt()
    return {
        "scheduler": choice.name,
        "num_steps": num_steps,
        "timestep": _finite(grid.tolist()),
        "sigma": _finite(sigmas.tolist()),
    }


def _finite(values: Iterable[float]) -> list[float | None]:
    """Return numbers as JSON can hold them, at more digits than a screen can show."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
