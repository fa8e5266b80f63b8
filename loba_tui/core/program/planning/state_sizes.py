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
from loba_tui.core.program.adapter_files.dora import size_of_files
from loba_tui.core.program.adapter_layers.added import host_named
from loba_tui.core.program.planning.estimate_records import Disk
from loba_tui.core.program.planning.method_calls import MethodCalls
from loba_tui.core.program.training.parameter_groups import build_optimizer
from loba_tui.core.recipe.schema import Recipe

_PICTURE_BYTES_PER_PIXEL = 2.0
"""A PNG of a photograph; a flat drawing is smaller."""
_HEADER_BYTES, _PLAIN_STATE_BYTES = 160, 64 * 1024
"""Of one tensor in a safetensors header, and of a checkpoint's state.json."""
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


def disk_of(
    recipe: Recipe,
    container: ModelContainer,
    *,
    adapter: int,
    trained: int,
    num_tensors: int,
    state: int,
    calls: MethodCalls,
) -> Disk:
    """Return what a run writes into its folder."""
    train, save, sample = recipe.train, recipe.save, recipe.sample
    has_best = save.best is not None and trained > 0
    checkpoint = 4 * trained * (2 if has_best else 1) + state + calls.state_bytes
    # Names, shapes and offsets in headers: of the weights, and about three times in the optimizer.
    checkpoint += _HEADER_BYTES * 4 * num_tensors + _PLAIN_STATE_BYTES
    num_saved = train.steps // save.every if save.every else 1
    # The newest is verified before the oldest goes. What is computed has no checkpoint.
    checkpoints = checkpoint * min(save.keep + 1, max(1, num_saved)) if trained else 0
    side = train.resolution or container.resolution
    per_strip = len(recipe.sample_prompts) * len(sample.seeds) * len(sample.scales)
    num_strips = 1 + (train.steps // sample.every if sample.every and trained else 0)
    proof = len(recipe.proof_prompts) * len(recipe.proof.seeds) * len(sample.scales)
    pictures = num_strips * per_strip + (proof if recipe.proof.enabled else 0)
    samples = int(pictures * side**2 * _PICTURE_BYTES_PER_PIXEL)
    configs = getattr(container.denoiser, "peft_config", {})
    if "default" in configs:
        files = size_of_files(4 * adapter, configs["default"])
    else:  # text encoders alone are changed: by a LoRA that is trained, or by what is computed
        files = 2 * 4 * adapter or text_file_bytes(container)
    files *= 2 if has_best else 1
    return Disk(
        checkpoint=checkpoint,
        checkpoints=checkpoints,
        samples=samples,
        adapter=files,
        needed=checkpoints + samples + files,
    )
