"""Compiled blocks: what a denoiser repeats is compiled once and runs as few, larger kernels.

Whole UNets take minutes to compile, and again for each new shape; their repeated blocks alone take
seconds and are most of the work (regional compilation,
https://docs.pytorch.org/tutorials/recipes/regional_compilation.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale

# A block is compiled for each width of the network, with and without gradients and adapter.
_MOST_FORMS = 64


def compile_blocks(
    denoiser: nn.Module,
    scale: AdapterScale | NoScale,
    mode: Literal["none", "blocks", "graphs"],
    *,
    backend: str = "inductor",
) -> None:
    """Compile the blocks that a denoiser repeats, in place; they compile when they are first run.

    Args:
        mode: "blocks" compiles them; "graphs" replays them as CUDA graphs too, where there is CUDA.

    Raises:
        RecipeError: The denoiser repeats no block, or its adapter is of a kind that is switched and
            scaled in ways that a compiled block cannot follow.
    """
    if mode == "none":
        return
    if isinstance(scale, AdapterScale):
        if not scale.casts_itself:
            raise RecipeError(
                "train.compile: only LoRA and LoCon can be compiled",
                "Use train.compile: none with this adapter.",
            )
        scale.multipliers.is_compiled = True
    blocks = list(repeated_blocks(denoiser))
    if not blocks:
        raise RecipeError(
            f"train.compile: {type(denoiser).__name__} repeats no block", "Use train.compile: none."
        )
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_FORMS)
    on_cuda = next(denoiser.parameters()).device.type == "cuda"
    options = {"triton.cudagraphs": True} if mode == "graphs" and on_cuda else None
    for block in blocks:
        # Sizes are left open: batches end with a smaller one, and pictures have other sizes.
        block.compile(backend=backend, dynamic=True, options=options)


def repeated_blocks(denoiser: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules that diffusers says are repeated, or those of its longest list."""
    names = getattr(denoiser, "_repeated_blocks", None)
    if not names:
        lists = [module for module in denoiser.modules() if isinstance(module, nn.ModuleList)]
        kinds = Counter(type(block).__name__ for blocks in lists for block in blocks)
        names = [name for name, count in kinds.most_common(1) if count > 1]
    for module in denoiser.modules():
        if type(module).__name__ in names:
            yield module


def begin_step() -> None:
    """Tell CUDA graphs that a step begins: what the last one returned may be written over."""
    torch.compiler.cudagraph_mark_step_begin()
