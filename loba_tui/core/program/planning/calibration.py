"""How long a run takes, from a few of its own calls: only where the model is here and small."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.kernels.exactness import autocast_dtype
from loba_tui.core.program.pipeline_wrapper import PipelineWrapper
from loba_tui.core.program.planning.estimate_records import Estimate, Work
from loba_tui.core.program.planning.method_calls import Call, attach_adapter_or_bound
from loba_tui.core.recipe.schema import Recipe

MAX_PARAMETERS = 100_000_000
"""Of a denoiser that is worth loading for it; a larger one takes longer to load than it tells."""
_REPEATS = 5

TIME_UNKNOWN = "The time is unknown without a calibration, which only small local models get."


def can_calibrate(estimate: Estimate, recipe: Recipe, *, is_here: bool) -> bool:
    """Return whether the recipe's model is small, with its weights and its device at hand."""
    is_local = estimate.origin == "local" or Path(recipe.base_model.id).exists()
    return is_here and is_local and max(estimate.parameters.values()) <= MAX_PARAMETERS


def calibrate(recipe: Recipe, estimate: Estimate, plugins: Plugins) -> Work:
    """Load the model, time the calls of one step, and return the work with seconds."""
    settings = recipe.base_model
    threads = torch.get_num_threads()
    container = PipelineWrapper.of(settings, plugins).load()
    try:
        attach_adapter_or_bound(recipe, container, plugins)
        has_adapter = bool(getattr(container.denoiser, "peft_config", None))
        scale = AdapterScale(container.denoiser) if has_adapter else NoScale()
        shape = container.latent_shape(recipe.train.resolution)
        # Without a step there are only pictures, drawn in batches.
        pictures = (Call(2 * recipe.sample.batch_size, with_grad=False),)
        step = next((s for s in estimate.calls.later if any(c.with_grad for c in s)), pictures)
        seconds = {call: _seconds(container, scale, shape, call) for call in dict.fromkeys(step)}
    finally:
        torch.set_num_threads(threads)
    work, calls = estimate.work, estimate.calls

    def per_row(*, with_grad: bool) -> float:
        taken = [(call, value) for call, value in seconds.items() if call.with_grad == with_grad]
        rows = sum(call.rows for call, _ in taken)
        return sum(value for _, value in taken) / rows if rows else 0.0

    micro_step = sum(
        calls.rows_per_step(with_grad=with_grad) * per_row(with_grad=with_grad)
        for with_grad in (True, False)
    )
    seconds_per_step = micro_step * recipe.train.gradient_accumulation
    # A method on images has no call without a backward pass, which takes as long as two of them.
    forward = per_row(with_grad=False) or per_row(with_grad=True) / 3
    drawn = (work.warm_up_rows + work.sample_rows + work.validation_rows) * forward
    num_steps = recipe.train.steps + work.extra_steps
    return replace(
        work,
        seconds_per_step=seconds_per_step,
        seconds=(num_steps * seconds_per_step if micro_step else 0.0) + drawn,
    )


def _seconds(
    container: ModelContainer, scale: AdapterScale | NoScale, shape: tuple[int, ...], call: Call
) -> float:
    """Return the median time of a call on latents of a shape, the first one left out."""
    device, dtype = container.device, container.dtype
    autocast = autocast_dtype(container.denoiser, scale, dtype)
    taken = []
    for _ in range(1 + _REPEATS):
        begin = time.perf_counter()
        scale.set(torch.ones(call.rows, device=device))
        with (
            torch.set_grad_enabled(call.with_grad),
            torch.autocast(device.type, dtype, enabled=autocast is not None),
        ):
            output = container.predict(
                torch.zeros((call.rows, *shape), device=device),
                torch.full((call.rows,), 500, device=device),
                container.empty_embeds().select([0] * call.rows),
            )
        if call.with_grad:
            output.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[1:])
