"""How exact training is: the same bits each time, or kernels that differ in the last of them.

`train.exactness: exact` promises that a recipe trains the same bits again on the same machine, and
that a resumed run ends as one that never stopped. `fast` takes what is quicker and does not: TF32,
kernels chosen by trial, one kernel for all weights of an optimizer, and sums in another order.
"""

from __future__ import annotations

import torch
from torch import nn

from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.kernels.compiling import compile_blocks
from loba_tui.core.recipe.schema import TrainSection


def set_exactness(train: TrainSection, device: torch.device) -> None:
    """Set up torch as a recipe asks; the CPU's kernels are exact anyway."""
    if device.type != "cuda":
        return
    is_exact = train.exactness == "exact"
    torch.use_deterministic_algorithms(is_exact, warn_only=True)
    # It fills all fresh memory with a value, 1,700 times a step of SD-XL, in case that somebody
    # reads what nobody has written.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = not is_exact
    torch.set_float32_matmul_precision("highest" if is_exact else "high")


def lay_out(denoiser: nn.Module, scale: AdapterScale | NoScale, train: TrainSection) -> None:
    """Have a denoiser compute as exactly, and as compiled, as the recipe asks.

    Raises:
        RecipeError: The denoiser or its adapter cannot be compiled.
    """
    if train.exactness == "fast":
        _lay_out_for_speed(denoiser, scale)
    compile_blocks(denoiser, scale, train.compile)


def _lay_out_for_speed(denoiser: nn.Module, scale: AdapterScale | NoScale) -> None:
    if any(isinstance(module, nn.Conv2d) for module in denoiser.modules()):
        denoiser.to(memory_format=torch.channels_last)
    if isinstance(scale, AdapterScale):
        scale.multipliers.is_fast = True


def autocast_dtype(
    denoiser: nn.Module, scale: AdapterScale | NoScale, dtype: torch.dtype
) -> torch.dtype | None:
    """Return the precision that training casts to; None where all computes in it by itself."""
    is_needed = dtype != torch.float32 and not computes_in_one_dtype(denoiser, scale)
    return dtype if is_needed else None


def computes_in_one_dtype(denoiser: nn.Module, scale: AdapterScale | NoScale) -> bool:
    """Say whether the model's own weights are of one dtype, and its adapter casts itself to it."""
    own = {p.dtype for p in denoiser.parameters() if p.is_floating_point() and not p.requires_grad}
    return len(own) == 1 and (isinstance(scale, NoScale) or scale.casts_itself)
