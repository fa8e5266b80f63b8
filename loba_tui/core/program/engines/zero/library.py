"""DeepSpeed, loaded by a run that asks for it and by nothing else.

Importing it takes seconds, and it looks for accelerators by itself. So it is imported in functions.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

from loba_tui.core.errors import ResourceError

INSTALL = "DS_BUILD_OPS=0 pip install 'loba-trainer[deepspeed]'"


def load_deepspeed(device_type: str) -> Any:
    """Return the package `deepspeed`, set up for the kind of device that the run computes on.

    Raises:
        ResourceError: It is not installed, or was set up for another kind of device before.
    """
    # It would take a GPU that the recipe does not name, and warn where it finds none.
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    try:
        deepspeed = importlib.import_module("deepspeed")
    except ImportError as error:
        raise ResourceError(
            f"parallel.engine: deepspeed needs DeepSpeed: {error}", f"Install it: {INSTALL}"
        ) from error
    taken = deepspeed.accelerator.get_accelerator().device_name()
    if taken != device_type:
        raise ResourceError(
            f"DeepSpeed would compute on {taken}, and this run does on {device_type}",
            f"Unset DS_ACCELERATOR, or set it to {device_type}.",
        )
    deepspeed.logger.setLevel(logging.WARNING)
    # On a CPU it would compile an all-reduce in shared memory at the first start, for minutes. A
    # compiler that is killed leaves a lock on which each later start waits for ever.
    importlib.import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def configuration(stage: int, *, offload: bool, kept_whole: int = 0) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a ZeRO stage.

    Args:
        offload: Whether what the stage divides waits in main memory.
        kept_whole: Elements up to which a weight stays whole at stage 3, once it was gathered.
    """
    zero: dict[str, Any] = {"stage": stage}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = kept_whole
        # It would replace torch.nn.functional.linear for good, by one that rounds differently.
        zero["memory_efficient_linear"] = False
    if offload:
        zero["offload_param" if stage == 3 else "offload_optimizer"] = {"device": "cpu"}
    return {
        # DeepSpeed never sees a batch; it asks for its size all the same.
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
