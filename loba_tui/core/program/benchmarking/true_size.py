"""Whether a model of random numbers at its true size can be measured here."""

from __future__ import annotations

import torch

from loba_tui.core.associate.devices import resolve_device, resolve_dtype
from loba_tui.core.associate.model_shapes import ModelShapes, bytes_of, open_shapes
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.benchmarking.alternatives import on_embedded
from loba_tui.core.program.benchmarking.timing import matmul_peak
from loba_tui.core.program.planning.free_resources import free_memory
from loba_tui.core.program.planning.network_costs import pack_shapes
from loba_tui.core.program.planning.simulation import RealDeviceRules, measure
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.units import show_estimate, show_memory
from loba_tui.models import BUILTIN_PREFIX

_SPARE = 1.1
"""A model needs room beside its weights."""
_LIKELY = 4
"""How much longer a step takes than its products at the device's peak: a teacher's rows come to it,
and few networks reach a half of the peak."""
_FORWARDS = 2
"""A trained row's backward pass is as much work as its forward pass: frozen weights have no
gradients."""


def at_true_size(recipe: Recipe, plugins: Plugins, *, most_seconds: float) -> tuple[Recipe, str]:
    """Return the recipe, or the same on an embedded model, and why it is that one.

    Args:
        recipe: What is to be measured.
        plugins: Its drop-ins.
        most_seconds: That a step may take.
    """
    settings = recipe.base_model
    if settings.id.startswith(BUILTIN_PREFIX):
        return recipe, ""
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    shapes = open_shapes(settings.id, settings.revision, dtype, Overrides.of(settings))
    rows = recipe.train.micro_batch_size * recipe.train.gradient_accumulation
    flops = _FORWARDS * rows * _flops_of_a_row(shapes, recipe, device, dtype)
    saved = pack_shapes(shapes.container.denoiser, settings, plugins)
    weights = sum(bytes_of(shapes.modules()[name]) for name in _networks(shapes))
    wanted = {device: weights} if settings.offload == "none" else {}
    if saved or settings.offload != "none":  # what is packed, or waits, is made in main memory
        wanted[torch.device("cpu")] = weights + saved
    for place, needed in wanted.items():
        free = free_memory(place)
        if free is not None and needed * _SPARE > free:
            reason = f"its weights take {show_memory(needed)}, and {show_memory(free)} are free"
            return on_embedded(recipe, shapes), _note(recipe, shapes, reason)
    seconds = flops / matmul_peak(device, dtype).flops_per_second
    if seconds * _LIKELY > most_seconds:
        reason = f"a step takes no less than {show_estimate(seconds)} on this device"
        return on_embedded(recipe, shapes), _note(recipe, shapes, reason)
    return recipe, ""


def _networks(shapes: ModelShapes) -> list[str]:
    """Return the components that stay in memory while a model trains."""
    return [name for name in shapes.modules() if name not in shapes.container.text_encoders]


def _note(recipe: Recipe, shapes: ModelShapes, reason: str) -> str:
    model = on_embedded(recipe, shapes).base_model.id.removeprefix(BUILTIN_PREFIX)
    family = shapes.container.family
    return f"Not at the size of {family}: {reason}. The embedded {model} was measured instead."


def _flops_of_a_row(
    shapes: ModelShapes, recipe: Recipe, device: torch.device, dtype: torch.dtype
) -> int:
    container = shapes.container
    latents = torch.zeros(1, *container.latent_shape(recipe.train.resolution), device="meta")
    times = torch.zeros(1, dtype=torch.int64, device="meta")
    autocast = None if dtype == torch.float32 else dtype
    return measure(
        lambda: container.predict(latents, times, container.empty_embeds()),
        with_grad=False,
        rules=RealDeviceRules(autocast=autocast, device_type=device.type),
    ).flops
