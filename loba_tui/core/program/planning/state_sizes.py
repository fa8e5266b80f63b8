"""Bytes of optimizer state and of files, exact where the run's own code can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.added import host_named
from loba_tui.core.program.training.parameter_groups import build_optimizer
from loba_tui.core.recipe.schema import Recipe

_ADAM_BYTES = 8
"""State of a parameter under Adam in float32: two moments."""


def optimizer_state_bytes(
    recipe: Recipe, shapes: Sequence[torch.Size], plugins: Plugins
) -> tuple[int, bool]:
    """Return the bytes of an optimizer's state over float32 parameters of these shapes.

    The optimizer itself makes one step on one small parameter of each distinct shape, and what it
    keeps is counted: so factored, quantised and averaging optimizers need no table.

    The second value is whether they are measured: an optimizer that does not run here is taken for
    Adam.
    """
    counts = Counter(shapes)
    parameters = {shape: nn.Parameter(torch.zeros(shape, device="cpu")) for shape in counts}
    try:
        optimizer = build_optimizer(recipe, [{"params": list(parameters.values())}], plugins)
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    except (RuntimeError, ImportError, AttributeError, LobaError):
        return _ADAM_BYTES * sum(shape.numel() for shape in shapes), False
    state = optimizer.state
    sizes = {shape: state_bytes(state.get(parameter)) for shape, parameter in parameters.items()}
    # Some, as Prodigy, keep an estimate for a whole group.
    shared = [
        value for group in optimizer.param_groups for key, value in group.items() if key != "params"
    ]
    return sum(sizes[shape] * count for shape, count in counts.items()) + state_bytes(shared), True


def state_bytes(state: Any) -> int:
    """Return the bytes of all tensors in a parameter's state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, list | tuple):
        return sum(state_bytes(value) for value in state)
    return 0


def text_file_bytes(container: ModelContainer) -> int:
    """Return the size of the files of a method that changes text encoders alone."""
    numbers = 0
    for output in container.text_outputs():
        encoder = getattr(container.pipeline, output.component)
        names = [name for name in (output.linear, output.projection) if name is not None]
        for module in (host_named(encoder, name) for name in names):
            # A LoRA of rank 1 in two files, and a bias.
            numbers += 2 * (module.in_features + module.out_features) + module.out_features
    return 4 * numbers
