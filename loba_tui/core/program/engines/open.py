"""The engine of a recipe, and the Accelerator that it works with."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from loba_tui.core.associate.devices import resolve_device, resolve_dtype
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.engines.base import Engine
from loba_tui.core.program.engines.ddp import Ddp
from loba_tui.core.program.engines.fsdp2 import Fsdp2
from loba_tui.core.program.engines.sequence_parallel.engine import SequenceParallel
from loba_tui.core.program.engines.zero.library import load_deepspeed
from loba_tui.core.program.engines.zero.sharded_base import ShardedBase
from loba_tui.core.program.engines.zero.shared_states import SharedStates
from loba_tui.core.program.peers.group import forming_a_group, group_options
from loba_tui.core.program.processes import Processes
from loba_tui.core.recipe.schema import Recipe

_MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def open_engine(recipe: Recipe, *, local_rank: int = 0) -> Engine:
    """Return the engine that `parallel` names, with device, precision and processes.

    One process alone has nothing to share, whatever it names.

    Raises:
        ResourceError: The recipe's device is not there, or DeepSpeed is not installed.
        RecipeError: So many processes cannot be divided as the recipe says.
    """
    parallel = recipe.parallel
    accelerator = build_accelerator(recipe, local_rank=local_rank)
    _refuse_odd_groups(recipe, accelerator.num_processes)
    processes = Processes(accelerator, sequence_size=parallel.sequence_size)
    if parallel.engine == "deepspeed":
        return _deepspeed(recipe, accelerator, processes)
    if parallel.sequence_size > 1:
        return SequenceParallel(accelerator, processes, recipe)
    shards = parallel.engine == "fsdp2" and processes.num > 1
    return (Fsdp2 if shards else Ddp)(accelerator, processes)


def _deepspeed(recipe: Recipe, accelerator: Accelerator, processes: Processes) -> Engine:
    stage, offload = recipe.parallel.stage, recipe.parallel.cpu_offload
    if processes.num == 1:
        if offload:
            raise RecipeError(
                "parallel.cpu_offload takes several processes, and this run has one",
                "Start more of them, or take base_model.offload: blocks.",
            )
        load_deepspeed(accelerator.device.type)  # one that is missing is said at once
        return Ddp(accelerator, processes)
    if stage == 3:
        return ShardedBase(accelerator, processes, offload=offload)
    return SharedStates(accelerator, processes, stage=stage, offload=offload)


def build_accelerator(recipe: Recipe, *, local_rank: int = 0) -> Accelerator:
    """Return the Accelerator that carries device, precision, accumulation and processes.

    Raises:
        ResourceError: The recipe's device is not there.
        PeerLost: Not all processes of the run came together.
    """
    device = resolve_device(recipe.base_model.device, local_rank=local_rank)
    if device.type == "cuda":
        # Accelerate takes the current device; a recipe may name another than the first.
        torch.cuda.set_device(device)
    with forming_a_group():
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=_MIXED_PRECISION[resolve_dtype(recipe.base_model.dtype, device)],
            gradient_accumulation_steps=recipe.train.gradient_accumulation,
            kwargs_handlers=[group_options(recipe.parallel.timeout)],
        )


def _refuse_odd_groups(recipe: Recipe, num_processes: int) -> None:
    size = recipe.parallel.sequence_size
    if num_processes % size:
        raise RecipeError(
            f"parallel.ulysses × parallel.ring is {size}, which does not divide the"
            f" {num_processes} processes of this run",
            "Start a multiple of it, or make the groups smaller.",
        )
