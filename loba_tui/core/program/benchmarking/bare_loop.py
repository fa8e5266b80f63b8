"""A training loop as one writes it by hand, over the calls that a recipe's step makes.

The network, the PEFT adapter, the rows and the inputs are the recipe's; what is left out is all
that the trainer does besides. So the ratio of both is what the trainer costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.benchmarking.subject import Models, Subject
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.writer import Records


@dataclass(frozen=True)
class DenoiserCall:
    """One call of the denoiser, as it was made."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    with_grad: bool


def record_calls(subject: Subject) -> list[DenoiserCall]:
    """Make a step and return its calls of the denoiser, with copies of what they were given."""
    calls: list[DenoiserCall] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Gradient checkpointing calls parts of the denoiser again, never the whole.
        calls.append(
            DenoiserCall(tree_map(_copy, args), tree_map(_copy, kwargs), torch.is_grad_enabled())
        )

    hook = subject.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    try:
        subject.step()
    finally:
        hook.remove()
    return calls


def make_bare_loop(
    recipe: Recipe, calls: Sequence[DenoiserCall], models: Models, plugins: Plugins
) -> Callable[[], None]:
    """Return one step of the loop, on a model of its own."""
    model = models.open(recipe, Records())
    denoiser = model.container.denoiser
    attach_adapter(recipe, model.container, plugins)
    denoiser.train()
    layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    parameters = [each for each in denoiser.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.optimizer.lr)
    dtype, device_type = model.container.dtype, model.container.device.type

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(device_type, dtype, enabled=dtype != torch.float32)

    def step() -> None:
        for call in calls:
            if call.with_grad:
                with autocast():
                    output = denoiser(*call.args, **call.kwargs)
                _mean_square(output).backward()
                continue
            _switch(layers, is_off=True)
            with torch.no_grad(), autocast():
                denoiser(*call.args, **call.kwargs)
            _switch(layers, is_off=False)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.train.max_grad_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()

    return step


def _switch(layers: Sequence[BaseTunerLayer], *, is_off: bool) -> None:
    """Switch the adapter by PEFT's own flag, without its walk over every parameter."""
    for layer in layers:
        layer._disable_adapters = is_off


def _mean_square(output: Any) -> Tensor:
    first = output[0]
    tensors = first if isinstance(first, list | tuple) else [first]
    return torch.stack([each.float().square().mean() for each in tensors]).mean()


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
